"""How candidates stand: over the sets, against the default, and on each set left out of their choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bank_tools.evaluation.league.measure import LeagueRow
from bank_tools.metrics.image import Mean, mean_of

CRITERION = "mean of image AUROC and recall at 5 % realised false alarms"

Value = Callable[[LeagueRow], float | None]
FIGURES: dict[str, Value] = {
    "criterion": lambda row: row.figures.criterion,
    "auroc": lambda row: row.figures.auroc,
    "aupro_03": lambda row: row.figures.aupro_03,
    "recall_01": lambda row: row.figures.at_01.recall,
    "recall_05": lambda row: row.figures.at_05.recall,
    "recall": lambda row: row.figures.recall,
    "false_alarm_rate": lambda row: row.figures.false_alarm_rate,
    "frame_ms": lambda row: row.time.median_ms if row.time else None,
}
"""A row's figures by the names that results.json gives them."""
HIGHER_IS_WORSE = frozenset({"false_alarm_rate", "frame_ms"})


@dataclass(frozen=True, slots=True)
class Worst:
    """The set where a figure is worst."""

    value: float
    set_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One candidate over all sets."""

    candidate: str
    means: dict[str, Mean]
    """By the names of ``FIGURES``."""
    worst: dict[str, Worst | None]
    deviation: Mean
    """Standard deviation of the criterion over a set's draws, averaged over the sets."""
    n_rate_kept: int
    """Sets where the asked false-alarm rate lies in the interval of the realised one."""
    n_rate_judged: int
    wins: tuple[str, ...] | None
    """Sets where it is better than the default beyond the spread; None for the default, and without a spread."""
    losses: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A set, and the candidate that the other sets chose for it."""

    set_name: str
    chosen: str
    mean_on_others: float
    """The criterion's."""
    row: LeagueRow
    """Of the chosen one, on this set."""


def standings(rows: Sequence[LeagueRow]) -> list[Standing]:
    """Each candidate's, in their order; the first is the default."""
    by_candidate = _by_candidate(rows)
    default = next(iter(by_candidate.values()), [])
    return [_standing(name, its, None if its is default else default) for name, its in by_candidate.items()]


def leave_one_out(rows: Sequence[LeagueRow]) -> list[LeftOut]:
    """For each set the candidate with the highest mean criterion on all others; of equal ones the first.

    A set whose criterion no candidate has takes no part; where a candidate alone has none, because it could not judge
    the good parts, it counts as 0. Empty where fewer than two sets take part.
    """
    by_candidate = {name: {row.set_name: row for row in its} for name, its in _by_candidate(rows).items()}
    names = list(dict.fromkeys(row.set_name for row in rows if row.figures.criterion is not None))
    if len(names) < 2:
        return []
    found = []
    for left_out in names:
        others = [name for name in names if name != left_out]
        means = {
            candidate: sum(its[name].figures.criterion or 0.0 for name in others) / len(others)
            for candidate, its in by_candidate.items()
        }
        chosen = max(means, key=lambda candidate: means[candidate])
        found.append(
            LeftOut(
                set_name=left_out,
                chosen=chosen,
                mean_on_others=means[chosen],
                row=by_candidate[chosen][left_out],
            )
        )
    return found


def beyond_spread(row: LeagueRow, default: LeagueRow) -> int | None:
    """1 where the criterion's mean over the draws is higher than the default's by more than the spread, -1 where lower.

    The spread is the larger of the two standard deviations over the draws.

    Returns:
        0 where they differ by no more; None where one of them has no spread.
    """
    its, other = row.spread(), default.spread()
    if its is None or other is None:
        return None
    gain, spread = its.mean - other.mean, max(its.deviation, other.deviation)
    return 0 if abs(gain) <= spread else 1 if gain > 0 else -1


def _standing(candidate: str, rows: Sequence[LeagueRow], default: Sequence[LeagueRow] | None) -> Standing:
    kept = [row.figures.keeps_rate for row in rows if row.figures.keeps_rate is not None]
    spreads = [row.spread() for row in rows]
    wins, losses = _against(rows, default)
    return Standing(
        candidate=candidate,
        means={name: mean_of(map(value, rows)) for name, value in FIGURES.items()},
        worst={name: _worst(name, value, rows) for name, value in FIGURES.items()},
        deviation=mean_of(None if spread is None else spread.deviation for spread in spreads),
        n_rate_kept=sum(kept),
        n_rate_judged=len(kept),
        wins=wins,
        losses=losses,
    )


def _against(
    rows: Sequence[LeagueRow], default: Sequence[LeagueRow] | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    if default is None:
        return None, None
    found = {row.set_name: beyond_spread(row, other) for row, other in zip(rows, default, strict=True)}
    if all(sign is None for sign in found.values()):
        return None, None
    return (
        tuple(name for name, sign in found.items() if sign == 1),
        tuple(name for name, sign in found.items() if sign == -1),
    )


def _worst(name: str, value: Value, rows: Sequence[LeagueRow]) -> Worst | None:
    known = [Worst(found, row.set_name) for row in rows if (found := value(row)) is not None]
    choose = max if name in HIGHER_IS_WORSE else min
    return choose(known, key=lambda worst: worst.value) if known else None


def _by_candidate(rows: Sequence[LeagueRow]) -> dict[str, list[LeagueRow]]:
    found: dict[str, list[LeagueRow]] = {}
    for row in rows:
        found.setdefault(row.candidate, []).append(row)
    return found
