"""``edge-uad evaluate``: a dataset in, every metric of a task out."""

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.ablate import VariantFactory
from edge_uad.cli.console import TerminalProgress, print_json, stderr
from edge_uad.cli.league import run_league
from edge_uad.cli.measuring import (
    BackboneOption,
    CacheOption,
    CategoriesOption,
    GoodOption,
    LayoutOption,
    RootsArgument,
    make_context,
    open_dataset,
    print_category,
    print_tables,
    print_warnings,
    require_evaluate_extra,
    whole_numbers,
)
from edge_uad.cli.model import model_or_default, open_for_many, spread_for
from edge_uad.cli.options import (
    ApartOption,
    JsonOption,
    MachineOptions,
    RecipeOptions,
    ReweightedOption,
    ScalesOption,
    TurnGoodOption,
    recipe_of,
    with_option_groups,
)
from edge_uad.errors import UsageError
from edge_uad.records import Rotations

if TYPE_CHECKING:
    from bank_tools.datasets import Dataset
    from bank_tools.evaluation.detection import EvaluationContext
    from bank_tools.evaluation.results import Outcome


class Task(StrEnum):
    """What is measured (ALGORITHM §6)."""

    DEFECT = "defect"
    SEMANTIC = "semantic"
    MULTI_CLASS = "multi-class"
    LOW_SHOT = "low-shot"
    CLUSTER = "cluster"


@with_option_groups
def evaluate(
    roots: RootsArgument,
    *,
    task: Annotated[Task, typer.Option("--task", help="What is measured.")] = Task.DEFECT,
    categories: CategoriesOption = None,
    layout: LayoutOption = "auto",
    backbone: BackboneOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder of results and finished steps.",
            show_default="evaluation/DATASET-TASK, evaluation/league",
        ),
    ] = None,
    good: GoodOption = None,
    shots: Annotated[
        str, typer.Option("--shots", help="Numbers of good images, for the task low-shot.")
    ] = "1,2,5,10,16,50",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Draws: of each number for the task low-shot, of a league's sets.")
    ] = 3,
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", help="Of a league: NAME: SETTING=VALUE …, those of ablate --sweep; repeatable."),
    ] = None,
    draw: Annotated[
        float | None,
        typer.Option("--draw", help="Part of the good images in each draw of a league.", show_default="all of them"),
    ] = None,
    pixels: Annotated[bool, typer.Option("--pixels/--no-pixels", help="Compare heat with masks.")] = True,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Calibrate thresholds, at five searches or more beside the one of the test.",
        ),
    ] = True,
    times: Annotated[
        bool, typer.Option("--times/--no-times", help="Of a league: measure what one frame alone costs.")
    ] = True,
    recipe: RecipeOptions,
    turn_good: TurnGoodOption = False,
    scales: ScalesOption = "1",
    reweighted: ReweightedOption = False,
    apart: ApartOption = 0.0,
    machine: MachineOptions,
    cache_gib: CacheOption = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the method on a dataset: table, results.json, report.html. Killed and started again, it goes on.

    Several roots, or --candidate, make a league: every candidate on every category; for each of these the candidate
    that is best on all others is judged.

    Example: [bold]edge-uad evaluate mvtec/ --task defect --categories bottle,screw --out runs/mvtec[/bold]

    Example: [bold]edge-uad evaluate tiles/ pills/ --candidate "fine: input=448 layers=5+11"[/bold]
    """
    require_evaluate_extra("edge-uad evaluate")
    from bank_tools.evaluation.results import check_out, write_results
    from bank_tools.evaluation.variant import Variant, parse_scales
    from bank_tools.report.evaluation import write_report

    numbers = whole_numbers(shots, "--shots")
    _check_league_options(roots, task, categories=categories, candidate=candidate, draw=draw)
    datasets = [open_dataset(root, layout, categories) for root in roots]
    is_league = len(roots) > 1 or bool(candidate)
    out = out or Path("evaluation") / ("league" if is_league else f"{datasets[0].name}-{task}")
    check_out(out)
    model_path = model_or_default(backbone)
    model, workers = open_for_many(model_path, machine)
    chosen = recipe_of(model.card, recipe, machine)
    variant = Variant(
        recipe=replace(chosen, rotations=Rotations.QUARTER) if turn_good else chosen,
        scales=parse_scales(scales),
        reweighted=reweighted,
        min_distance=apart,
    )
    if is_league:
        run_league(
            datasets,
            candidate or [],
            VariantFactory(
                model=model,
                default=variant,
                kernel_follows_grid=recipe.bpm_kernel is None,
                levels_follow_model=recipe.levels is None,
                machine=machine,
                workers=workers,
                cache_gib=cache_gib,
                out=out,
                pixels=pixels,
                calibrated=calibrate,
            ),
            model_path=model_path,
            n_good=good,
            n_draws=seeds,
            draw_ratio=draw,
            timed=times,
            as_json=as_json,
        )
        return
    [dataset] = datasets
    context = make_context(
        model,
        variant,
        provider=machine.provider,
        workers=workers,
        cache_gib=cache_gib,
        out=out,
        progress=TerminalProgress(),
        pixels=pixels and task is not Task.LOW_SHOT,
        calibrated=calibrate and task is not Task.CLUSTER,
        on_category=print_category,
        spread=spread_for(machine),
    )
    outcome = _run(task, dataset, context, good=good, shots=numbers, seeds=seeds)
    write_results(outcome, context, out / "results.json")
    write_report(outcome, context, out / "report.html")
    print_warnings(outcome.warnings)
    if as_json:
        print_json(json.loads((out / "results.json").read_text(encoding="utf-8")))
    else:
        print_tables(outcome.tables)
    if context.steps.n_found:
        stderr.print(f"{context.steps.n_found} steps were kept from before", highlight=False)
    stderr.print(f"results: {out / 'results.json'}, report: {out / 'report.html'}", markup=False, highlight=False)


def _check_league_options(
    roots: list[Path], task: Task, *, categories: str | None, candidate: list[str] | None, draw: float | None
) -> None:
    if (len(roots) > 1 or candidate) and task is not Task.DEFECT:
        raise UsageError(
            f"a league of several roots or candidates is of --task defect; give --task {task} one root alone"
        )
    if len(roots) > 1 and categories is not None:
        raise UsageError("--categories chooses among those of one root; name the categories' own folders as roots")
    if draw is not None and not (len(roots) > 1 or candidate):
        raise UsageError("--draw is of a league; give several roots or --candidate")
    if draw is not None and not 0 < draw < 1:
        raise UsageError(f"--draw is {draw:g}; give a part of the good images between 0 and 1, such as 0.8")


def _run(
    task: Task,
    dataset: "Dataset",
    context: "EvaluationContext",
    *,
    good: int | None,
    shots: tuple[int, ...],
    seeds: int,
) -> "Outcome":
    from bank_tools.evaluation.tasks import run_clustering, run_low_shot, run_multi_class, run_per_category

    match task:
        case Task.DEFECT | Task.SEMANTIC:
            return run_per_category(dataset, context, n_good=good, task=task.value)
        case Task.MULTI_CLASS:
            return run_multi_class(dataset, context, n_good=good)
        case Task.LOW_SHOT:
            return run_low_shot(dataset, context, shots=shots, n_seeds=seeds)
        case Task.CLUSTER:
            return run_clustering(dataset, context, n_good=good)
