"""Charts drawn by matplotlib: object-oriented (no pyplot), the same bytes for the same chart.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; the marker differs too, for prints in grey.
"""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import groupby
from typing import Any, assert_never

import numpy as np

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
from bank_tools.report.text import printable
from edge_uad.errors import MissingExtraError
from edge_uad.runtime.cache import cache_dir


@contextmanager
def _font_cache() -> Iterator[None]:
    """Where matplotlib keeps its list of fonts while it is imported: our cache, else a folder that is removed.

    Without it matplotlib writes below HOME and warns where it cannot. A choice of the user's is left alone.
    """
    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="edge-uad-fonts-") as fallback:
        folder = cache_dir() / "matplotlib"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK)
        except OSError:
            writable = False
        os.environ["MPLCONFIGDIR"] = str(folder if writable else fallback)
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


with _font_cache():
    try:
        import matplotlib as mpl
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
    except ImportError as error:
        raise MissingExtraError("drawing charts", "evaluate") from error

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#5b6470")
"""Okabe and Ito's, the yellow darkened for paper."""
MARKERS = ("o", "s", "^", "D")
INK, FAINT = "#3b4252", "#e3e7ee"
SIZE_IN = (5.0, 3.2)
AXIS_IN, BAR_IN, ROW_IN = 0.8, 0.16, 0.24
"""A chart of bars or rows is as high as these and an axis."""
GAP_BARS = 1
"""Between two groups, in bars."""
N_BINS = 40
MAX_TICKS_AT_VALUES = 10
LEGEND_ROW_IN = 0.2
LEGEND_ROW_CHARACTERS = 66
LEGEND_SIGN_CHARACTERS = 6
MAX_NAME_CHARACTERS = 40
"""Longer names are cut: they would leave no room for the axes."""
MAX_TITLE_CHARACTERS = 54
MAX_TICK_CHARACTERS = 14
MAX_GROUP_CHARACTERS = 26
WIDE_LOG_RATIO = 1000
"""A logarithmic axis that spans more has ticks at powers of ten alone."""

STYLE: Mapping[Any, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans", "sans-serif"],
    "grid.color": FAINT,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "edge-uad",  # ids of clip paths come from the content, not from a random number
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "ytick.left": False,
}


@contextmanager
def _style() -> Iterator[None]:
    """Our settings alone, whatever a matplotlibrc says; what was set before comes back."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        # the browser has fonts for signs that matplotlib's own lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg_of(chart: Chart, *, background: str = "none") -> bytes:
    """An SVG file: no script, no reference to anything outside, no date.

    Args:
        chart: with something to draw; ``chart.missing`` is None.
        background: a colour, or ``none`` for a transparent one.
    """
    with _style():
        file = BytesIO()
        # without the fields that matplotlib fills in itself there is no metadata at all
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        _drawn(chart).savefig(file, format="svg", facecolor=background, metadata=nothing)
    return file.getvalue()


def figure_of(chart: Chart) -> Figure:
    """The figure that :func:`svg_of` writes."""
    with _style():
        return _drawn(chart)


def _drawn(chart: Chart) -> Figure:
    figure = Figure(figsize=(SIZE_IN[0], _height_in(chart)), facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    if chart.title:
        axes.set_title(_short(chart.title, MAX_TITLE_CHARACTERS))
    match chart:
        case Histogram():
            _draw_histogram(axes, chart)
        case RocCurve():
            _draw_roc(axes, chart)
        case LineChart():
            _draw_lines(axes, chart)
        case BarChart():
            _draw_bars(axes, chart)
        case Scatter():
            _draw_scatter(axes, chart)
        case Strips():
            _draw_strips(axes, chart)
        case Intervals():
            _draw_intervals(axes, chart)
        case _:
            assert_never(chart)
    _add_legend(figure, axes)
    return figure


def _height_in(chart: Chart) -> float:
    if isinstance(chart, BarChart):
        return AXIS_IN + BAR_IN * len(chart.groups) * (len(chart.series) + GAP_BARS)
    return AXIS_IN + ROW_IN * len(chart.rows) if isinstance(chart, Strips | Intervals) else SIZE_IN[1]


def _draw_histogram(axes: Axes, chart: Histogram) -> None:
    everything = [score for group in chart.scores.values() for score in group]
    low, high = min(chart.threshold, *everything), max(chart.threshold, *everything)
    margin = 0.05 * (high - low) or 0.05 * high or 1.0
    low, high = max(0.0, low - margin), high + margin
    edges = np.linspace(low, high, N_BINS + 1)
    tallest = 0
    for index, (name, group) in enumerate(chart.scores.items()):
        counts, _ = np.histogram(group, edges)
        tallest = max(tallest, int(counts.max()))
        colour = _colour(index)
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.3, label=_short(name))
        axes.stairs(counts, edges, color=colour, linewidth=1.2)
    axes.axvline(chart.threshold, color=INK, linestyle="--", linewidth=1)
    to_the_left = chart.threshold > low + 0.7 * (high - low)
    axes.annotate(
        f"threshold {chart.threshold:.4f}",
        (chart.threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if to_the_left else 5, -2),
        textcoords="offset points",
        horizontalalignment="right" if to_the_left else "left",
        verticalalignment="top",
        fontsize=8,
    )
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.14 * tallest)  # room for the threshold's label
    axes.set_xlabel("anomaly score")
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_roc(axes: Axes, chart: RocCurve) -> None:
    alarms, recalls = (np.array(values, np.float64) for values in zip(*chart.points, strict=True))
    axes.fill_between(alarms, recalls, color=_colour(0), alpha=0.08, linewidth=0)
    axes.plot((0, 1), (0, 1), color=INK, alpha=0.35, linestyle=":", linewidth=1)
    axes.plot(alarms, recalls, color=_colour(0), linewidth=1.8)
    if chart.auroc is not None:
        axes.text(0.97, 0.05, f"AUROC {chart.auroc:.4f}", horizontalalignment="right", fontsize=11, fontweight="bold")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("false-alarm rate")
    axes.set_ylabel("recall")


def _draw_lines(axes: Axes, chart: LineChart) -> None:
    places = _x_axis(axes, chart)
    for index, (name, values) in enumerate(chart.series.items()):
        for run in _runs(places, values):
            low = [spread.low for _, spread in run]
            high = [spread.high for _, spread in run]
            x = [place for place, _ in run]
            axes.fill_between(x, low, high, color=_colour(index), alpha=0.16, linewidth=0)
            axes.vlines(x, low, high, color=_colour(index), alpha=0.4, linewidth=1.5)
        means = [np.nan if spread is None else spread.mean for spread in values]
        axes.plot(
            places,
            means,
            color=_colour(index),
            marker=_marker(index),
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.6,
            label=_short(name),
        )
    for name, value in chart.references.items():
        axes.axhline(value, color=INK, linestyle="--", linewidth=1)
        axes.annotate(
            f"{_short(name)} {value:g}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=8,
        )
    _y_axis(axes, chart)


def _x_axis(axes: Axes, chart: LineChart) -> list[float]:
    """Set the scale and the ticks; returns where each x is."""
    axes.set_xlabel(_short(chart.x_label))
    labels = [_short(one, MAX_TICK_CHARACTERS) if isinstance(one, str) else _number(one) for one in chart.x]
    values = [float(one) for one in chart.x if not isinstance(one, str)]
    if len(values) < len(chart.x):
        places = [float(index) for index in range(len(chart.x))]
        axes.set_xticks(places, labels)
        axes.set_xlim(-0.4, len(places) - 0.6)
        return places
    if chart.log_x and min(values) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if axes.get_xscale() == "log" or (len(values) <= MAX_TICKS_AT_VALUES and not chart.round_ticks):
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
    return values


def _y_axis(axes: Axes, chart: LineChart) -> None:
    axes.set_ylabel(_short(chart.y_label))
    every = [value for spread in chart.measured for value in spread] + list(chart.references.values())
    low, high = min(every), max(every)
    if chart.log_y and low > 0:
        axes.set_yscale("log")
        wide = high / low > WIDE_LOG_RATIO
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
    elif chart.from_zero:
        axes.set_ylim(0, 1.08 * high or 1)
    else:
        margin = 0.08 * (high - low) or 0.02
        axes.set_ylim(low - margin, high + margin)


def _draw_bars(axes: Axes, chart: BarChart) -> None:
    n = len(chart.series)
    for index, (name, values) in enumerate(chart.series.items()):
        drawn = [(group, spread) for group, spread in enumerate(values) if spread is not None]
        places = [group * (n + GAP_BARS) + index for group, _ in drawn]
        axes.barh(places, [spread.mean for _, spread in drawn], height=0.86, color=_colour(index), label=_short(name))
        for place, (_, spread) in zip(places, drawn, strict=True):
            if spread.low < spread.high:
                axes.hlines(place, spread.low, spread.high, color=INK, linewidth=1.2)
            axes.text(1.02, place, f"{spread.mean:.3f}", verticalalignment="center", fontsize=7)
    centres = [group * (n + GAP_BARS) + (n - 1) / 2 for group in range(len(chart.groups))]
    axes.set_yticks(centres, [_short(name, MAX_GROUP_CHARACTERS) for name in chart.groups])
    axes.set_ylim(len(chart.groups) * (n + GAP_BARS) - GAP_BARS - 0.4, -0.6)
    axes.set_xlim(0, 1.12)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(_short(chart.x_label))


def _draw_scatter(axes: Axes, chart: Scatter) -> None:
    for index, (name, group) in enumerate(chart.groups.items()):
        points = np.array(group, np.float64).reshape(-1, 2)
        axes.plot(
            points[:, 0],
            points[:, 1],
            linestyle="",
            color=_colour(index),
            marker=_marker(index),
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=_short(f"{name} ({len(points)})"),
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(0.05)


def _draw_strips(axes: Axes, chart: Strips) -> None:
    groups = list(dict.fromkeys(group for _, group, _ in chart.rows))
    for index, group in enumerate(groups):
        ticks = [
            (score, place) for place, (_, its, scores) in enumerate(chart.rows) if its == group for score in scores
        ]
        x, y = np.array(ticks, np.float64).reshape(-1, 2).T
        axes.plot(x, y, linestyle="", marker="|", markersize=9, alpha=0.6, color=_colour(index), label=_short(group))
    axes.axvline(1, color=INK, linestyle="--", linewidth=1)
    _name_rows(axes, [name for name, _, _ in chart.rows], chart.x_label)


def _draw_intervals(axes: Axes, chart: Intervals) -> None:
    for place, (_, one, stands_out) in enumerate(chart.rows):
        colour = _colour(1 if stands_out else 0)
        axes.hlines(place, one.low, one.high, color=colour, linewidth=1.6)
        axes.plot([one.mean], [place], marker=_marker(1 if stands_out else 0), color=colour)
    axes.axvline(0, color=INK, linestyle="--", linewidth=1)
    _name_rows(axes, [name for name, _, _ in chart.rows], chart.x_label)


def _name_rows(axes: Axes, names: Sequence[str], x_label: str) -> None:
    """One row below the other."""
    axes.set_yticks(range(len(names)), [_short(name, MAX_GROUP_CHARACTERS) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(_short(x_label))


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, in as many columns as fit; the figure grows by its rows."""
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    n_columns = max(1, LEGEND_ROW_CHARACTERS // (max(map(len, names)) + LEGEND_SIGN_CHARACTERS))
    n_columns = min(n_columns, len(names))
    n_rows = -(-len(names) // n_columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_IN * n_rows)
    figure.legend(handles, names, loc="outside lower center", ncols=n_columns)


def _runs(places: Sequence[float], values: Sequence[Spread | None]) -> list[list[tuple[float, Spread]]]:
    """The neighbours without a gap between them."""
    pairs = zip(places, values, strict=True)
    return [
        [(place, spread) for place, spread in run if spread is not None]
        for there, run in groupby(pairs, key=lambda pair: pair[1] is not None)
        if there
    ]


def _number(value: float, _position: int | None = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _short(name: str, most: int = MAX_NAME_CHARACTERS) -> str:
    text = printable(name)
    return text if len(text) <= most else text[: most - 1] + "…"


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _marker(index: int) -> str:
    """With the colour: 28 groups differ, since 4 and 7 have no common divisor."""
    return MARKERS[index % len(MARKERS)]
