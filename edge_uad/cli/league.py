"""``edge-uad evaluate`` with several roots or candidates: the league."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.ablate import VariantFactory, variant_path
from edge_uad.cli.console import note, print_json, stderr, warn
from edge_uad.cli.measuring import print_tables, print_warnings

if TYPE_CHECKING:
    from bank_tools.datasets import Dataset
    from bank_tools.evaluation.detection import EvaluationContext
    from bank_tools.evaluation.league.candidates import Candidate, LeagueSet
    from bank_tools.evaluation.league.frame_time import FrameTime
    from bank_tools.evaluation.league.measure import LeagueRow
    from bank_tools.evaluation.step_cache import StepCache
    from edge_uad.interfaces import Backbone


def run_league(
    datasets: "Sequence[Dataset]",
    candidate_texts: Sequence[str],
    factory: VariantFactory,
    *,
    model_path: Path,
    n_good: int | None,
    n_draws: int,
    draw_ratio: float | None,
    timed: bool,
    as_json: bool,
) -> None:
    """Measure, print and write the league.

    Args:
        datasets: as read; each of their categories is a set.
        candidate_texts: as ``--candidate`` gave them; the default is one by itself.
        factory: makes each candidate's context.
        model_path: of the default's model.
        n_good: learn from so many good images of each set; None for all.
        n_draws: repetitions that give the spread.
        draw_ratio: part of the good images in each; None for all.
        timed: whether what one frame alone costs is measured.
        as_json: print results.json instead of tables.

    Raises:
        UsageError: a candidate that cannot be, or sets that cannot be told apart; before any work.
    """
    from bank_tools.evaluation.league.candidates import candidates_of, sets_of
    from bank_tools.evaluation.league.measure import measure_league
    from bank_tools.evaluation.league.results import League, league_json, league_tables, write_league
    from bank_tools.evaluation.league.standing import CRITERION
    from bank_tools.evaluation.tasks import settings_of
    from bank_tools.report.league import write_league_report

    candidates = candidates_of(candidate_texts)
    sets = sets_of(datasets)
    for candidate in candidates:
        factory.check(candidate.point)
    timer = _Timer(factory, model_path)
    models: dict[str, str] = {}
    steps: list[StepCache] = []

    def context_for(candidate: "Candidate") -> "EvaluationContext":
        context = factory.context_for(candidate.point)
        models[candidate.name] = context.sample_embedder.embedder.backbone.card.model_id
        steps.append(context.steps)
        return context

    measured = measure_league(
        sets,
        candidates,
        context_for,
        timer.frame_time if timed else None,
        n_good=n_good,
        n_draws=n_draws,
        draw_ratio=draw_ratio,
        on_row=_RowPrinter(len(sets) * len(candidates)),
    )
    default = factory.context_for(candidates[0].point)
    draws = {"good": n_good, "draws": n_draws, "draw_ratio": draw_ratio, "processor": timer.processor}
    league = League(
        sets=tuple(sets),
        candidates=tuple(candidates),
        measured=measured,
        models=models,
        settings={**settings_of(default), **draws},
    )
    out = factory.out
    write_league(league, out / "results.json")
    write_league_report(league, default, out / "report.html")
    print_warnings(measured.warnings)
    _warn_of_disturbed_times(measured.rows)
    if as_json:
        print_json(league_json(league))
    else:
        print_tables(league_tables(league))
        note(f"criterion: {CRITERION}; wins and losses are beyond the spread of the draws; ms on {timer.processor}")
    if n_found := sum(one.n_found for one in steps):
        stderr.print(f"{n_found} steps were kept from before", highlight=False)
    stderr.print(f"results: {out / 'results.json'}, report: {out / 'report.html'}", markup=False, highlight=False)


def _warn_of_disturbed_times(rows: "Sequence[LeagueRow]") -> None:
    times = [row.time for row in rows if row.time is not None]
    if disturbed := [time.busy_ratio or 0.0 for time in times if time.disturbed]:
        warn(
            f"{len(disturbed)} of {len(times)} frame times were measured while other programs took up to "
            f"{max(disturbed):.0%} of the machine; run it again on a quiet machine: these alone are measured anew"
        )


@dataclass(slots=True)
class _RowPrinter:
    """One line for each row, with how many there will be."""

    n_rows: int
    n_done: int = 0

    def __call__(self, row: "LeagueRow") -> None:
        from bank_tools.metrics.image import show

        self.n_done += 1
        figures = row.figures
        text = (
            f"{self.n_done} of {self.n_rows}: {row.candidate} on {row.set_name}: image AUROC {show(figures.auroc)}, "
            f"recall at 5 % {show(figures.at_05.recall)}, {show(row.time.median_ms if row.time else None, 0)} ms"
        )
        stderr.print(text, markup=False, highlight=False)


class _Timer:
    """Times frames with a model that has all the threads a frame alone may have; one model is held at a time."""

    def __init__(self, factory: VariantFactory, model_path: Path) -> None:
        from bank_tools.bench.machine import machine
        from edge_uad.runtime.workers import available_cores

        self._factory = factory
        self._model_path = model_path
        self._held: tuple[dict[str, str], Backbone] | None = None
        options = factory.machine
        threads = options.threads or available_cores()
        on_cpu = f"{machine()['CPU']}, {threads} thread{'' if threads == 1 else 's'}"
        self.processor = on_cpu if options.provider == "cpu" else f"{options.provider} beside {on_cpu}"

    def frame_time(
        self, candidate: "Candidate", one: "LeagueSet", context: "EvaluationContext", n_good: int
    ) -> "FrameTime | None":
        """See :class:`bank_tools.evaluation.league.measure.FrameTimer`."""
        from bank_tools.evaluation.league.frame_time import frame_time

        [category] = one.dataset.categories
        backbone = self._backbone(candidate, context)
        return frame_time(category, context, backbone, processor=self.processor, n_good=n_good)

    def _backbone(self, candidate: "Candidate", context: "EvaluationContext") -> "Backbone":
        """The candidate's model; that of the searches itself where they too run one image at a time."""
        from edge_uad.runtime.backbones import load_backbone

        if self._factory.workers == 1:
            return context.sample_embedder.embedder.backbone
        changes = candidate.point.model_changes()
        if self._held is None or self._held[0] != changes:
            options = self._factory.machine
            path = variant_path(self._factory.model, changes) if changes else self._model_path
            self._held = None
            self._held = changes, load_backbone(path, provider=options.provider, threads=options.threads)
        return self._held[1]
