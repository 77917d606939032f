"""The threshold of few images: the rate that was asked, and no oftener, on scores of known form."""

import numpy as np
import pytest

from bank_tools.bank.tail import FEWEST_FITTED, is_fitted, tail_quantiles, threshold_of, weakness_of
from edge_uad.inference.scoring import conformal_threshold

stats = pytest.importorskip("scipy.stats", reason="the [evaluate] extra is not installed")


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_the_fit_finds_the_quantile_of_a_tail_of_its_own_form(shape: float) -> None:
    tail = stats.genpareto(shape, scale=2.0)
    values = tail.rvs((4, 20000), random_state=0)
    # from its median on such a distribution is again one of the same shape
    np.testing.assert_allclose(tail_quantiles(values, 0.01), tail.ppf(0.99), rtol=0.05)


@pytest.mark.parametrize(
    "scores",
    [stats.norm(1, 0.1), stats.lognorm(0.3), stats.uniform(0.2, 0.3), stats.gamma(4)],
    ids=lambda s: s.dist.name,
)
@pytest.mark.parametrize(("n", "rate"), [(10, 0.05), (20, 0.01), (31, 0.01), (60, 0.01)])
def test_few_scores_give_a_threshold_that_new_ones_exceed_no_oftener_than_asked(
    scores: "stats.rv_frozen", n: int, rate: float
) -> None:
    rng = np.random.default_rng(0)
    realised, highest = [], []
    for _ in range(300):
        calibration = np.sort(scores.rvs(n, random_state=rng)).astype(np.float32)
        realised.append(scores.sf(threshold_of(calibration, rate, seed=0)))
        highest.append(scores.sf(conformal_threshold(calibration, rate)))
    assert np.mean(realised) < 1.5 * rate
    assert np.mean(realised) < np.mean(highest)


def test_the_same_scores_and_seed_give_the_same_threshold() -> None:
    scores = np.sort(np.random.default_rng(1).random(20, np.float32))
    assert threshold_of(scores, 0.01, seed=3) == threshold_of(scores, 0.01, seed=3)
    assert threshold_of(scores, 0.01, seed=3) != threshold_of(scores, 0.01, seed=4)


@pytest.mark.parametrize("n", [FEWEST_FITTED - 1, 13, 19, 40])
def test_scores_in_plenty_and_too_few_to_fit_keep_the_rank(n: int) -> None:
    scores = np.sort(np.random.default_rng(2).random(n, np.float32))
    assert not is_fitted(scores, 0.05)
    assert threshold_of(scores, 0.05, seed=0) == conformal_threshold(scores, 0.05)


def test_scores_that_do_not_differ_have_no_tail() -> None:
    same = np.full(12, 0.25, np.float32)
    assert threshold_of(same, 0.01, seed=0) == 0.25


def test_too_few_images_are_told_in_a_sentence_that_says_what_was_done() -> None:
    scores = np.sort(np.random.default_rng(2).random(40, np.float32))
    assert weakness_of(scores, 0.05) is None
    assert "40 images are too few for a false-alarm rate of 0.01: 99 are needed" in str(weakness_of(scores, 0.01))
    assert "fitted" in str(weakness_of(scores, 0.01))
    assert "highest score, which keeps the rate at about 0.2" in str(weakness_of(scores[:4], 0.01))
