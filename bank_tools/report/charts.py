"""Charts as HTML figures with inline SVG: no library, no script, and they print."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bank_tools.report.plot import INK, LEFT, PLOT_W, TOP, Plot, Scale, Tick, colour, marker, nice_ticks

N_BINS = 40
_NOTHING: Mapping[str, float] = MappingProxyType({})


class Spread(NamedTuple):
    """A value measured several times."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Mean, least and greatest of what could be computed; None of nothing."""
        computed = [value for value in values if value is not None]
        return cls(float(np.mean(computed)), min(computed), max(computed)) if computed else None


def histogram(scores: Mapping[str, Sequence[float]], *, threshold: float) -> str:
    """Anomaly scores of each group, with the threshold as a line.

    Args:
        scores: by the group's name.
        threshold: drawn dashed.
    """
    everything = [score for group in scores.values() for score in group]
    if not everything:
        return "<p>No histogram: nothing was scored.</p>"
    low, high = min(threshold, *everything), max(threshold, *everything)
    room = 0.05 * (high - low) or 0.05 * high or 1.0
    low, high = max(0.0, low - room), high + room
    edges = np.linspace(low, high, N_BINS + 1)
    counts = {name: np.histogram(group, edges)[0] for name, group in scores.items()}
    tallest = max(int(group.max()) for group in counts.values())
    plot = Plot(Scale(low, high), Scale(0, tallest * 1.08))
    plot.axes("anomaly score", "images", nice_ticks(low, high), _whole(nice_ticks(0, tallest * 1.08)))
    for index, (name, group) in enumerate(counts.items()):
        if group.any():
            plot.draw(_steps(plot, edges, group, index, name))
    _upright(plot, threshold, f"threshold {threshold:.4f}")
    return plot.figure("histogram of anomaly scores", [(name, _box(index)) for index, name in enumerate(scores)])


def roc(curve: Sequence[tuple[float, float]], *, auroc: float | None) -> str:
    """Recall against false-alarm rate."""
    if not curve or auroc is None:
        return "<p>No ROC curve: it needs normal and anomalous images.</p>"
    plot = Plot(Scale(0, 1), Scale(0, 1))
    plot.axes("false-alarm rate", "recall", nice_ticks(0, 1), nice_ticks(0, 1))
    points = " ".join(f"{plot.px(x)},{plot.py(y)}" for x, y in curve)
    corner = f"{plot.px(1)},{plot.py(0)}"
    plot.draw(f'<polygon points="{points} {corner}" fill="{colour(0)}" fill-opacity="0.08"/>')
    plot.draw(
        f'<line x1="{plot.px(0)}" y1="{plot.py(0)}" x2="{plot.px(1)}" y2="{plot.py(1)}" stroke="{INK}" '
        'stroke-opacity="0.35" stroke-dasharray="2 4"/>'
    )
    plot.draw(
        f'<polyline points="{points}" fill="none" stroke="{colour(0)}" stroke-width="2.2" stroke-linejoin="round"/>'
    )
    plot.draw(f'<text x="{plot.px(0.97)}" y="{plot.py(0.06)}" text-anchor="end" class="big">AUROC {auroc:.4f}</text>')
    return plot.figure(f"ROC curve, AUROC {auroc:.4f}")


def lines(
    x: Sequence[float | str],
    series: Mapping[str, Sequence[Spread | None]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    references: Mapping[str, float] = _NOTHING,
    title: str = "",
    standalone: bool = False,
) -> str:
    """Means joined by lines, each with its spread as a band; what could not be computed is a gap.

    Args:
        x: where the points are; with a text among them (an ablation's ``soft``) all are spaced evenly.
        series: by name, as many as ``x``.
        x_label: what x is.
        y_label: what is measured.
        log_x: by the logarithm of x.
        log_y: by the logarithm of y, where every value is above 0.
        from_zero: y begins at 0, so that heights can be compared.
        references: horizontal dashed lines by name, such as published results.
        title: above the chart.
        standalone: an SVG file's content instead of an HTML figure.
    """
    measured = [spread for values in series.values() for spread in values if spread is not None]
    if not measured:
        return "<p>No curve: nothing could be computed.</p>"
    places, x_scale, x_ticks = _across(x, log_x=log_x)
    low = min([spread.low for spread in measured] + list(references.values()))
    high = max([spread.high for spread in measured] + list(references.values()))
    y_scale, y_ticks = _upwards(low, high, log_y=log_y, from_zero=from_zero)
    plot = Plot(x_scale, y_scale)
    plot.axes(x_label, y_label, x_ticks, y_ticks)
    for name, value in references.items():
        _level(plot, value, name)
    for index, values in enumerate(series.values()):
        for run in _runs(places, values):
            _band(plot, run, index)
    for index, (name, values) in enumerate(series.items()):
        for place, label, spread in zip(places, x, values, strict=True):
            if spread is not None:
                told = f"{name}, {x_label} {label}: {spread.mean:.4f} ({spread.low:.4f} to {spread.high:.4f})"
                plot.draw(marker(index, plot.px(place), plot.py(spread.mean), title=told))
    legend = [(name, marker(index, 0, 0)) for index, name in enumerate(series)]
    close = plot.document if standalone else plot.figure
    return close(f"{y_label} against {x_label}", legend, title=title)


def scatter(groups: Mapping[str, Sequence[tuple[float, float]]], *, title: str = "") -> str:
    """Points of a plane whose axes mean nothing, such as t-SNE's; a colour and a shape for each group.

    Args:
        groups: points by the group's name.
        title: above the chart.
    """
    points = np.array([point for group in groups.values() for point in group], np.float64).reshape(-1, 2)
    if not len(points):
        return "<p>No picture: there are no points.</p>"
    (x_low, y_low), (x_high, y_high) = points.min(axis=0), points.max(axis=0)
    x_room, y_room = 0.04 * (x_high - x_low), 0.06 * (y_high - y_low)
    plot = Plot(Scale(x_low - x_room, x_high + x_room), Scale(y_low - y_room, y_high + y_room))
    for index, (name, group) in enumerate(groups.items()):
        for px, py in group:
            plot.draw(marker(index, plot.px(px), plot.py(py), radius=4.2, title=name))
    counted = [(f"{name} ({len(group)})", marker(index, 0, 0)) for index, (name, group) in enumerate(groups.items())]
    return plot.figure("images as points, similar ones near each other", counted, title=title)


def _steps(plot: Plot, edges: NDArray[np.float64], counts: NDArray[np.int64], index: int, name: str) -> str:
    filled = np.flatnonzero(counts)
    shown = range(int(filled[0]), int(filled[-1]) + 1)
    outline = "".join(
        f"L{plot.px(edges[at])},{plot.py(counts[at])}L{plot.px(edges[at + 1])},{plot.py(counts[at])}" for at in shown
    )
    start, end = plot.px(edges[shown.start]), plot.px(edges[shown.stop])
    return (
        f'<path d="M{start},{plot.py(0)}{outline}L{end},{plot.py(0)}Z" fill="{colour(index)}" fill-opacity="0.3" '
        f'stroke="{colour(index)}" stroke-width="1.4"><title>{escape(name)}</title></path>'
    )


def _across(x: Sequence[float | str], *, log_x: bool) -> tuple[list[float], Scale, list[Tick]]:
    values = [float(value) for value in x if not isinstance(value, str)]
    if len(values) < len(x):
        places = [float(index) for index in range(len(x))]
        ticks = [
            Tick(place, value if isinstance(value, str) else f"{value:g}")
            for place, value in zip(places, x, strict=True)
        ]
        return places, Scale(-0.4, len(x) - 0.6), ticks
    low, high = min(values), max(values)
    if log_x and low > 0:
        room = (high / low) ** 0.04 if high > low else 2.0
        return values, Scale(low / room, high * room, log=True), _at_values(values)
    room = 0.04 * (high - low) or 1.0
    ticks = _at_values(values) if len(values) <= 10 else nice_ticks(low, high)
    return values, Scale(low - room, high + room), ticks


def _upwards(low: float, high: float, *, log_y: bool, from_zero: bool) -> tuple[Scale, list[Tick]]:
    if log_y and low > 0:
        room = (high / low) ** 0.08 if high > low else 2.0
        low, high = low / room, high * room
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1,) if len(decades) > 3 else (1, 2, 5)
        values = [step * 10.0**decade for decade in decades for step in steps]
        return Scale(low, high, log=True), [Tick(value, f"{value:g}") for value in values if low <= value <= high]
    if from_zero:
        return Scale(0, 1.08 * high), nice_ticks(0, 1.08 * high)
    room = 0.08 * (high - low) or 0.02
    return Scale(low - room, high + room), nice_ticks(low - room, high + room)


def _at_values(values: Sequence[float]) -> list[Tick]:
    return [Tick(value, f"{value:g}") for value in dict.fromkeys(values)]


def _runs(places: Sequence[float], values: Sequence[Spread | None]) -> list[list[tuple[float, Spread]]]:
    runs: list[list[tuple[float, Spread]]] = [[]]
    for place, spread in zip(places, values, strict=True):
        if spread is None:
            runs.append([])
        else:
            runs[-1].append((place, spread))
    return [run for run in runs if run]


def _band(plot: Plot, run: Sequence[tuple[float, Spread]], index: int) -> None:
    if len(run) == 1:
        place, spread = run[0]
        x = plot.px(place)
        plot.draw(
            f'<line x1="{x}" x2="{x}" y1="{plot.py(spread.low)}" y2="{plot.py(spread.high)}" '
            f'stroke="{colour(index)}" stroke-opacity="0.4" stroke-width="5"/>'
        )
        return
    upper = [f"{plot.px(place)},{plot.py(spread.high)}" for place, spread in run]
    lower = [f"{plot.px(place)},{plot.py(spread.low)}" for place, spread in reversed(run)]
    middle = [f"{plot.px(place)},{plot.py(spread.mean)}" for place, spread in run]
    plot.draw(f'<polygon points="{" ".join(upper + lower)}" fill="{colour(index)}" fill-opacity="0.16"/>')
    plot.draw(
        f'<polyline points="{" ".join(middle)}" fill="none" stroke="{colour(index)}" stroke-width="2" '
        'stroke-linejoin="round"/>'
    )


def _upright(plot: Plot, value: float, label: str) -> None:
    x = plot.px(value)
    plot.draw(f'<line x1="{x}" x2="{x}" y1="{TOP}" y2="{plot.py(plot.y.low)}" stroke="{INK}" stroke-dasharray="5 4"/>')
    leftwards = x > LEFT + 0.7 * PLOT_W
    anchor, beside = ("end", x - 6) if leftwards else ("start", x + 6)
    plot.draw(f'<text x="{beside}" y="{TOP + 11}" text-anchor="{anchor}" class="small halo">{escape(label)}</text>')


def _level(plot: Plot, value: float, label: str) -> None:
    y = plot.py(value)
    plot.draw(f'<line x1="{LEFT}" x2="{LEFT + PLOT_W}" y1="{y}" y2="{y}" stroke="{INK}" stroke-dasharray="5 4"/>')
    told = f"{escape(label)} {value:g}"
    plot.draw(f'<text x="{LEFT + PLOT_W - 4}" y="{y - 5}" text-anchor="end" class="small halo">{told}</text>')


def _box(index: int) -> str:
    return f'<rect x="-6" y="-6" width="12" height="12" rx="2" fill="{colour(index)}" fill-opacity="0.55"/>'


def _whole(ticks: Sequence[Tick]) -> list[Tick]:
    whole = [round(tick.value) for tick in ticks if math.isclose(tick.value, round(tick.value))]
    return [Tick(value, str(value)) for value in whole]
