"""A league as tables for people and as JSON for machines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bank_tools.evaluation.league.candidates import Candidate, LeagueSet
from bank_tools.evaluation.league.measure import LeagueRow, Measured
from bank_tools.evaluation.league.standing import (
    CRITERION,
    FIGURES,
    LeftOut,
    Standing,
    beyond_spread,
    leave_one_out,
    standings,
)
from bank_tools.evaluation.results import MEAN, RESULTS_SCHEMA, ResultTable, dataset_digest, package_versions
from bank_tools.evaluation.step_cache import write_result
from bank_tools.metrics.image import ABSENT, mean_of, show
from edge_uad import __version__

LEAGUE = "league"
HEADLINE_TITLE = "Left out: on each set the candidate that is best on all others"


@dataclass(frozen=True, slots=True, kw_only=True)
class League:
    """A finished league."""

    sets: tuple[LeagueSet, ...]
    candidates: tuple[Candidate, ...]
    measured: Measured
    models: Mapping[str, str]
    """Candidate → the id of its model."""
    settings: Mapping[str, object]
    """Of the default candidate, of the draws, and the processor."""

    @property
    def left_out(self) -> list[LeftOut]:
        """Each set with its choice by the others."""
        return leave_one_out(self.measured.rows)

    @property
    def standings(self) -> list[Standing]:
        """Each candidate's, the default first."""
        return standings(self.measured.rows)


def league_tables(league: League) -> list[ResultTable]:
    """Sets and candidates, candidates over the sets, and the headline, which comes last on a terminal."""
    tables = [sets_table(league), candidates_table(league)]
    headline = headline_table(league.left_out)
    return [*tables, headline] if headline else tables


def headline_table(found: Sequence[LeftOut]) -> ResultTable | None:
    """Each set left out, judged by the candidate that was chosen without it; None for fewer than two sets."""
    if not found:
        return None
    names = ("auroc", "aupro_03", "recall_01", "recall_05", "recall", "false_alarm_rate")
    rows = [
        (
            one.set_name,
            one.chosen,
            show(one.mean_on_others),
            *(show(FIGURES[name](one.row)) for name in names),
            show(FIGURES["frame_ms"](one.row), 0),
        )
        for one in found
    ]
    means = (str(mean_of(FIGURES[name](one.row) for one in found)) for name in names)
    rows.append((MEAN, "", "", *means, show(mean_of(FIGURES["frame_ms"](one.row) for one in found).value, 0)))
    columns = (
        "set left out", "chosen", "on others", "AUROC", "AUPRO 0.3", "recall 1 %", "recall 5 %", "recall",
        "false alarms", "ms",
    )  # fmt: skip
    return ResultTable(HEADLINE_TITLE, columns, tuple(rows))


def candidates_table(league: League) -> ResultTable:
    """Each candidate over all sets: mean and worst, its spread, and how it stands against the default."""
    rows = [
        (
            one.candidate,
            str(one.means["criterion"]),
            show(one.deviation.value),
            *(text for name in ("auroc", "recall_05", "recall_01") for text in _mean_and_worst(one, name)),
            *(str(one.means[name]) for name in ("aupro_03", "recall")),
            f"{one.n_rate_kept} of {one.n_rate_judged}",
            show(one.means["frame_ms"].value, 0),
            ABSENT if one.wins is None else str(len(one.wins)),
            ABSENT if one.losses is None else str(len(one.losses)),
        )
        for one in league.standings
    ]
    columns = (
        "candidate", "criterion", "spread", "AUROC", "worst", "recall 5 %", "worst", "recall 1 %", "worst",
        "AUPRO 0.3", "recall", "rate kept", "ms", "wins", "losses",
    )  # fmt: skip
    return ResultTable("Candidates over all sets", columns, tuple(rows))


def sets_table(league: League) -> ResultTable:
    """A row for each candidate on each set, set by set."""
    rows = [
        (one.name, *_set_cells(row)) for one in league.sets for row in league.measured.rows if row.set_name == one.name
    ]
    columns = (
        "set", "candidate", "good", "test good", "bad", "AUROC", "AUPRO 0.3", "recall 1 %", "recall 5 %", "spread",
        "recall", "false alarms", "95 % interval", "asked in it", "ms",
    )  # fmt: skip
    return ResultTable("Sets and candidates", columns, tuple(rows))


def league_json(league: League) -> dict[str, Any]:
    """Every number, unrounded."""
    default = {row.set_name: row for row in league.measured.rows if row.candidate == league.candidates[0].name}
    return {
        "schema": RESULTS_SCHEMA,
        "edge_uad": __version__,
        "packages": package_versions(),
        "task": LEAGUE,
        "criterion": CRITERION,
        "settings": dict(league.settings),
        "sets": [
            {"name": one.name, "layout": one.dataset.layout, "digest": dataset_digest(one.dataset)}
            for one in league.sets
        ],
        "candidates": [
            {
                "name": candidate.name,
                "changes": dict(candidate.point.changes),
                "model_id": league.models[candidate.name],
                **_standing_json(standing),
            }
            for candidate, standing in zip(league.candidates, league.standings, strict=True)
        ],
        "results": [_row_json(row, default[row.set_name]) for row in league.measured.rows],
        "left_out": [
            {"set": one.set_name, "chosen": one.chosen, "criterion_on_others": one.mean_on_others, **_values(one.row)}
            for one in league.left_out
        ],
        "headline": {
            name: asdict(mean_of(value(one.row) for one in league.left_out)) for name, value in FIGURES.items()
        },
        "warnings": list(league.measured.warnings),
    }


def write_league(league: League, path: Path) -> None:
    """``results.json``: the same for the same inputs, except for the times.

    Raises:
        UsageError: it cannot be written.
    """
    text = json.dumps(league_json(league), indent=1, sort_keys=True, default=str, allow_nan=False)
    write_result(path, (text + "\n").encode())


def _set_cells(row: LeagueRow) -> tuple[str, ...]:
    figures = row.figures
    spread = row.spread()
    known = figures.false_alarm_low is not None
    interval = f"{show(figures.false_alarm_low, 3)}-{show(figures.false_alarm_high, 3)}" if known else ABSENT
    return (
        row.candidate,
        str(figures.n_good),
        str(figures.n_normal),
        str(figures.n_anomalous),
        *map(show, (figures.auroc, figures.aupro_03, figures.at_01.recall, figures.at_05.recall)),
        show(spread.deviation if spread else None),
        show(figures.recall),
        show(figures.false_alarm_rate),
        interval,
        ABSENT if figures.keeps_rate is None else "yes" if figures.keeps_rate else "no",
        show(row.time.median_ms if row.time else None, 0),
    )


def _mean_and_worst(standing: Standing, name: str) -> tuple[str, str]:
    worst = standing.worst[name]
    return str(standing.means[name]), show(worst.value if worst else None)


def _standing_json(standing: Standing) -> dict[str, Any]:
    found = asdict(standing)
    del found["candidate"]
    return found


def _row_json(row: LeagueRow, default: LeagueRow) -> dict[str, Any]:
    found = asdict(row)
    for rate in ("at_01", "at_05"):
        found["figures"][rate] = _finite(found["figures"][rate])
    spread = row.spread()
    return {
        "candidate": row.candidate,
        "set": row.set_name,
        "figures": {**found["figures"], "criterion": row.figures.criterion, "keeps_rate": row.figures.keeps_rate},
        "scores": found["scores"],
        "draws": [{**asdict(draw), "criterion": draw.criterion} for draw in row.draws],
        "spread": asdict(spread) if spread else None,
        "against_default": None if row is default else beyond_spread(row, default),
        "time": asdict(row.time) if row.time else None,
    }


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    """JSON has no infinity: the threshold that calls every part anomalous is none."""
    return {name: None if value in (float("inf"), float("-inf")) else value for name, value in values.items()}


def _values(row: LeagueRow) -> dict[str, float | None]:
    return {name: value(row) for name, value in FIGURES.items()}
