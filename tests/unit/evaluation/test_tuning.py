"""When a few rejects are enough to leave the default, and when the evidence is thin."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bank_tools.evaluation.tuning.evidence import LEVEL, Evidence, Scores, weigh
from bank_tools.metrics.image import image_auroc
from edge_uad.inference.scoring import conformal_threshold

pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")

RATE = 0.05
FEW_DRAWS = 500
SCORES = st.floats(0, 4, width=32) | st.sampled_from([0.0, 1.0, math.inf])


def scores(good: object, rejects: object) -> Scores:
    return Scores(good=np.asarray(good, np.float64), rejects=np.asarray(rejects, np.float64))


def weighed(*candidates: Scores, n_draws: int = FEW_DRAWS, seed: int = 0) -> Evidence:
    return weigh(candidates, false_alarm_rate=RATE, seed=seed, n_draws=n_draws)


def drawn(rng: np.random.Generator, n_rejects: int, *, shift: float, n_good: int = 40) -> Scores:
    return scores(rng.normal(0, 1, n_good), rng.normal(shift, 1, n_rejects))


@st.composite
def some_scores(draw: st.DrawFn) -> Scores:
    return scores(draw(st.lists(SCORES, min_size=2, max_size=20)), draw(st.lists(SCORES, min_size=3, max_size=12)))


@settings(max_examples=30)
@given(some_scores(), st.integers(2, 5))
def test_what_is_identical_never_replaces_the_default(one: Scores, n_candidates: int) -> None:
    found = weighed(*[one] * n_candidates)
    assert found.chosen == 0
    for standing in found.standings[1:]:
        assert standing.gain is not None
        assert (standing.gain.auroc_share, standing.gain.recall_share) == (0, 0)


@settings(max_examples=30)
@given(some_scores())
def test_what_ranks_the_parts_alike_never_replaces_the_default(one: Scores) -> None:
    assert weighed(one, scores(7 * one.good + 1, 7 * one.rejects + 1)).chosen == 0


@settings(max_examples=30)
@given(some_scores())
def test_what_is_worse_in_every_pair_never_replaces_the_default(one: Scores) -> None:
    found = weighed(one, scores(one.good, np.zeros_like(one.rejects)))
    assert found.chosen == 0


@settings(max_examples=30)
@given(some_scores())
def test_the_figures_are_the_auroc_and_the_share_above_the_conformal_threshold(one: Scores) -> None:
    [standing] = weighed(one).standings
    truth = [False] * len(one.good) + [True] * len(one.rejects)
    bounded = np.minimum(np.concatenate([one.good, one.rejects]), 1e9)
    assert standing.auroc.value == pytest.approx(image_auroc(truth, bounded.tolist()))
    threshold = conformal_threshold(np.sort(one.good).astype(np.float32), RATE)
    assert standing.threshold == threshold
    assert standing.recall.value == pytest.approx(np.mean((one.rejects > threshold) | np.isinf(one.rejects)))
    assert standing.auroc.interval.low <= standing.auroc.interval.high


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(10, 30), st.integers(1, 4))
def test_where_the_parts_are_separable_the_better_one_wins(seed: int, n_rejects: int, n_others: int) -> None:
    rng = np.random.default_rng(seed)
    good = rng.uniform(0, 1, 40)
    blind = scores(good, rng.uniform(0, 0.9, n_rejects))
    sharp = scores(good, rng.uniform(1.1, 2, n_rejects))
    found = weighed(blind, *[blind] * n_others, sharp)
    assert found.chosen == found.nearest == n_others + 1
    gain = found.standings[-1].gain
    assert gain is not None
    assert gain.better
    assert gain.auroc.interval.low > 0


def test_recall_without_loss_of_auroc_is_enough() -> None:
    """Three of four rejects climb above every good part and the fourth falls below all: the AUROC stays at 0.75."""
    good = np.arange(40.0)
    between, apart = np.full(20, 29.5), np.where(np.arange(20) < 15, 99.0, -1.0)
    gain = weighed(scores(good, between), scores(good, apart)).standings[1].gain
    assert gain is not None
    assert (gain.auroc.value, gain.recall.value) == (0, 0.75)
    assert gain.auroc_share < 0.8
    assert gain.better


def test_recall_with_a_loss_of_auroc_is_not_enough() -> None:
    good = np.arange(40.0)
    between, apart = np.full(20, 29.5), np.where(np.arange(20) < 14, 99.0, -1.0)
    found = weighed(scores(good, between), scores(good, apart))
    gain = found.standings[1].gain
    assert gain is not None
    assert gain.recall_share > found.needed_share
    assert gain.auroc.value < 0
    assert not gain.better
    assert found.chosen == 0


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(3, 7))
def test_of_three_rejects_the_gain_of_all_is_thin_evidence_among_several_candidates(seed: int, n_others: int) -> None:
    rng = np.random.default_rng(seed)
    good = rng.uniform(0, 1, 40)
    blind, sharp = scores(good, rng.uniform(0, 0.9, 3)), scores(good, rng.uniform(1.1, 2, 3))
    found = weighed(blind, *[blind] * (n_others - 1), sharp, n_draws=4000)
    assert found.chosen == 0
    assert found.nearest == n_others
    gain = found.standings[-1].gain
    assert gain is not None
    assert gain.auroc.value > 0
    assert gain.share < found.needed_share


def test_the_more_candidates_the_more_is_needed() -> None:
    one = scores([0, 1], [1, 2, 3])
    assert weighed(one, one).needed_share == 1 - LEVEL / 2
    assert weighed(one, one, one).needed_share == 1 - LEVEL / 4


def test_the_same_seed_gives_the_same_evidence_and_another_one_another() -> None:
    rng = np.random.default_rng(0)
    two = [drawn(rng, 6, shift=1), drawn(rng, 6, shift=1.5)]
    assert weighed(*two) == weighed(*two)
    assert weighed(*two) != weighed(*two, seed=1)


@pytest.mark.parametrize("n_rejects", [3, 5, 8])
def test_equal_candidates_are_told_apart_in_at_most_the_share_of_cases_that_is_allowed(n_rejects: int) -> None:
    """Candidates that see the same of each part and err by themselves: none is better than another."""
    rng = np.random.default_rng(n_rejects)
    n_cases, n_replaced = 150, 0
    for _ in range(n_cases):
        good, rejects = rng.normal(0, 1, 60), rng.normal(1.5, 1, n_rejects)
        candidates = [scores(good + rng.normal(0, 0.7, 60), rejects + rng.normal(0, 0.7, n_rejects)) for _ in range(6)]
        n_replaced += weighed(*candidates, n_draws=1000).chosen != 0
    # 15 of 150 or more have a probability below 1 % where 5 % is true
    assert n_replaced < 15
