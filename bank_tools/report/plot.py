"""The empty chart: its frame, its scales, its ticks, its legend; inline SVG without a library or a script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 500, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 44
PLOT_W, PLOT_H = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#5b6470")
"""Okabe and Ito's, told apart by colour-blind eyes too; its yellow darkened for paper."""
MARKERS = ("circle", "square", "triangle", "diamond")
"""A second sign of which group it is, for prints in grey."""
INK, FAINT = "#3b4252", "#e3e7ee"


SVG_STYLE = (
    'text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#3b4252}'
    ".small{font-size:10.5px}.big{font-size:15px;font-weight:650}.title{font-size:13px;font-weight:650}"
    ".halo{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}"
)
TITLE_H = 26
LEGEND_ROW_H = 18
LEGEND_CHARACTER_W = 5.9
"""About, at the size of the legend's text."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From a value to a place between 0 and 1, by its logarithm where asked."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """0 at ``low``, 1 at ``high``."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5


@dataclass(frozen=True, slots=True)
class Tick:
    """A value and how it is written."""

    value: float
    label: str


@dataclass(slots=True)
class Plot:
    """A chart being drawn; ``figure`` closes it."""

    x: Scale
    y: Scale
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Where an x value is drawn, in SVG pixels."""
        return round(LEFT + PLOT_W * self.x.at(value), 1)

    def py(self, value: float) -> float:
        """Where a y value is drawn, in SVG pixels."""
        return round(TOP + PLOT_H * (1 - self.y.at(value)), 1)

    def draw(self, svg: str) -> None:
        """Add an element on top."""
        self.parts.append(svg)

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[Tick], y_ticks: Sequence[Tick]) -> None:
        """Grid, ticks and labels."""
        bottom = TOP + PLOT_H
        for tick in y_ticks:
            y = self.py(tick.value)
            self.draw(f'<line x1="{LEFT}" x2="{LEFT + PLOT_W}" y1="{y}" y2="{y}" stroke="{FAINT}"/>')
            self.draw(f'<text x="{LEFT - 7}" y="{y + 3.5}" text-anchor="end" class="small">{escape(tick.label)}</text>')
        for tick in x_ticks:
            x = self.px(tick.value)
            self.draw(f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}" stroke="{INK}"/>')
            label = escape(tick.label)
            self.draw(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" class="small">{label}</text>')
        self.draw(f'<line x1="{LEFT}" x2="{LEFT + PLOT_W}" y1="{bottom}" y2="{bottom}" stroke="{INK}"/>')
        middle = TOP + PLOT_H / 2
        self.draw(f'<text x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
        upright = f'transform="rotate(-90 13 {middle})"'
        self.draw(f'<text x="13" y="{middle}" text-anchor="middle" {upright}>{escape(y_label)}</text>')

    def figure(self, described: str, legend: Sequence[tuple[str, str]] = (), *, title: str = "") -> str:
        """The chart as HTML, with its title above and a legend of names and their SVG signs below it."""
        entries = "".join(
            f'<span><svg viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{sign}</svg>'
            f"{escape(name)}</span>"
            for name, sign in legend
        )
        caption = f"<figcaption>{entries}</figcaption>" if legend else ""
        body = "".join(self.parts)
        heading = f"<h3>{escape(title)}</h3>" if title else ""
        svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{body}</svg>'
        return f'<figure class="chart">{heading}{svg}{caption}</figure>'

    def document(self, described: str, legend: Sequence[tuple[str, str]] = (), *, title: str = "") -> str:
        """The chart as an SVG file that stands alone: its own style and white ground, title and legend inside."""
        rows = _legend_rows([name for name, _ in legend])
        top = TITLE_H if title else 0
        height = top + HEIGHT + LEGEND_ROW_H * (1 + max((row for row, _ in rows), default=-1))
        entries = "".join(
            f'<g transform="translate({x + 8} {top + HEIGHT + LEGEND_ROW_H * row + 6})">{sign}</g>'
            f'<text x="{x + 20}" y="{top + HEIGHT + LEGEND_ROW_H * row + 10}" class="small">{escape(name)}</text>'
            for (row, x), (name, sign) in zip(rows, legend, strict=True)
        )
        heading = f'<text x="{LEFT}" y="17" class="title">{escape(title)}</text>' if title else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH * 1.4:.0f}" '
            f'role="img" aria-label="{escape(described)}"><style>{SVG_STYLE}</style>'
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{heading}'
            f'<g transform="translate(0 {top})">{"".join(self.parts)}</g>{entries}</svg>\n'
        )


def _legend_rows(names: Sequence[str]) -> list[tuple[int, int]]:
    """Row and x of each entry, broken to the chart's width."""
    places: list[tuple[int, int]] = []
    row, x = 0, LEFT
    for name in names:
        width = 34 + round(LEGEND_CHARACTER_W * len(name))
        if x + width > WIDTH and x > LEFT:
            row, x = row + 1, LEFT
        places.append((row, x))
        x += width
    return places


def colour(index: int) -> str:
    """Of the group with this number."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int, x: float, y: float, *, radius: float = 4, title: str = "") -> str:
    """The sign of the group with this number, at a place; colour and shape together repeat after 28."""
    told = f"<title>{escape(title)}</title>" if title else ""
    style = f'fill="{colour(index)}" stroke="#fff" stroke-width="0.8"'
    shape = MARKERS[index % len(MARKERS)]
    if shape == "circle":
        return f'<circle cx="{x}" cy="{y}" r="{radius}" {style}>{told}</circle>'
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1.15), (1.1, 0.9), (-1.1, 0.9)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    }[shape]
    points = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {style}>{told}</polygon>'


def nice_ticks(low: float, high: float, *, about: int = 5) -> list[Tick]:
    """Round values (steps of 1, 2 or 5) from ``low`` to ``high``."""
    if high <= low:
        return [Tick(low, f"{low:.3g}")]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [Tick(count * step, f"{count * step:.{decimals}f}") for count in range(first, last + 1)]
