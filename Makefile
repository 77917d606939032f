# Everything a newcomer runs. `make demo` and `make test` need nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 10
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup model demo test fuzz lint format types imports soak performance accuracy wheel-smoke check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "edge-uad needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); set PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[export,evaluate,modbus,openvino,cluster]' --group dev
	@touch $@

setup: $(INSTALLED) ## the environment, in .venv

model: $(INSTALLED) ## the default backbone, fetched and exported into the cache
	$(BIN)/python -m export.default

demo: $(INSTALLED) ## build a bank, inspect a stream of real frames, leave overlays and a report in demo/
	$(BIN)/python examples/demo.py

# a file's tests stay on one worker, so that what a module sets up is made once
test: $(INSTALLED) ## every test, on all cores
	$(BIN)/python -m pytest -n auto --dist loadfile

FUZZ_S ?= 25
fuzz: $(INSTALLED) ## what comes from outside, fuzzed for a minute; FUZZ_S=25 seconds for each target
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group fuzz
	@for target in frames banks; do \
	  mkdir -p build/fuzz/$$target; \
	  $(BIN)/python -m tests.fuzz.$$target -max_total_time=$(FUZZ_S) -max_len=4096 -len_control=0 -print_final_stats=1 \
	    -verbosity=0 -artifact_prefix=build/fuzz/ build/fuzz/$$target || exit 1; \
	done

lint: $(INSTALLED) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## put the code into ruff's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(INSTALLED) ## mypy --strict
	$(BIN)/mypy

imports: $(INSTALLED) ## the layers, by import-linter
	$(BIN)/lint-imports

soak: $(INSTALLED) ## a daemon of four stations under random faults: make soak MINUTES=60 JSON=soak.json
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

performance: $(INSTALLED) ## docs/performance.md, measured on this machine: leave it alone meanwhile; QUICK=1 tries it
	$(BIN)/python -m benchmarks.performance $(if $(QUICK),--quick) $(addprefix --set ,$(PRECISION_SETS))

SETS ?= $(wildcard ../shared/data/*/)
# evaluate's own, such as OPTIONS='--candidate "fine: input=448" --seeds 5 --draw 0.8 --out evaluation/fine'
OPTIONS ?=
accuracy: $(INSTALLED) ## the league: every candidate on every dataset: make accuracy SETS="folder folder" OPTIONS='…'
	@test -n "$(strip $(SETS))" || \
	  { echo 'make accuracy: there is no dataset in ../shared/data; name some: make accuracy SETS="folder folder"'; exit 2; }
	$(BIN)/python -m edge_uad evaluate $(SETS) $(OPTIONS)

wheel-smoke: $(INSTALLED) ## build the wheel, use it in an environment without torch
	PYTHON=$(PYTHON) BUILD_PYTHON=$(BIN)/python .ci/wheel-smoke

check: test lint types imports fuzz wheel-smoke ## all that CI runs

clean: ## everything that make made, but not the cache
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
