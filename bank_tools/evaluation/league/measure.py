"""Every candidate on every set: the figures of all good images, and the spread of repeated draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Protocol

from bank_tools.evaluation.detection import CategoryResult, EvaluationContext, evaluate_categories
from bank_tools.evaluation.league.candidates import Candidate, LeagueSet
from bank_tools.evaluation.league.frame_time import FrameTime
from bank_tools.metrics.image import RecallAtRate, recall_at_rate

RATE_01, RATE_05 = 0.01, 0.05
"""Realised false-alarm rates at which recall is compared."""


class FrameTimer(Protocol):
    """Times a candidate on a set."""

    def __call__(
        self, candidate: Candidate, one: LeagueSet, context: EvaluationContext, n_good: int
    ) -> FrameTime | None:
        """What one frame alone costs; None where it cannot be timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How a candidate does on a set's test images; None for what cannot be computed."""

    n_good: int
    """Learned."""
    n_normal: int
    n_anomalous: int
    n_invalid: int
    n_patches: int
    auroc: float | None
    aupro_03: float | None
    at_01: RecallAtRate
    """At 1 % realised false alarms."""
    at_05: RecallAtRate
    threshold: float | None
    asked_rate: float
    """What the threshold was calibrated for."""
    recall: float | None
    """At the calibrated threshold."""
    false_alarm_rate: float | None
    false_alarm_low: float | None
    false_alarm_high: float | None

    @property
    def criterion(self) -> float | None:
        """Mean of image AUROC and recall at 5 % realised false alarms: what candidates are chosen by."""
        return criterion_of(self.auroc, self.at_05.recall)

    @property
    def keeps_rate(self) -> bool | None:
        """Whether the asked rate lies in the interval of the realised one."""
        if self.false_alarm_low is None or self.false_alarm_high is None:
            return None
        return self.false_alarm_low <= self.asked_rate <= self.false_alarm_high


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One repetition with another seed, and other good images where a part of them is drawn."""

    seed: int
    n_good: int
    auroc: float | None
    recall_01: float | None
    recall_05: float | None

    @property
    def criterion(self) -> float | None:
        """As of :class:`Figures`."""
        return criterion_of(self.auroc, self.recall_05)


@dataclass(frozen=True, slots=True)
class DrawSpread:
    """A figure over several draws."""

    mean: float
    deviation: float
    """Standard deviation over the sample."""
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "DrawSpread | None":
        """None where fewer than two could be computed."""
        known = [value for value in values if value is not None]
        return cls(mean(known), stdev(known), len(known)) if len(known) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScores:
    """The scores that the figures are of, so that other questions need no other run."""

    names: tuple[str, ...]
    """Of the test images, in their order."""
    anomalous: tuple[bool, ...]
    """What each of them is."""
    test: tuple[float | None, ...]
    """Of each of them; None where it cannot be judged."""
    good: tuple[float, ...]
    """Of the good images learned, each against coresets of the others, ascending; empty where nothing is calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueRow:
    """One candidate on one set."""

    candidate: str
    set_name: str
    figures: Figures
    scores: ImageScores
    draws: tuple[Draw, ...]
    time: FrameTime | None

    def spread(self, name: str = "criterion") -> DrawSpread | None:
        """Of one figure of the draws."""
        return DrawSpread.of([getattr(draw, name) for draw in self.draws])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All rows, candidate by candidate, and what the report shows pictures of."""

    rows: tuple[LeagueRow, ...]
    default_results: tuple[CategoryResult, ...]
    """The first candidate's, set by set."""
    warnings: tuple[str, ...]


def measure_league(
    sets: Sequence[LeagueSet],
    candidates: Sequence[Candidate],
    context_for: Callable[[Candidate], EvaluationContext],
    time_frame: FrameTimer | None,
    *,
    n_good: int | None,
    n_draws: int,
    draw_ratio: float | None,
    on_row: Callable[[LeagueRow], None],
) -> Measured:
    """Measure every candidate on every set.

    The figures are those of all good images with the first seed. The draws repeat the search with ``n_draws`` seeds:
    of the coreset and, with ``draw_ratio``, of the good images learned. They are neither calibrated nor localised.

    Args:
        sets: what is tested on.
        candidates: the default first.
        context_for: a candidate's context; called once for each, one after the other.
        time_frame: measures what a frame costs; None to leave it out.
        n_good: learn from so many good images of each set; None for all.
        n_draws: at least 1; from 2 on there is a spread.
        draw_ratio: part of the good images in each draw, above 0 to below 1; None for all of them.
        on_row: called with each row when it is measured.
    """
    rows: list[LeagueRow] = []
    default_results: list[CategoryResult] = []
    warnings: dict[str, None] = {}
    for candidate in candidates:
        context = context_for(candidate)
        asked = candidate.point.n_good(n_good)
        for one in sets:
            [result] = evaluate_categories(one.dataset, context, n_good=asked)
            row = LeagueRow(
                candidate=candidate.name,
                set_name=one.name,
                figures=figures_of(result, context.variant.recipe.false_alarm_rate),
                scores=_scores(result),
                draws=_draws(one, context, result, n_good=asked, n_draws=n_draws, draw_ratio=draw_ratio),
                time=time_frame(candidate, one, context, result.n_good) if time_frame else None,
            )
            rows.append(row)
            warnings |= dict.fromkeys(result.warnings)
            if candidate is candidates[0]:
                default_results.append(result)
            on_row(row)
    return Measured(rows=tuple(rows), default_results=tuple(default_results), warnings=tuple(warnings))


def figures_of(result: CategoryResult, asked_rate: float) -> Figures:
    """The figures of one search, calibrated for ``asked_rate``."""
    n_anomalous = sum(one.sample.anomalous for one in result.judged)
    line = result.line
    return Figures(
        n_good=result.n_good,
        n_normal=len(result.judged) - n_anomalous,
        n_anomalous=n_anomalous,
        n_invalid=result.n_invalid,
        n_patches=result.n_patches,
        auroc=result.image.auroc,
        aupro_03=result.pixel.aupro_03 if result.pixel else None,
        at_01=_recall_at(result, RATE_01),
        at_05=_recall_at(result, RATE_05),
        threshold=result.threshold,
        asked_rate=asked_rate,
        recall=line.recall if line else None,
        false_alarm_rate=line.false_alarm_rate if line else None,
        false_alarm_low=line.false_alarm_low if line else None,
        false_alarm_high=line.false_alarm_high if line else None,
    )


def _scores(result: CategoryResult) -> ImageScores:
    return ImageScores(
        names=tuple(one.sample.name for one in result.judged),
        anomalous=tuple(one.sample.anomalous for one in result.judged),
        test=tuple(one.score for one in result.judged),
        good=result.good_scores,
    )


def criterion_of(auroc: float | None, recall_05: float | None) -> float | None:
    """Their mean; None where one of them cannot be computed."""
    return None if auroc is None or recall_05 is None else (auroc + recall_05) / 2


def _recall_at(result: CategoryResult, rate: float) -> RecallAtRate:
    """Parts that cannot be judged are rejected whatever the threshold is."""
    return recall_at_rate(
        [one.sample.anomalous for one in result.judged],
        [math.inf if one.score is None else one.score for one in result.judged],
        rate,
    )


def _draws(
    one: LeagueSet,
    context: EvaluationContext,
    full: CategoryResult,
    *,
    n_good: int | None,
    n_draws: int,
    draw_ratio: float | None,
) -> tuple[Draw, ...]:
    [category] = one.dataset.categories
    most = len(category.good) if n_good is None else min(n_good, len(category.good))
    drawn = n_good if draw_ratio is None else max(1, round(draw_ratio * most))
    first = context.variant.recipe.seed
    found = []
    for seed in range(first, first + n_draws):
        if draw_ratio is None and seed == first:
            found.append(_draw(full, seed))
            continue
        light = replace(context.seeded(seed), calibrated=False, pixels=False)
        [result] = evaluate_categories(one.dataset, light, n_good=drawn)
        found.append(_draw(result, seed))
    return tuple(found)


def _draw(result: CategoryResult, seed: int) -> Draw:
    return Draw(
        seed=seed,
        n_good=result.n_good,
        auroc=result.image.auroc,
        recall_01=_recall_at(result, RATE_01).recall,
        recall_05=_recall_at(result, RATE_05).recall,
    )
