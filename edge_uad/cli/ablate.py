"""``edge-uad ablate``: what each setting is worth on a dataset."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from edge_uad.cli.console import TerminalProgress, stderr
from edge_uad.cli.export import parse_layers
from edge_uad.cli.measuring import (
    BackboneOption,
    CacheOption,
    CategoriesOption,
    GoodOption,
    LayoutOption,
    RootArgument,
    make_context,
    open_dataset,
    print_tables,
    print_warnings,
    require_evaluate_extra,
)
from edge_uad.cli.model import open_for_many, spread_for
from edge_uad.cli.options import MachineOptions, RecipeOptions, recipe_of, with_option_groups
from edge_uad.errors import UsageError
from edge_uad.records import Join

if TYPE_CHECKING:
    from bank_tools.evaluation.ablation import Point, Row
    from bank_tools.evaluation.detection import EvaluationContext
    from bank_tools.evaluation.variant import Variant
    from edge_uad.interfaces import Backbone
    from edge_uad.records import ModelCard


@with_option_groups
def ablate(
    root: RootArgument,
    *,
    sweep: Annotated[
        list[str],
        typer.Option("--sweep", help="KNOB=VALUE,VALUE; may be given several times. A set of layers is 2+5+8 or 2-9."),
    ],
    grid: Annotated[bool, typer.Option("--grid", help="Every combination, instead of one knob at a time.")] = False,
    categories: CategoriesOption = None,
    layout: LayoutOption = "auto",
    backbone: BackboneOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of results and finished steps.", show_default="evaluation/DATASET-ablate"),
    ] = None,
    good: GoodOption = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Calibrate thresholds too, at five searches or more.")
    ] = False,
    pixels: Annotated[bool, typer.Option("--pixels/--no-pixels", help="Compare heat with masks.")] = False,
    recipe: RecipeOptions,
    machine: MachineOptions,
    cache_gib: CacheOption = 20.0,
) -> None:
    """Vary settings around a default: table, results.json, report.html. Embeddings are computed once per model.

    Example: [bold]edge-uad ablate mvtec/ --sweep bpm-kernel=1,3,5,7 --sweep layers=2-9,11 --categories bottle[/bold]
    """
    require_evaluate_extra("edge-uad ablate")
    from bank_tools.evaluation.ablation import ablate as run
    from bank_tools.evaluation.ablation import parse_sweep, points_of
    from bank_tools.evaluation.results import check_out, write_results
    from bank_tools.evaluation.variant import Variant
    from bank_tools.report.evaluation import write_report

    sweeps = [parse_sweep(text) for text in sweep]
    points = points_of(sweeps, grid=grid)
    dataset = open_dataset(root, layout, categories)
    out = out or Path("evaluation") / f"{dataset.name}-ablate"
    check_out(out)
    model, workers = open_for_many(backbone, machine)
    chosen = Variant(recipe=recipe_of(model.card, recipe, machine))
    factory = VariantFactory(
        model=model,
        default=chosen,
        kernel_follows_grid=recipe.bpm_kernel is None,
        levels_follow_model=recipe.levels is None,
        machine=machine,
        workers=workers,
        cache_gib=cache_gib,
        out=out,
        pixels=pixels,
        calibrated=calibrate,
    )
    for point in points:
        factory.check(point)
    outcome = run(dataset, sweeps, points, factory.context_for, n_good=good, on_row=_print_row)
    default = factory.context_for(points[0])
    write_results(outcome, default, out / "results.json")
    write_report(outcome, default, out / "report.html")
    print_warnings(outcome.warnings)
    print_tables(outcome.tables)
    stderr.print(f"results: {out / 'results.json'}, report: {out / 'report.html'}", markup=False, highlight=False)


@dataclass(slots=True, kw_only=True)
class VariantFactory:
    """Makes the context of each point; one other model is held besides the default one."""

    model: "Backbone"
    default: "Variant"
    kernel_follows_grid: bool
    levels_follow_model: bool
    machine: MachineOptions
    workers: int
    cache_gib: float
    out: Path
    pixels: bool
    calibrated: bool
    other: "tuple[dict[str, str], Backbone] | None" = None

    def context_for(self, point: "Point") -> "EvaluationContext":
        """The context of one point."""
        return make_context(
            self._model_for(point),
            self.variant(point),
            provider=self.machine.provider,
            workers=self.workers,
            cache_gib=self.cache_gib,
            out=self.out,
            progress=TerminalProgress(),
            pixels=self.pixels,
            calibrated=self.calibrated,
            spread=spread_for(self.machine),
        )

    def check(self, point: "Point") -> None:
        """Refuse what cannot be measured before the first hour of work.

        Raises:
            UsageError: a value that cannot be, or a change of a model whose weights have no name.
        """
        self.variant(point)
        point.n_good(None)
        if point.model_changes():
            from export.variants import require_named

            require_named(self.model.card)

    def variant(self, point: "Point") -> "Variant":
        """The default with the point's changes; levels and mask kernel follow the point's model unless they are told.

        Raises:
            UsageError: a value that cannot be, or levels that the model's patches do not have.
        """
        from bank_tools.bank.recipe import check_levels, grid_of
        from edge_uad.inference.masking import default_kernel

        card = self.card(point)
        recipe = self.default.recipe
        if self.levels_follow_model and "levels" not in dict(point.changes):
            recipe = replace(recipe, levels=card.levels)
        changed = point.applied(replace(self.default, recipe=recipe))
        check_levels(changed.recipe.levels, card.levels)
        grid_hw = grid_of(card, changed.recipe.tiling)
        if self.kernel_follows_grid and "bpm-kernel" not in dict(point.changes):
            changed = replace(changed, recipe=replace(changed.recipe, bpm_kernel=default_kernel(grid_hw)))
        return changed

    def card(self, point: "Point") -> "ModelCard":
        """The card of the point's model, as far as it is known without an export: the id is the default model's.

        Raises:
            UsageError: a value that cannot be.
        """
        card = self.model.card
        settings = _model_settings(point.model_changes())
        if "input_px" in settings:
            side_px = settings["input_px"]
            card = replace(card, input_hw=(side_px, side_px), grid_hw=(side_px // card.patch_px,) * 2)
        return replace(
            card,
            layers=settings.get("layers", card.layers),
            join=settings.get("join", card.join),
            attention_layer=settings.get("attention_layer", card.attention_layer),
            neighbourhood=settings.get("neighbourhood", card.neighbourhood),
        )

    def _model_for(self, point: "Point") -> "Backbone":
        changes = point.model_changes()
        if not changes:
            return self.model
        if self.other is None or self.other[0] != changes:
            other, _ = open_for_many(variant_path(self.model, changes), self.machine)
            self.other = changes, other
        return self.other[1]


def variant_path(model: "Backbone", changes: dict[str, str]) -> Path:
    """The model's weights exported with other settings, see :func:`export.variants.provide_variant`."""
    from export.variants import provide_variant

    return provide_variant(model.card, **_model_settings(changes), console=stderr)


class _ModelSettings(TypedDict, total=False):
    layers: tuple[int, ...]
    attention_layer: int
    input_px: int
    join: Join
    neighbourhood: int


def _model_settings(changes: dict[str, str]) -> _ModelSettings:
    settings: _ModelSettings = {}
    if "layers" in changes:
        settings["layers"] = _layers(changes["layers"])
    if "attention-layer" in changes:
        settings["attention_layer"] = _whole("attention-layer", changes)
    if "input" in changes:
        settings["input_px"] = _whole("input", changes)
    if "neighbourhood" in changes:
        settings["neighbourhood"] = _whole("neighbourhood", changes)
    if "join" in changes:
        settings["join"] = _join(changes["join"])
    return settings


def _join(value: str) -> Join:
    match value:
        case "mean" | "concat" | "levels":
            return value
        case _:
            raise UsageError(f"the setting join has the value {value!r}; use mean, concat or levels")


def _layers(value: str) -> tuple[int, ...]:
    try:
        return parse_layers(value.replace("+", ","))
    except UsageError:
        raise UsageError(
            f"the setting layers has the value {value!r}; give 0-based blocks as 2-9, or 2+5+8, or 11"
        ) from None


def _whole(knob: str, changes: dict[str, str]) -> int:
    if not changes[knob].isdecimal():
        raise UsageError(f"the setting {knob} has the value {changes[knob]!r}; use whole numbers")
    return int(changes[knob])


def _print_row(row: "Row") -> None:
    stderr.print(f"{row.point.label}: image AUROC {row.mean('image', 'auroc')}", markup=False, highlight=False)
