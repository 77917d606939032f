"""A league as one page: the headline, bars of every set, and what the default gets wrong, in pictures."""

from collections.abc import Sequence
from pathlib import Path

from bank_tools.evaluation.detection import EvaluationContext
from bank_tools.evaluation.league.measure import LeagueRow
from bank_tools.evaluation.league.results import League, candidates_table, headline_table, sets_table
from bank_tools.evaluation.league.standing import CRITERION, FIGURES, Value
from bank_tools.evaluation.results import ResultTable
from bank_tools.evaluation.step_cache import write_result
from bank_tools.report.charts import BarChart, Spread
from bank_tools.report.evaluation import faults
from bank_tools.report.page import Charts, Facts, Notices, Section, Table, page

PICTURES_OF_EACH = 4
"""Misses, and false alarms, shown of each set."""
HEADLINE_NOTE = (
    f"For each set the candidate whose {CRITERION} is highest on average over the other sets; its figures are those of "
    "the set that had no say in the choice."
)
CANDIDATES_NOTE = (
    f"criterion: the {CRITERION}. spread: its standard deviation over the draws, averaged over the sets. rate kept: on "
    "how many sets the false-alarm rate asked for lies in the 95 % interval of the realised one. wins, losses: on how "
    "many sets the criterion's mean over the draws is above, or below, the default's by more than the larger of the "
    "two standard deviations. ms: median of one frame alone, embedding and search, averaged over the sets, on the "
    "processor named under Settings."
)
SETS_NOTE = (
    "recall 1 % and 5 %: the threshold is set on the test's good parts, so that at most that part of them is called "
    "anomalous; recall: at the threshold that good parts alone were calibrated for."
)


def write_league_report(league: League, context: EvaluationContext, path: Path) -> None:
    """Write the page.

    Args:
        league: finished.
        context: of the default candidate, whose pictures are shown.
        path: of the page.

    Raises:
        UsageError: it cannot be written.
    """
    sections = []
    if headline := headline_table(league.left_out):
        sections.append(_section(headline, HEADLINE_NOTE))
    sections += [
        _section(candidates_table(league), CANDIDATES_NOTE),
        Section("Set by set", [Charts(_charts(league))]),
        _section(sets_table(league), SETS_NOTE),
    ]
    for result in league.measured.default_results:
        sections += faults(result, context, shown=PICTURES_OF_EACH)
    changes = {f"candidate {one.name}": one.settings for one in league.candidates}
    facts = {**league.settings, **changes}
    sections.append(Section("Settings", [Facts({name.replace("_", " "): value for name, value in facts.items()})]))
    if league.measured.warnings:
        sections.append(Section("Warnings", [Notices(league.measured.warnings)]))
    card = context.sample_embedder.embedder.backbone.card
    lead = f"{len(league.candidates)} candidates on {len(league.sets)} sets; default model {card.backbone}"
    write_result(path, page("League", lead, sections))


def _section(table: ResultTable, note: str) -> Section:
    return Section(table.title, [Table(table.columns, table.rows)], note)


def _charts(league: League) -> list[BarChart]:
    titles = {
        "auroc": "image AUROC",
        "recall_05": "recall at 5 % realised false alarms",
        "recall_01": "recall at 1 % realised false alarms",
        "recall": "recall at the calibrated threshold",
    }
    return [_chart(league, FIGURES[name], name, title) for name, title in titles.items()]


def _chart(league: League, value: Value, name: str, title: str) -> BarChart:
    rows = {(row.candidate, row.set_name): row for row in league.measured.rows}
    return BarChart(
        groups=[one.name for one in league.sets],
        series={
            candidate.name: [_bar(rows[candidate.name, one.name], value, name) for one in league.sets]
            for candidate in league.candidates
        },
        x_label=title,
    )


def _bar(row: LeagueRow, value: Value, name: str) -> Spread | None:
    """The figure, with the lowest and highest of the draws where they have it."""
    figure = value(row)
    if figure is None:
        return None
    drawn: Sequence[float] = [one for draw in row.draws if (one := getattr(draw, name, None)) is not None]
    return Spread(figure, min((figure, *drawn)), max((figure, *drawn)))
