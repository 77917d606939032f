"""``edge-uad tune``: which settings a few rejects speak for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.ablate import VariantFactory
from edge_uad.cli.bank_commands import bank_commands, check_buildable
from edge_uad.cli.console import TerminalProgress, note, print_json, print_line, stderr
from edge_uad.cli.measuring import (
    BackboneOption,
    CacheOption,
    print_tables,
    print_warnings,
    require_evaluate_extra,
)
from edge_uad.cli.model import open_for_many
from edge_uad.cli.options import JsonOption, MachineOptions, RecipeOptions, recipe_of, with_option_groups
from edge_uad.errors import UsageError

if TYPE_CHECKING:
    from bank_tools.evaluation.detection import EvaluationContext
    from bank_tools.evaluation.league.candidates import Candidate
    from bank_tools.evaluation.tuning.measure import LeftOut, Tried


@with_option_groups
def tune(
    normals: Annotated[str, typer.Argument(help="Good images: a folder or a quoted glob.")],
    *,
    rejects: Annotated[str, typer.Option("--rejects", help="Images of rejects, three or more: a folder or a glob.")],
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            help="NAME: SETTING=VALUE …, those of ablate --sweep; repeatable.",
            show_default="top ratios, one level, mask on and off, 224 px",
        ),
    ] = None,
    backbone: BackboneOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of results and finished steps.")] = Path("tuning"),
    recipe: RecipeOptions,
    machine: MachineOptions,
    cache_gib: CacheOption = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Choose settings by a few rejects: another than the default only where the evidence for it is not thin.

    Prints the command that builds the bank so, and leaves a page that shows why. Killed and started again, it goes on.

    Example: [bold]edge-uad tune normals/ --rejects rejects/ --false-alarm-rate 0.02[/bold]
    """
    require_evaluate_extra("edge-uad tune")
    from bank_tools.evaluation.league.candidates import candidates_of
    from bank_tools.evaluation.results import check_out
    from bank_tools.evaluation.tuning.evidence import N_DRAWS, weigh
    from bank_tools.evaluation.tuning.measure import SURVIVORS, measure_candidates
    from bank_tools.evaluation.tuning.parts import read_parts
    from bank_tools.evaluation.tuning.results import Tuning, sentence_of, tuning_json, tuning_table, write_tuning
    from bank_tools.evaluation.variant import Variant
    from bank_tools.report.tuning import write_tuning_report

    asked = candidates_of(candidate or SURVIVORS)[1:]
    for one in asked:
        check_buildable(one)
    progress = TerminalProgress()
    parts = read_parts(normals, rejects, progress)
    check_out(out)
    model, workers = open_for_many(backbone, machine)
    factory = VariantFactory(
        model=model,
        default=Variant(recipe=recipe_of(model.card, recipe, machine)),
        kernel_follows_grid=recipe.bpm_kernel is None,
        levels_follow_model=recipe.levels is None,
        machine=machine,
        workers=workers,
        cache_gib=cache_gib,
        out=out,
        pixels=False,
        calibrated=True,
    )
    candidates, left_out = _checked(asked, factory, required=candidate is not None)

    def context_for(one: "Candidate") -> "EvaluationContext":
        return factory.context_for(one.point)

    measured = measure_candidates(
        parts, candidates, context_for, left_out=left_out, required=candidate is not None, on_tried=_print_tried
    )
    with progress.step("weighing", N_DRAWS, "draws") as done:
        evidence = weigh(
            [tried.scores for tried in measured.tried],
            false_alarm_rate=recipe.false_alarm_rate,
            seed=recipe.seed,
            on_drawn=done,
        )
    chosen = measured.tried[evidence.chosen].candidate
    default = factory.default.recipe
    tuning = Tuning(
        measured=measured,
        evidence=evidence,
        commands=bank_commands(
            normals, chosen, card=factory.card(chosen.point), model=backbone, recipe=recipe, machine=machine
        ),
        settings={
            "false_alarm_rate": default.false_alarm_rate,
            "seed": default.seed,
            "coreset": default.coreset_ratio,
            "max_patches": default.max_patches,
            "geometry": default.geometry.value,
            "roi": default.roi,
            "backbone": model.card.backbone,
        },
    )
    write_tuning(tuning, out / "results.json")
    write_tuning_report(tuning, out / "report.html")
    for absent in measured.left_out:
        note(f"left out: {absent.candidate.name}: {absent.reason}")
    print_warnings(measured.warnings)
    if as_json:
        print_json(tuning_json(tuning))
    else:
        print_tables([tuning_table(tuning)])
        print_line(sentence_of(tuning))
        for command in tuning.commands:
            print_line(f"  {command}")
    stderr.print(f"results: {out / 'results.json'}, report: {out / 'report.html'}", markup=False, highlight=False)


def _checked(
    candidates: "list[Candidate]", factory: VariantFactory, *, required: bool
) -> "tuple[list[Candidate], list[LeftOut]]":
    """Those that can be measured and differ from the default.

    Raises:
        UsageError: one that is required cannot be.
    """
    from bank_tools.evaluation.tuning.measure import LeftOut

    default = factory.default
    kept, left_out = [], []
    for one in candidates:
        try:
            factory.check(one.point)
        except UsageError as error:
            if required:
                raise
            left_out.append(LeftOut(candidate=one, reason=str(error)))
            continue
        if factory.variant(one.point) == default and factory.card(one.point) == factory.model.card:
            left_out.append(LeftOut(candidate=one, reason="it is the default's own setting"))
        else:
            kept.append(one)
    return kept, left_out


def _print_tried(tried: "Tried") -> None:
    n_good, n_rejects = len(tried.scores.good), len(tried.scores.rejects)
    note(f"{tried.candidate.name}: {n_good} good parts and {n_rejects} rejects scored, {tried.n_patches} patches")
