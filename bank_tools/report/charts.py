"""What a chart shows, as plain records; :mod:`bank_tools.report.figures` draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """A value measured several times."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Mean, smallest and largest of the values that are not None; None where there are none."""
        computed = [value for value in values if value is not None]
        return cls(float(np.mean(computed)), min(computed), max(computed)) if computed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Anomaly scores of each group, with the threshold as a vertical line."""

    scores: Mapping[str, Sequence[float]]
    """By the group's name."""
    threshold: float
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        counts = ", ".join(f"{len(group)} {name}" for name, group in self.scores.items())
        return f"histogram of anomaly scores: {counts}; threshold {self.threshold:.4f}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        return None if any(len(group) for group in self.scores.values()) else "No histogram: nothing was scored."


@dataclass(frozen=True, slots=True, kw_only=True)
class RocCurve:
    """Recall against false-alarm rate."""

    points: Sequence[tuple[float, float]]
    """False-alarm rate and recall, both ascending."""
    auroc: float | None
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        return "ROC curve" if self.auroc is None else f"ROC curve, AUROC {self.auroc:.4f}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        drawn = len(self.points) > 0 and self.auroc is not None
        return None if drawn else "No ROC curve: it needs normal and anomalous images."


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    """Means joined by lines, each with its spread as a band; a value that is None is a gap."""

    x: Sequence[float | str]
    """With a text among them (an ablation's ``soft``) all are spaced evenly."""
    series: Mapping[str, Sequence[Spread | None]]
    """By name, each as long as ``x``."""
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    """Where every value is above 0."""
    from_zero: bool = False
    """The y axis begins at 0, so that heights can be compared."""
    round_ticks: bool = False
    """The x axis is marked at round numbers instead of at ``x``."""
    references: Mapping[str, float] = field(default_factory=dict)
    """Horizontal dashed lines by name, such as published results."""
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        return f"{self.y_label} against {self.x_label}: {', '.join(self.series)}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        return None if self.measured else "No curve: nothing could be computed."

    @property
    def measured(self) -> list[Spread]:
        """Every value of every series that could be computed."""
        return [spread for values in self.series.values() for spread in values if spread is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Shares from 0 to 1 as horizontal bars, a group for each name, a bar in it for each series; None is no bar."""

    groups: Sequence[str]
    """From the top down."""
    series: Mapping[str, Sequence[Spread | None]]
    """By name, each as long as ``groups``."""
    x_label: str
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        return f"{self.x_label} of {', '.join(self.groups)}: {', '.join(self.series)}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        measured = any(spread is not None for values in self.series.values() for spread in values)
        return None if measured else f"No bars: {self.x_label} could not be computed."


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Points of a plane whose axes have no meaning, such as t-SNE's; a colour and a marker for each group."""

    groups: Mapping[str, Sequence[tuple[float, float]]]
    """Points by the group's name."""
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        counts = ", ".join(f"{len(group)} {name}" for name, group in self.groups.items())
        return f"images as points, similar ones close together: {counts}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        return None if any(len(group) for group in self.groups.values()) else "No picture: there are no points."


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """Scores as one tick each, a row for each name, over a threshold of 1."""

    rows: Sequence[tuple[str, str, Sequence[float]]]
    """From the top down: name, the group that gives the colour, and the scores."""
    x_label: str
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        return f"{self.x_label} of {', '.join(f'{len(scores)} {group} ({name})' for name, group, scores in self.rows)}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        return None if any(len(scores) for _, _, scores in self.rows) else "No strips: nothing was scored."


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Differences with their intervals, one below the other, against a line at 0."""

    rows: Sequence[tuple[str, Spread, bool]]
    """From the top down: name, value with the ends of its interval, and whether it stands out."""
    x_label: str
    title: str = ""

    @property
    def description(self) -> str:
        """For readers who cannot see the chart."""
        texts = (f"{name} {one.mean:.4f} ({one.low:.4f} to {one.high:.4f})" for name, one, _ in self.rows)
        return f"{self.x_label}: {', '.join(texts)}"

    @property
    def missing(self) -> str | None:
        """Why there is nothing to draw; None where there is something."""
        return None if self.rows else "No intervals: there is nothing to compare."


Chart = Histogram | RocCurve | LineChart | BarChart | Scatter | Strips | Intervals
