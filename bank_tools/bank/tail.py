"""A threshold from a few good parts: a generalised Pareto tail fitted to their scores, and the upper end of its fit.

With n images and a rate below 1/(n + 1) no rank of the scores is rare enough: the highest one is exceeded by one good
part in n + 1. What lies beyond it is a matter of the tail's form, which is fitted to the upper half of the scores by
probability-weighted moments (Hosking and Wallis, Technometrics 29, 1987) and is uncertain with so few: the threshold is
the 90th percentile of the fits to scores drawn again with replacement. docs/calibration.md has what it realises.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edge_uad.inference.scoring import calibration_images_needed, conformal_threshold
from edge_uad.records import Float32

FEWEST_FITTED = 10
"""With fewer scores half of them do not show a tail."""
RANK_SUFFICES = 1.5
"""Times the rate asked for: where the highest score is exceeded no oftener than that, it is the threshold."""
TAIL_RATIO = 0.5
SHAPE_LIMIT = 0.5
"""Fits beyond it, either way, are those of a handful of scores and not of good parts."""
N_DRAWS = 200
UPPER_END = 0.9
"""Of the fits to the draws: lower ones reject too many good parts of some sets, higher ones miss more defects."""

Scores = NDArray[np.float64]


def threshold_of(calibration: Float32, false_alarm_rate: float, *, seed: int) -> float:
    """The score that a good part exceeds at most this often.

    Conformal where there are enough images for the rate, the highest score where there are nearly enough; the fitted
    tail's where there are fewer; again the highest score where there are too few for a fit or they do not differ.

    Args:
        calibration: (n,), ascending, n ≥ 1.
        false_alarm_rate: α, in (0, 1).
        seed: of the draws that show the tail's uncertainty.
    """
    if not is_fitted(calibration, false_alarm_rate):
        return conformal_threshold(calibration, false_alarm_rate)
    fitted = tail_threshold(calibration, false_alarm_rate, seed=seed)
    return float(np.float32(min(fitted, float(np.finfo(np.float32).max))))


def is_fitted(calibration: Float32, false_alarm_rate: float) -> bool:
    """Whether the threshold of these scores, (n,) ascending, is that of a fitted tail."""
    n = len(calibration)
    rank_suffices = 1 / (n + 1) <= RANK_SUFFICES * false_alarm_rate
    return n >= FEWEST_FITTED and not rank_suffices and bool(calibration[0] < calibration[-1])


def weakness_of(calibration: Float32, false_alarm_rate: float) -> str | None:
    """One sentence where there are too few images for the rate; None where there are enough.

    Args:
        calibration: (n,), ascending.
        false_alarm_rate: α.
    """
    n, needed = len(calibration), calibration_images_needed(false_alarm_rate)
    if n >= needed:
        return None
    few = f"{n} images are too few for a false-alarm rate of {false_alarm_rate:g}: {needed} are needed; with these "
    if is_fitted(calibration, false_alarm_rate):
        return few + "the threshold is that of a tail fitted to their scores, on the careful side"
    return few + f"the threshold is their highest score, which keeps the rate at about {1 / (n + 1):.2g}"


def tail_threshold(scores: Float32, false_alarm_rate: float, *, seed: int) -> float:
    """The upper end of the fitted tail's quantile at this rate.

    Args:
        scores: (n,) of good parts, n ≥ ``FEWEST_FITTED``.
        false_alarm_rate: α, below ``TAIL_RATIO``.
        seed: of the draws.
    """
    draws = np.random.default_rng(seed).choice(scores, (N_DRAWS, len(scores)))
    return float(np.quantile(tail_quantiles(draws.astype(np.float64), false_alarm_rate), UPPER_END))


def tail_quantiles(values: Scores, rate: float) -> Scores:
    """What each row's fitted tail exceeds at this rate.

    Args:
        values: (rows, n).
        rate: below ``TAIL_RATIO``.

    Returns:
        (rows,).
    """
    n = values.shape[1]
    k = round(TAIL_RATIO * n)
    ascending = np.sort(values, axis=1)
    start = ascending[:, -k - 1]
    shape, scale = _fitted(ascending[:, -k:] - start[:, None])
    ratio = rate * n / k
    safe = np.where(np.abs(shape) < 1e-6, 1.0, shape)  # at 0 the tail is exponential
    beyond = np.where(np.abs(shape) < 1e-6, -math.log(ratio), (ratio**-safe - 1) / safe)
    quantiles: Scores = start + scale * beyond
    return quantiles


def _fitted(excesses: Scores) -> tuple[Scores, Scores]:
    """Shape ξ and scale of a generalised Pareto distribution by weighted moments, for each row, (rows, k) ascending."""
    k = excesses.shape[1]
    above = 1 - (np.arange(1, k + 1) - 0.35) / k
    first, second = excesses.mean(axis=1), (excesses * above).mean(axis=1)
    apart = np.maximum(first - 2 * second, 1e-12)
    shape: Scores = np.clip(2 - first / apart, -SHAPE_LIMIT, SHAPE_LIMIT)
    scale: Scores = first * (1 - shape)  # of the mean, which is scale / (1 − ξ)
    return shape, scale
