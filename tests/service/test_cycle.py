"""``build-bank --cycle-ms``: the line's time decides on the input size, and the bank brings its own model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bank_tools.bench import operating_points
from edge_uad.cli import app
from edge_uad.errors import UsageError
from edge_uad.inference.bank import read_manifest
from edge_uad.runtime.assemble import model_of_bank
from edge_uad.runtime.cache import VARIANTS_FOLDER
from tests.conftest import edge_uad

SMALL_PX = (112, 56)


@pytest.fixture(autouse=True)
def _small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real weights at sizes that take no minute."""
    monkeypatch.setattr(operating_points, "SIZES_PX", SMALL_PX)
    monkeypatch.setattr(operating_points, "N_RUNS", 3)


def built(*arguments: object) -> str:
    """What the command says; it raises what a terminal would be told in a sentence."""
    done = CliRunner().invoke(app, ["build-bank", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return " ".join(done.stderr.split())


@pytest.mark.usefixtures("default_model")
def test_the_finest_that_fits_is_taken_and_every_command_finds_its_model(
    good_parts: Path, scratched_parts: Path, tmp_path: Path
) -> None:
    bank = tmp_path / "bank.safetensors"
    said = built(good_parts, "--out", bank, "--cycle-ms", 100_000, "--false-alarm-rate", 0.05)
    assert "for 100000 ms: 112 px in" in said
    assert "there is nothing finer; the next coarser, 56 px in" in said
    manifest = read_manifest(bank)
    assert (manifest.cycle_ms, manifest.grid_hw) == (100_000, (8, 8))
    model = model_of_bank(bank)
    assert model is not None
    assert model.parent.name == VARIANTS_FOLDER
    done = edge_uad("inspect", scratched_parts, "--bank", bank, "--json")
    assert {json.loads(line)["decision"] for line in done.stdout.splitlines()} == {"anomalous"}


@pytest.mark.usefixtures("default_model")
def test_a_cycle_that_nothing_fits_is_refused_with_what_would_fit(good_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no input size fits a cycle of 0\.001 ms on this machine.*at least \d+ ms"):
        built(good_parts, "--out", tmp_path / "bank.safetensors", "--rate-hz", 1_000_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--cycle-ms", 100, "--rate-hz", 10), "--cycle-ms and --rate-hz say the same; give one of them"),
        (("--cycle-ms", 0), "--cycle-ms is 0; give a number above 0"),
        (("--rate-hz", -3), "--rate-hz is -3; give a number above 0"),
        (("--cycle-ms", 100, "--provider", "cuda"), "--cycle-ms is for the processor; leave --provider out"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    options: tuple[object, ...], expected: str, good_parts: Path, tmp_path: Path
) -> None:
    done = edge_uad("build-bank", good_parts, "--out", tmp_path / "b.safetensors", *options, expect=2)
    assert done.stderr == f"edge-uad: {expected}\n"


def test_a_model_without_a_name_cannot_be_exported_at_other_sizes(
    tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    asked = ("build-bank", good_parts, "--out", tmp_path / "b.safetensors", "--cycle-ms", 100, "--model", tiny_model)
    assert "whose weights edge-uad cannot find by name" in edge_uad(*asked, expect=2).stderr
