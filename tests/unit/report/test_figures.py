"""A chart plots the numbers it was given, read back from matplotlib's Axes; what could not be computed is a gap."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch

from bank_tools.report.charts import (
    BarChart,
    Chart,
    Histogram,
    Intervals,
    LineChart,
    RocCurve,
    Scatter,
    Spread,
    Strips,
)
from bank_tools.report.figures import MARKERS, PALETTE, figure_of, svg_of

HOSTILE = (
    "<script>alert(1)</script>",
    "$x^2 \\frac$",
    "a\x1b[31mb",
    "caf\udce9",
    "\u202egnp.exe",
    "]]>&amp;",
    "x" * 500,
)
SVG = "{http://www.w3.org/2000/svg}"


def same(value: float) -> Spread:
    return Spread(value, value, value)


def axes_of(chart: Chart) -> Axes:
    (axes,) = figure_of(chart).axes
    return axes


def plotted(chart: Chart) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of every named line."""
    lines = [line for line in axes_of(chart).lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in lines}


def legend(chart: Chart) -> list[str]:
    return [text.get_text() for one in figure_of(chart).legends for text in one.get_texts()]


def written(chart: Chart) -> list[str]:
    """Every text of the SVG file, which must be well-formed."""
    root = ET.fromstring(svg_of(chart))  # noqa: S314  # our own text
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def hostile_charts(name: str) -> Iterator[Chart]:
    yield Histogram(scores={name: [0.1, 0.2]}, threshold=0.15, title=name)
    yield RocCurve(points=[(0, 0), (1, 1)], auroc=0.5, title=name)
    yield LineChart(
        x=[1, name], series={name: [same(1), same(2)]}, x_label=name, y_label=name, references={name: 1.5}, title=name
    )
    yield BarChart(groups=[name], series={name: [same(1)]}, x_label=name, title=name)
    yield Scatter(groups={name: [(0.0, 1.0)]}, title=name)
    yield Strips(rows=[(name, name, [0.5, 1.5])], x_label=name, title=name)
    yield Intervals(rows=[(name, Spread(0.1, 0.0, 0.2), True)], x_label=name, title=name)


def test_strips_have_a_tick_for_each_score_on_the_row_of_its_name() -> None:
    rows = [("default", "good", [0.4, 0.9]), ("", "rejects", [1.5]), ("fine", "good", [0.3]), ("", "rejects", [])]
    chart = Strips(rows=rows, x_label="score over the threshold")
    assert plotted(chart) == {"good": ([0.4, 0.9, 0.3], [0, 0, 2]), "rejects": ([1.5], [1])}
    assert [text.get_text() for text in axes_of(chart).get_yticklabels()] == ["default", "", "fine", ""]


def test_intervals_have_their_ends_and_what_stands_out_another_colour() -> None:
    chart = Intervals(
        rows=[("near", Spread(0.1, -0.1, 0.2), False), ("far", Spread(0.3, 0.2, 0.4), True)], x_label="AUROC gain"
    )
    segments = [one.get_segments()[0].tolist() for one in axes_of(chart).collections]
    assert segments == [[[-0.1, 0], [0.2, 0]], [[0.2, 1], [0.4, 1]]]
    points = [line for line in axes_of(chart).lines if line.get_marker() in MARKERS]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in points] == [([0.1], [0]), ([0.3], [1])]
    assert len({line.get_color() for line in points}) == 2


def test_a_histogram_counts_every_score_of_every_group() -> None:
    good, bad = [0.1, 0.12, 0.2], [0.4, 0.5, 0.5, 0.9]
    chart = Histogram(scores={"good": good, "anomalous": bad}, threshold=0.3)
    steps = {str(one.get_label()): one.get_data() for one in axes_of(chart).patches if isinstance(one, StepPatch)}

    for name, scores in {"good": good, "anomalous": bad}.items():
        counts = np.histogram(scores, steps[name].edges)[0]
        np.testing.assert_array_equal(steps[name].values, counts)
        assert counts.sum() == len(scores)
    assert legend(chart) == ["good", "anomalous"]


def test_a_histogram_marks_the_threshold_and_leaves_room_on_both_sides() -> None:
    axes = axes_of(Histogram(scores={"good": [0.2, 0.3]}, threshold=0.5))
    (line,) = axes.lines
    assert list(line.get_xdata()) == [0.5, 0.5]
    low, high = axes.get_xlim()
    assert low < 0.2
    assert high > 0.5
    assert "threshold 0.5000" in [text.get_text() for text in axes.texts]


def test_scores_of_zero_alone_still_make_a_histogram() -> None:
    axes = axes_of(Histogram(scores={"good": [0.0, 0.0], "anomalous": []}, threshold=0.0))
    assert sum(one.get_data().values.sum() for one in axes.patches if one.get_label() == "good") == 2
    assert axes.get_xlim()[1] > 0


def test_a_roc_curve_is_drawn_as_computed_and_states_its_area() -> None:
    points = [(0.0, 0.0), (0.0, 0.5), (0.25, 0.75), (1.0, 1.0)]
    axes = axes_of(RocCurve(points=points, auroc=0.75))
    drawn = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.lines]
    assert points in drawn
    assert "AUROC 0.7500" in [text.get_text() for text in axes.texts]


def test_a_line_chart_plots_means_and_spreads() -> None:
    spreads = [Spread(0.8, 0.7, 0.9), Spread(0.85, 0.8, 0.9), Spread(0.9, 0.9, 0.95)]
    chart = LineChart(x=[1, 2, 5], series={"cookies": spreads}, x_label="good images", y_label="AUROC", log_x=True)
    axes = axes_of(chart)

    assert plotted(chart) == {"cookies": ([1, 2, 5], [0.8, 0.85, 0.9])}
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("good images", "AUROC")
    band, *_ = axes.collections
    corners = {tuple(corner) for path in band.get_paths() for corner in path.vertices}
    assert {(1, 0.7), (1, 0.9), (2, 0.8), (2, 0.9), (5, 0.9), (5, 0.95)} <= corners
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "5"]


def test_what_could_not_be_computed_is_a_gap_and_not_a_zero() -> None:
    value = same(0.9)
    chart = LineChart(x=[1, 2, 3, 4, 5], series={"mtd": [value, value, None, value, value]}, x_label="x", y_label="y")

    np.testing.assert_array_equal(plotted(chart)["mtd"][1], [0.9, 0.9, np.nan, 0.9, 0.9])
    bands = [one for one in axes_of(chart).collections if one.get_paths()[0].vertices.shape[0] > 4]
    assert len(bands) == 2


def test_a_sweep_with_a_word_among_its_values_is_spaced_evenly() -> None:
    chart = LineChart(x=[0.1, 0.2, "soft"], series={"mtd": [same(0.9)] * 3}, x_label="threshold", y_label="AUROC")
    x, _ = plotted(chart)["mtd"]
    assert x[1] - x[0] == x[2] - x[1]
    assert [text.get_text() for text in axes_of(chart).get_xticklabels()] == ["0.1", "0.2", "soft"]


def test_published_numbers_are_lines_inside_the_frame() -> None:
    chart = LineChart(
        x=[1, 2], series={"ours": [same(0.9)] * 2}, x_label="x", y_label="y", references={"paper": 0.9932}
    )
    axes = axes_of(chart)
    low, high = axes.get_ylim()
    assert [0.9932, 0.9932] in [list(line.get_ydata()) for line in axes.lines]
    assert low < 0.9
    assert high > 0.9932
    assert "paper 0.9932" in [text.get_text() for text in axes.texts]


def test_axes_begin_at_zero_or_are_logarithmic_where_that_is_requested() -> None:
    spreads = [same(5), same(10), same(20_000)]
    shared = {"x": [1, 2, 3], "series": {"rate": spreads}, "x_label": "stations", "y_label": "frames/s"}
    assert axes_of(LineChart(**shared, from_zero=True)).get_ylim()[0] == 0
    logarithmic = axes_of(LineChart(**shared, log_y=True))
    assert logarithmic.get_yscale() == "log"
    assert axes_of(LineChart(x=[0, 1], series={"a": [same(0), same(1)]}, x_label="x", y_label="y",
                             log_x=True, log_y=True)).get_yscale() == "linear"  # fmt: skip


def test_every_group_of_a_scatter_has_its_points_and_a_sign_that_no_other_has() -> None:
    groups = {f"kind {index}": [(float(index), float(index**2)), (0.0, 1.0)] for index in range(28)}
    chart = Scatter(groups=groups, title="nut")
    lines = [line for line in axes_of(chart).lines if isinstance(line, Line2D)]

    drawn = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines]
    assert drawn == list(groups.values())
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 28 == len(PALETTE) * len(MARKERS)
    assert legend(chart) == [f"{name} (2)" for name in groups]
    assert axes_of(chart).get_title(loc="left") == "nut"


def test_a_bar_for_each_group_and_series_from_the_top_down_with_its_figure_and_spread() -> None:
    chart = BarChart(
        groups=["mtd", "pill"],
        series={"default": [same(0.9), None], "fine": [Spread(0.5, 0.4, 0.7), same(1)]},
        x_label="recall",
    )
    axes = axes_of(chart)
    bars = {str(one.get_label()): [bar.get_width() for bar in one] for one in axes.containers}
    assert bars == {"default": [0.9], "fine": [0.5, 1]}
    assert [text.get_text() for text in axes.texts] == ["0.900", "0.500", "1.000"]
    (spread,) = axes.collections
    assert [tuple(corner) for corner in spread.get_paths()[0].vertices] == [(0.4, 1), (0.7, 1)]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["mtd", "pill"]
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert axes.get_xlim()[0] == 0


def test_a_chart_of_bars_is_as_high_as_its_bars() -> None:
    few, many = (BarChart(groups=[str(i) for i in range(n)], series={"a": [same(1)] * n}, x_label="x") for n in (2, 10))
    assert figure_of(many).get_figheight() > 2 * figure_of(few).get_figheight()


def test_a_chart_without_values_says_why_it_is_missing() -> None:
    missing: list[Chart] = [
        Histogram(scores={"good": []}, threshold=0.3),
        RocCurve(points=[], auroc=None),
        LineChart(x=[1, 2], series={"mtd": [None, None]}, x_label="x", y_label="y"),
        BarChart(groups=["mtd"], series={"default": [None]}, x_label="recall"),
        Scatter(groups={"good": []}),
    ]
    reasons = ("scored", "normal and anomalous", "computed", "recall could not be", "points")
    for chart, reason in zip(missing, reasons, strict=True):
        assert chart.missing is not None
        assert reason in chart.missing
    assert Scatter(groups={"good": [(1.0, 1.0)]}).missing is None


def test_a_spread_is_of_what_could_be_computed() -> None:
    assert Spread.of([0.5, None, 1.0]) == Spread(0.75, 0.5, 1.0)
    assert Spread.of([None]) is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_drawn_as_text_and_nothing_else(name: str) -> None:
    for chart in hostile_charts(name):
        svg = svg_of(chart)
        root = ET.fromstring(svg)  # noqa: S314  # well-formed whatever the name
        assert not list(root.iter(f"{SVG}script"))
        svg.decode("utf-8")
    (title,) = [text for text in written(Scatter(groups={"a": [(0.0, 0.0)]}, title=name)) if not text.startswith("a (")]
    assert title.isprintable()


def test_dollar_signs_control_characters_and_undecodable_bytes_are_shown() -> None:
    texts = written(LineChart(x=[1], series={"$a$ \x1b caf\udce9 \u202e": [same(1)]}, x_label="x", y_label="y"))
    assert r"$a$ \x1b caf\xe9 \u202e" in texts


@settings(max_examples=25)
@given(st.dictionaries(st.text(max_size=12), st.lists(st.floats(0, 1e6), max_size=5), min_size=1, max_size=4))
def test_a_histogram_of_any_names_and_scores_is_well_formed(scores: dict[str, list[float]]) -> None:
    chart = Histogram(scores=scores, threshold=0.5)
    if chart.missing is None:
        written(chart)


def test_the_same_chart_gives_the_same_bytes_without_a_date_or_an_address() -> None:
    chart = LineChart(x=[1, 2], series={"a": [same(1), same(2)]}, x_label="x", y_label="y", log_x=True)
    first = svg_of(chart)
    assert svg_of(chart) == first
    for absent in (b"<metadata", b"Matplotlib", b"<dc:date", b"<script", b"<image"):
        assert absent not in first
    linked = ET.fromstring(first).iter()  # noqa: S314  # our own text
    hrefs = [value for element in linked for name, value in element.attrib.items() if name.endswith("href")]
    assert all(value.startswith("#") for value in hrefs)


def test_drawing_leaves_matplotlibs_own_settings_as_they_were() -> None:
    mpl.rcParams["font.size"] = 23
    try:
        before = dict(mpl.rcParams)
        svg = svg_of(RocCurve(points=[(0, 0), (1, 1)], auroc=0.5))
        assert dict(mpl.rcParams) == before
    finally:
        mpl.rcdefaults()
    assert svg == svg_of(RocCurve(points=[(0, 0), (1, 1)], auroc=0.5))
    assert isinstance(figure_of(RocCurve(points=[(0, 0), (1, 1)], auroc=0.5)), Figure)


@pytest.mark.parametrize("writable", [True, False])
def test_the_list_of_fonts_is_kept_in_our_cache_or_nowhere(tmp_path: Path, *, writable: bool) -> None:
    """Without a writable HOME and cache there is no warning either, and nothing is left behind."""
    home, cache, temporary = tmp_path / "home", tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    (home if writable else tmp_path / "other").mkdir()
    if not writable:
        home.write_text("a file where folders cannot be made, for root neither")
        cache = home / "cache"
    program = (
        "from bank_tools.report.charts import RocCurve\n"
        "from bank_tools.report.figures import svg_of\n"
        "import os, sys\n"
        "assert svg_of(RocCurve(points=[(0, 0), (1, 1)], auroc=0.5))\n"
        "assert 'MPLCONFIGDIR' not in os.environ\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    environment |= {"HOME": str(home), "EDGE_UAD_CACHE": str(cache), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(temporary.iterdir()) == []
    if writable:
        assert list(home.iterdir()) == []
        assert [file.suffix for file in (cache / "matplotlib").iterdir() if file.suffix == ".json"] == [".json"]
