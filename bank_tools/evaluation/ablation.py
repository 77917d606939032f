"""Ablations: one setting at a time around a default, or all combinations; embeddings are computed once per model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bank_tools.bank.recipe import Recipe
from bank_tools.datasets import Dataset
from bank_tools.evaluation.detection import CategoryResult, EvaluationContext, evaluate_categories
from bank_tools.evaluation.published import ABLATE, published
from bank_tools.evaluation.results import Outcome, ResultTable, category_json, published_table
from bank_tools.evaluation.variant import Variant, parse_scales
from bank_tools.metrics.image import Mean, mean_of, show
from bank_tools.report.charts import LineChart, Spread
from edge_uad.errors import UsageError
from edge_uad.records import Geometry, Rotations, Tiling

SOFT = "soft"
DEFAULT_LABEL = "default"
YES_NO = {"yes": True, "no": False}


def _tiling(text: str) -> Tiling | None:
    """``3x1+8`` → three tiles, one above the other, that overlap by eight patches; ``1x1`` → None, the whole picture.

    Raises:
        UsageError: something else.
    """
    found = re.fullmatch(r"([1-9][0-9]?)x([1-9][0-9]?)\+([0-9]{1,3})", text, re.ASCII)
    if text == "1x1":
        return None
    if found is None:
        raise UsageError(
            f"the setting tiles has the value {text!r}; use rows, columns and overlap, such as 3x1+8, or 1x1"
        )
    rows, columns, overlap = map(int, found.groups())
    return Tiling(tiles_hw=(rows, columns), overlap_hw=(overlap, overlap))


_RECIPE_KNOBS: dict[str, tuple[str, Callable[[str], object]]] = {
    "bpm-kernel": ("bpm_kernel", int),
    "bpm-threshold": ("bpm_threshold", float),
    "top-ratio": ("top_ratio", float),
    "neighbours": ("neighbours", int),
    "coreset": ("coreset_ratio", float),
    "max-patches": ("max_patches", lambda text: int(text) or None),
    "geometry": ("geometry", Geometry),
    "tiles": ("tiling", _tiling),
    "rotations": ("rotations", Rotations),
    "turn-good": ("rotations", lambda text: Rotations.QUARTER if _yes_no("turn-good", text) else Rotations.NONE),
    "levels": ("levels", int),
    "seed": ("seed", int),
}
MODEL_KNOBS = ("layers", "join", "neighbourhood", "attention-layer", "input")
"""These need another export of the backbone's weights."""
KNOBS = (*_RECIPE_KNOBS, "reweighted", "scales", "apart", "good", *MODEL_KNOBS)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One knob and the values it takes, as they were written."""

    knob: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One set of changes to the default, knob by knob."""

    changes: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """As the table names it."""
        return " ".join(f"{knob}={value}" for knob, value in self.changes) or DEFAULT_LABEL

    def model_changes(self) -> dict[str, str]:
        """Those that need another model file."""
        return {knob: value for knob, value in self.changes if knob in MODEL_KNOBS}

    def n_good(self, default: int | None) -> int | None:
        """How many good images are learned."""
        return next((_number("good", value) for knob, value in self.changes if knob == "good"), default)

    def applied(self, variant: Variant) -> Variant:
        """The variant with the changes that need no other model.

        Raises:
            UsageError: a value that the recipe does not allow.
        """
        levels_first = sorted(self.changes, key=lambda change: change[0] != "levels")  # what others are refused for
        for knob, value in levels_first:
            variant = _applied(variant, knob, value)
        return variant


@dataclass(frozen=True, slots=True)
class Row:
    """A point and its results."""

    point: Point
    categories: tuple[CategoryResult, ...]

    def mean(self, part: str, name: str) -> Mean:
        """Of one metric over the categories."""
        groups = (getattr(one, part) for one in self.categories)
        return mean_of(None if group is None else getattr(group, name) for group in groups)


def parse_sweep(text: str) -> Sweep:
    """``bpm-kernel=1,3,5`` → the sweep; a set of layers within a value is written ``2+5+8``.

    Raises:
        UsageError: no such knob, or no values.
    """
    knob, _, values = text.partition("=")
    chosen = tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
    if knob not in KNOBS or not chosen:
        raise UsageError(f"--sweep is {text!r}; give KNOB=VALUE,VALUE with a knob of {', '.join(KNOBS)}")
    return Sweep(knob, chosen)


def points_of(sweeps: Sequence[Sweep], *, grid: bool) -> list[Point]:
    """The default and each value of each sweep, or the default and every combination.

    Raises:
        UsageError: a knob that is swept twice.
    """
    knobs = [sweep.knob for sweep in sweeps]
    if len(set(knobs)) < len(knobs):
        raise UsageError(f"--sweep names {', '.join(knobs)}; name each knob once, with all its values")
    if grid:
        combinations = product(*(sweep.values for sweep in sweeps))
        return [Point(), *(Point(tuple(zip(knobs, values, strict=True))) for values in combinations)]
    return [Point(), *(Point(((sweep.knob, value),)) for sweep in sweeps for value in sweep.values)]


def ablate(
    dataset: Dataset,
    sweeps: Sequence[Sweep],
    points: Sequence[Point],
    context_for: Callable[[Point], EvaluationContext],
    *,
    n_good: int | None,
    on_row: Callable[[Row], None],
) -> Outcome:
    """Measure every point on every category.

    Args:
        dataset: as read.
        sweeps: for the charts.
        points: what is measured.
        context_for: the context of a point.
        n_good: learn from so many good images; None for all.
        on_row: called with each point's results.
    """
    rows = []
    for point in points:
        results = evaluate_categories(dataset, context_for(point), n_good=point.n_good(n_good))
        rows.append(Row(point, tuple(results)))
        on_row(rows[-1])
    figures = published(dataset, ABLATE)
    tables = (ablation_table(rows), published_table(figures))
    return Outcome(
        task=ABLATE,
        dataset=dataset,
        tables=tuple(table for table in tables if table is not None),
        results=[
            {
                "label": row.point.label,
                "changes": dict(row.point.changes),
                "categories": [_without_samples(one) for one in row.categories],
            }
            for row in rows
        ],
        settings={"sweeps": {sweep.knob: list(sweep.values) for sweep in sweeps}, "good": n_good},
        published=figures,
        warnings=tuple(dict.fromkeys(text for row in rows for one in row.categories for text in one.warnings)),
        charts=tuple(_chart(sweep, rows) for sweep in sweeps if _is_alone(sweep, rows)),
    )


def ablation_table(rows: Sequence[Row]) -> ResultTable:
    """A row for each point: means over the categories; the default first."""
    columns = [("AUROC", "image", "auroc"), ("AP", "image", "ap"), ("F1-max", "image", "f1_max")]
    if any(one.line for row in rows for one in row.categories):
        columns += [("recall", "line", "recall"), ("false alarms", "line", "false_alarm_rate")]
    if any(one.pixel for row in rows for one in row.categories):
        columns += [("pixel AUROC", "pixel", "auroc"), ("AUPRO 0.3", "pixel", "aupro_03"), ("SegF1", "pixel", "segf1")]
    cells = tuple(
        (
            row.point.label,
            *(str(row.mean(part, name)) for _, part, name in columns),
            show(mean_of(one.foreground_ratio for one in row.categories).value, 3),
            str(sum(one.n_patches for one in row.categories)),
        )
        for row in rows
    )
    headings = ("setting", *(heading for heading, _, _ in columns), "foreground", "bank patches")
    return ResultTable("Ablation", headings, cells)


def _without_samples(one: CategoryResult) -> dict[str, object]:
    return {name: value for name, value in category_json(one).items() if name != "samples"}


def _is_alone(sweep: Sweep, rows: Sequence[Row]) -> bool:
    return all(((sweep.knob, value),) in [row.point.changes for row in rows] for value in sweep.values)


def _chart(sweep: Sweep, rows: Sequence[Row]) -> LineChart:
    by_value = {row.point.changes[0][1]: row for row in rows if [knob for knob, _ in row.point.changes] == [sweep.knob]}
    places = [_place(value) for value in sweep.values]
    spreads = [Spread.of([one.image.auroc for one in by_value[value].categories]) for value in sweep.values]
    return LineChart(x=places, series={"image AUROC": spreads}, x_label=sweep.knob, y_label="image AUROC")


def _place(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _applied(variant: Variant, knob: str, value: str) -> Variant:
    match knob:
        case "bpm-threshold" if value == SOFT:
            return replace(variant, bpm_soft=True)
        case "scales":
            return replace(variant, scales=parse_scales(value))
        case "apart":
            return replace(variant, min_distance=_squared_distance(value))
        case "reweighted":
            return replace(variant, reweighted=_yes_no(knob, value))
        case _ if knob in _RECIPE_KNOBS:
            return replace(variant, recipe=_changed(variant.recipe, knob, value))
        case _:
            return variant


def _squared_distance(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"the setting apart has the value {text!r}; use squared distances, such as 0.05") from None


def _changed(recipe: Recipe, knob: str, value: str) -> Recipe:
    name, parse = _RECIPE_KNOBS[knob]
    try:
        parsed = parse(value)
    except ValueError:
        raise UsageError(f"the setting {knob} has the value {value!r}, which it cannot take") from None
    changed: dict[str, object] = {name: parsed}
    return replace(recipe, **changed)  # type: ignore[arg-type]  # each knob's parser gives its field's type


def _yes_no(knob: str, value: str) -> bool:
    if value not in YES_NO:
        raise UsageError(f"the setting {knob} has the value {value!r}; use yes or no")
    return YES_NO[value]


def _number(knob: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"the setting {knob} has the value {value!r}; use whole numbers from 1")
    return int(value)
