"""Whether a candidate is better than the default, from few rejects: paired bootstrap over rejects and good parts.

In each draw the rejects and the good parts are drawn anew with replacement, the same ones for every candidate, and the
threshold is taken from the good parts drawn. Few rejects vouch for more than they know: where three of three gain, so
does every draw of them. Therefore one more takes part in each draw of the rejects, the one that nobody has seen; on it
no candidate differs from the default. tests/unit/evaluation/test_tuning.py holds how often equal candidates are told
apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_uad.inference.scoring import conformal_rank

N_DRAWS = 10_000
DRAWS_AT_ONCE = 500
LEVEL = 0.05
"""Share of comparisons of equals that may find a difference, all candidates together."""
COVERAGE = 0.95
"""Of the intervals around a candidate's own figures."""
FIGURES_COMPARED = 2
"""AUROC, and recall without loss of AUROC: each is a way to be better by chance."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """One candidate's anomaly scores; ``inf`` for a part that it cannot judge, which a line rejects."""

    good: Float64
    """(m,), of parts that their banks had not seen; every candidate's in the same order."""
    rejects: Float64
    """(n,), likewise."""


class Interval(NamedTuple):
    """Percentiles of the draws."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How a candidate differs from the default; the intervals are those that decide."""

    auroc: Estimate
    recall: Estimate
    auroc_share: float
    """Of the draws in which its AUROC is higher."""
    recall_share: float
    """Of the draws in which its recall is higher."""
    better: bool
    """Whether the AUROC's share is as high as it must be, or the recall's, and the AUROC is no lower."""

    @property
    def share(self) -> float:
        """What speaks for it: the AUROC's share, or the recall's where that is higher and the AUROC is no lower."""
        return self.auroc_share if self.auroc.value < 0 else max(self.auroc_share, self.recall_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A candidate's own figures."""

    auroc: Estimate
    """Between rejects and good parts."""
    recall: Estimate
    """Share of the rejects above the threshold."""
    threshold: float
    """Of the good parts' scores, for the false-alarm rate asked for; ``inf`` where too many cannot be judged."""
    gain: Gain | None
    """None for the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the draws say of all candidates."""

    standings: tuple[Standing, ...]
    """The default's first."""
    needed_share: float
    """Of the draws in which a candidate must be better: 95 %, corrected for all comparisons (Bonferroni)."""
    n_draws: int
    chosen: int
    """Among the candidates; 0 for the default."""
    nearest: int | None
    """The candidate with the highest share of draws, or the chosen one; None where there is the default alone."""

    @property
    def gain_coverage(self) -> float:
        """Of the intervals of gains: one lies above zero where the needed share of the draws does."""
        return 1 - 2 * (1 - self.needed_share)


def weigh(
    candidates: Sequence[Scores],
    *,
    false_alarm_rate: float,
    seed: int,
    n_draws: int = N_DRAWS,
    on_drawn: Callable[[int], None] = lambda _: None,
) -> Evidence:
    """Compare every candidate with the first one, the default.

    Args:
        candidates: at least one, each of the same good parts and rejects, of both at least one.
        false_alarm_rate: that the thresholds are for.
        seed: of the draws.
        n_draws: how many.
        on_drawn: called with the number of draws done since its last call.
    """
    allowed = LEVEL / (FIGURES_COMPARED * max(1, len(candidates) - 1))
    pairs = [_Pairs(one, false_alarm_rate) for one in candidates]
    alone, with_unseen = _drawn_figures(pairs, seed=seed, n_draws=n_draws, on_drawn=on_drawn)
    standings = [
        Standing(
            auroc=_estimate(one.auroc, aurocs, 1 - COVERAGE),
            recall=_estimate(one.recall, recalls, 1 - COVERAGE),
            threshold=one.threshold,
            gain=None,
        )
        for one, aurocs, recalls in zip(pairs, *alone, strict=True)
    ]
    for index in range(1, len(pairs)):
        aurocs, recalls = (figures[index] - figures[0] for figures in with_unseen)
        gain = _gain(pairs[index], pairs[0], aurocs, recalls, allowed)
        standings[index] = replace(standings[index], gain=gain)
    chosen, nearest = _choice(standings)
    return Evidence(
        standings=tuple(standings), needed_share=1 - allowed, n_draws=n_draws, chosen=chosen, nearest=nearest
    )


class _Pairs:
    """A candidate's rejects against its good parts, so that a draw of them is a weighing of what is known."""

    def __init__(self, scores: Scores, false_alarm_rate: float) -> None:
        good = np.sort(scores.good)
        rejects = scores.rejects[:, None]
        self._order = np.argsort(scores.good, kind="stable")
        self._rank = min(conformal_rank(len(good), false_alarm_rate), len(good))
        self._higher_twice = 2.0 * (rejects > good) + (rejects == good)  # whole numbers: equal draws are equal
        self._caught = ((rejects > good) | np.isinf(rejects)).astype(np.float64)
        self.shape = self._higher_twice.shape
        self._n_pairs = self._higher_twice.size
        self.auroc = float(self._higher_twice.sum() / 2 / self._n_pairs)
        self.recall = float(self._caught[:, self._rank - 1].mean())
        self.threshold = float(good[self._rank - 1])

    def aurocs(self, rejects: Float64, good: Float64) -> Float64:
        """(draws,), of how often each reject (draws, n) and each good part (draws, m) was drawn."""
        found: Float64 = np.einsum("dm,dm->d", rejects @ self._higher_twice, good[:, self._order]) / 2 / self._n_pairs
        return found

    def recalls(self, rejects: Float64, good: Float64) -> Float64:
        """(draws,), each at the threshold of the good parts drawn."""
        thresholds = np.argmax(good[:, self._order].cumsum(axis=1) >= self._rank, axis=1)
        found: Float64 = np.einsum("dn,nd->d", rejects, self._caught[:, thresholds]) / len(self._caught)
        return found


def _drawn_figures(
    pairs: Sequence[_Pairs], *, seed: int, n_draws: int, on_drawn: Callable[[int], None]
) -> tuple[tuple[Float64, Float64], tuple[Float64, Float64]]:
    """AUROC and recall (candidates, draws) of the rejects at hand, and of these with the one that nobody has seen.

    The latter adds nothing to either figure: they are for differences, and in it the candidates do not differ.
    """
    n_rejects, n_good = pairs[0].shape
    rng = np.random.default_rng(seed)
    alone, with_unseen = ((np.empty((len(pairs), n_draws)), np.empty((len(pairs), n_draws))) for _ in range(2))
    for first in range(0, n_draws, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, n_draws - first)
        good = _draw(rng, n_good, n_good, size)
        drawn = (_draw(rng, n_rejects, n_rejects, size), _draw(rng, n_rejects, n_rejects + 1, size)[:, :-1])
        for (aurocs, recalls), rejects in zip((alone, with_unseen), drawn, strict=True):
            for index, one in enumerate(pairs):
                aurocs[index, first : first + size] = one.aurocs(rejects, good)
                recalls[index, first : first + size] = one.recalls(rejects, good)
        on_drawn(size)
    return alone, with_unseen


def _draw(rng: np.random.Generator, n: int, of: int, n_draws: int) -> Float64:
    """(draws, of), how often each was drawn in n drawings."""
    return rng.multinomial(n, np.full(of, 1 / of), n_draws).astype(np.float64)


def _gain(one: _Pairs, default: _Pairs, aurocs: Float64, recalls: Float64, allowed: float) -> Gain:
    n_draws = len(aurocs)
    auroc = _estimate(one.auroc - default.auroc, aurocs, 2 * allowed)
    n_auroc, n_recall = int((aurocs > 0).sum()), int((recalls > 0).sum())
    # one draw more that is not better: no finite number of them makes a thing certain
    auroc_better, recall_better = ((1 + n_draws - n) / (1 + n_draws) <= allowed for n in (n_auroc, n_recall))
    return Gain(
        auroc=auroc,
        recall=_estimate(one.recall - default.recall, recalls, 2 * allowed),
        auroc_share=n_auroc / n_draws,
        recall_share=n_recall / n_draws,
        better=auroc_better or (recall_better and auroc.value >= 0),
    )


def _estimate(value: float, drawn: Float64, outside: float) -> Estimate:
    low = float(np.quantile(drawn, outside / 2, method="lower"))
    return Estimate(value, Interval(low, float(np.quantile(drawn, 1 - outside / 2, method="higher"))))


def _choice(standings: Sequence[Standing]) -> tuple[int, int | None]:
    """The best of those that are better than the default, else the default; and what comes nearest to being better."""
    gains = {index: one.gain for index, one in enumerate(standings) if one.gain is not None}
    if not gains:
        return 0, None
    better = [index for index, gain in gains.items() if gain.better]
    if better:
        chosen = max(better, key=lambda index: (standings[index].auroc.value, standings[index].recall.value))
        return chosen, chosen
    return 0, max(gains, key=lambda index: (gains[index].share, gains[index].auroc.value))
