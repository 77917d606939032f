"""What ``bench --frontier`` says and draws of points that were measured."""

import importlib.util

import pytest

from bank_tools.bench.clock import Timing
from bank_tools.bench.operating_points import OperatingPoint
from edge_uad.cli import frontier
from tests.conftest import edge_uad

POINTS = [
    OperatingPoint(input_px=448, precision="fp32", timing=Timing(15, 400.0, 420.0)),
    OperatingPoint(input_px=448, precision="int8", timing=Timing(15, 200.0, 210.0)),
    OperatingPoint(input_px=60, precision="fp32", timing=Timing(15, 10.0, 11.0)),
]


def test_a_row_has_the_time_and_what_the_size_caught() -> None:
    first, _, unknown = frontier._table(POINTS).rows
    assert first[:4] == ("448 px, fp32", "400.0", "420.0", "2.5")
    assert all(0 <= float(figure) <= 1 for figure in first[4:])
    assert unknown[4:] == ("-", "-")  # a size that the league does not know


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the [evaluate] extra is not installed")
def test_the_picture_has_a_line_for_each_precision_and_a_level_for_each_size() -> None:
    from bank_tools.report.figures import svg_of  # noqa: PLC0415  (after the skip)

    chart = frontier._chart(POINTS)
    assert list(chart.series) == ["fp32", "int8"]
    assert list(chart.references) == ["448 px"]
    assert chart.x == [2.5, 5.0]
    assert svg_of(chart).startswith(b"<?xml")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--chart", "x.svg"), "--chart is the picture of --frontier; give both"),
        (("--frontier", "--provider", "cuda"), "--frontier is measured on the processor; leave --provider out"),
        (("--frontier", "--chart", "no/such/x.svg"), "no picture can be written to no/such/x.svg: there is no folder"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(options: tuple[str, ...], expected: str) -> None:
    done = edge_uad("bench", *options, expect=2)
    assert done.stderr.startswith(f"edge-uad: {expected}")
    assert done.stderr.count("\n") == 1


def test_the_json_names_the_sets() -> None:
    assert frontier._sets()
    assert frontier._row(POINTS[0])["rate_hz"] == 2.5
