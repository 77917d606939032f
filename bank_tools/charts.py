"""Charts as inline SVG: no library, no script, and they print."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
PLOT_W, PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS = ("#2b7a4b", "#c0392b", "#b9770e", "#2e5d9f", "#7d3c98", "#566573")
N_BINS = 30


def histogram(scores: Mapping[str, Sequence[float]], *, threshold: float) -> str:
    """Anomaly scores of each group, with the threshold as a line.

    Args:
        scores: by the group's name.
        threshold: drawn dashed.
    """
    highest = max([threshold, *(score for group in scores.values() for score in group)]) * 1.05
    edges = np.linspace(0, highest, N_BINS + 1)
    counts = {name: np.histogram(group, edges)[0] for name, group in scores.items()}
    tallest = max((int(group.max()) for group in counts.values()), default=0) or 1
    bars = []
    for (name, group), colour in zip(counts.items(), COLOURS, strict=False):
        points = "".join(_step(edges, group, highest, tallest))
        bars.append(
            f'<path d="M{_x(0, highest)},{_y(0, tallest)}{points}L{_x(highest, highest)},{_y(0, tallest)}Z" '
            f'fill="{colour}" fill-opacity="0.35" stroke="{colour}"><title>{escape(name)}</title></path>'
        )
    at = _x(threshold, highest)
    line = (
        f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{TOP + PLOT_H}" stroke="#222" stroke-dasharray="5 4"/>'
        f'<text x="{at + 4}" y="{TOP + 12}" class="small">threshold {threshold:.4f}</text>'
    )
    axes = _axes("anomaly score", "images", highest, tallest)
    return _svg(axes + "".join(bars) + line + _legend(list(scores)))


def roc(curve: Sequence[tuple[float, float]], *, auroc: float | None) -> str:
    """Recall against false-alarm rate."""
    if not curve or auroc is None:
        return "<p>No ROC curve: it needs normal and anomalous images.</p>"
    points = " ".join(f"{_x(x, 1)},{_y(y, 1)}" for x, y in curve)
    diagonal = f'<line x1="{_x(0, 1)}" y1="{_y(0, 1)}" x2="{_x(1, 1)}" y2="{_y(1, 1)}" stroke="#ccc"/>'
    line = f'<polyline points="{points}" fill="none" stroke="{COLOURS[3]}" stroke-width="2"/>'
    label = f'<text x="{_x(0.55, 1)}" y="{_y(0.12, 1)}">AUROC {auroc:.4f}</text>'
    return _svg(_axes("false-alarm rate", "recall", 1, 1) + diagonal + line + label)


def _step(edges: np.ndarray, counts: np.ndarray, highest: float, tallest: float) -> list[str]:
    return [
        f"L{_x(left, highest)},{_y(count, tallest)}L{_x(right, highest)},{_y(count, tallest)}"
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _x(value: float, highest: float) -> float:
    return round(LEFT + PLOT_W * float(value) / highest, 1)


def _y(value: float, highest: float) -> float:
    return round(TOP + PLOT_H * (1 - float(value) / highest), 1)


def _axes(x_label: str, y_label: str, x_highest: float, y_highest: float) -> str:
    parts = [
        f'<rect x="{LEFT}" y="{TOP}" width="{PLOT_W}" height="{PLOT_H}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="12" y="{TOP + PLOT_H / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {TOP + PLOT_H / 2})">{escape(y_label)}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = _x(share, 1), _y(share, 1)
        parts.append(
            f'<text x="{x}" y="{TOP + PLOT_H + 15}" text-anchor="middle" class="small">{share * x_highest:.3g}</text>'
        )
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4}" text-anchor="end" class="small">{share * y_highest:.3g}</text>')
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    rows = []
    for row, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        y = TOP + 30 + 16 * row
        x = LEFT + PLOT_W - 110
        rows.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}" fill-opacity="0.6"/>')
        rows.append(f'<text x="{x + 15}" y="{y}" class="small">{escape(name)}</text>')
    return "".join(rows)


def _svg(body: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">{body}</svg>'
