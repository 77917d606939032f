"""docs/performance.md is made of what the benchmarks leave, and says which goals were met."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from bank_tools.report.charts import LineChart, Spread
from benchmarks.performance import BENCHMARKS, ROOT, markdown_table, write
from benchmarks.report import Report, Table

pytest.importorskip("torch", reason="the [export] extra is not installed")


def left_by(folder: Path) -> dict[str, Any]:
    """What a benchmark leaves behind."""
    report = Report(name="line", title="One line", about="As measured.")
    report.add(Table("stages", ("stage", "ms"), [("decode", "1.5"), ("search | best", "12.25")], note="Of one frame."))
    rate = {"one line": [Spread(1, 1, 1), Spread(2, 2, 2)]}
    title = "rate against stations"
    report.plot("rate.svg", LineChart(x=[1, 2], series=rate, x_label="stations", y_label="frames/s", title=title))
    report.plot("nothing.svg", LineChart(x=[1], series={"one line": [None]}, x_label="stations", y_label="frames/s"))
    report.facts["goals"] = {"latency over the bare backbone's": [1.2, "<=", 1.1], "rate": [0.97, ">=", 0.95]}
    report.close(argparse.Namespace(json=folder / "line.json", out=folder))
    result: dict[str, Any] = json.loads((folder / "line.json").read_text(encoding="utf-8"))
    return result | {"quick": False, "others_share": 0.02, "whole_s": 130.0}


def test_the_page_shows_every_table_and_picture_and_names_the_machine(tmp_path: Path) -> None:
    results = {"line": left_by(tmp_path / "build")}
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance" / "stale.svg").write_text("<svg/>")

    write(tmp_path / "performance.md", results, tmp_path / "build")

    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    for shown in (
        "instruction sets",
        "onnxruntime",
        "took 2.2 minutes",
        "## One line",
        "Of one frame.",
        "other programs took 2%",
    ):
        assert shown in page
    assert "![rate against stations](performance/rate.svg)" in page
    assert [file.name for file in (tmp_path / "performance").iterdir()] == ["rate.svg"]


def test_the_page_says_of_each_goal_whether_it_was_met(tmp_path: Path) -> None:
    write(tmp_path / "performance.md", {"line": left_by(tmp_path / "build")}, tmp_path / "build")

    rows = [line for line in (tmp_path / "performance.md").read_text(encoding="utf-8").splitlines() if "at " in line]
    assert any("1.200" in row and "at most 1.1" in row and "not met" in row for row in rows)
    assert any("0.970" in row and "at least 0.95" in row and "not met" not in row for row in rows)


def test_tables_are_aligned_in_the_source_and_a_bar_is_no_column() -> None:
    lines = markdown_table(("stage", "ms"), [("a | b", "1.5"), ("decode", "12.25")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "a \\| b" in lines[2]
    assert lines[1].endswith(":|") or lines[1].endswith(": |")


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if (ROOT / "benchmarks" / f"{name}.py").is_file()])
def test_every_benchmark_of_the_page_can_be_started(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").main)
