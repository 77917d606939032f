"""Distances → score, decision, heatmap (UniFormaly §3.3, ALGORITHM §5) and conformal calibration."""

import math

import cv2
import numpy as np

from edge_uad.records import Decision, Float32, Int, PatchDistances

HEATMAP_SIGMA_PX_AT_224 = 4.0
HOT_AREA_RATIO = 0.01
PIXEL_FALSE_ALARM_RATE = 0.01
PIXEL_THRESHOLD_RATIO = 0.8
"""Of the hot-area heat that good parts keep below: chosen on real sets with masks (docs/calibration.md)."""


def image_score(distances: PatchDistances, *, top_ratio: float) -> float:
    """Mean of the ``n`` largest distances, ``n = max(1, round(top_ratio · N))``; N counts masked patches too."""
    squared = distances.squared
    n = _top_count(len(squared), top_ratio)
    mean = np.partition(squared, len(squared) - n)[-n:].mean(dtype=np.float64)
    # as calibration keeps it, so that decision and p-value agree at a tie
    return float(np.float32(mean))


def top_patches(distances: PatchDistances, *, top_ratio: float) -> Int:
    """(n,), the patches whose distances make the score; of equal ones the first in the grid."""
    squared = distances.squared
    return np.sort(np.argsort(-squared, kind="stable")[: _top_count(len(squared), top_ratio)])


def _top_count(n_patches: int, top_ratio: float) -> int:
    return max(1, round(top_ratio * n_patches))


def decide(score: float, threshold: float) -> Decision:
    """Anomalous strictly above the threshold."""
    # compared this way round, so that a NaN can never be normal
    return Decision.NORMAL if score <= threshold else Decision.ANOMALOUS


def heatmap(distances: PatchDistances, input_hw: tuple[int, int]) -> Float32:
    """The distance grid, upsampled bilinearly (half-pixel centres) to the model's input size, then blurred.

    Returns:
        float32 (h, w), squared distances.
    """
    grid = distances.squared.reshape(distances.grid_hw)
    upsampled = cv2.resize(grid, input_hw[::-1], interpolation=cv2.INTER_LINEAR)
    sigma_px = HEATMAP_SIGMA_PX_AT_224 * min(input_hw) / 224
    return np.asarray(cv2.GaussianBlur(upsampled, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT), np.float32)


def peak(heat: Float32) -> tuple[float, float]:
    """x, y of the highest heat, at the centre of its pixel."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return float(column) + 0.5, float(row) + 0.5


def hot_area_heat(heat: Float32) -> float:
    """The heat that the hottest hundredth of one image's pixels reaches; a hot area, and no single pixel, sets it.

    Args:
        heat: float32 (h, w), at the model's input size.
    """
    rank = max(1, round(HOT_AREA_RATIO * heat.size))
    return float(np.partition(heat, heat.size - rank, axis=None)[-rank])


def pixel_threshold(hot_areas: Float32) -> float:
    """The heat above which a pixel belongs to a defect: drawn over the picture, and counted by SegF1.

    Four fifths of the hot-area heat that a good part exceeds once in a hundred. The image threshold is no such value:
    blurred heat is lower than the distances that make the score, and one odd good part raises it beyond every defect.

    Args:
        hot_areas: (n,), :func:`hot_area_heat` of good parts, each against a bank of others; n ≥ 1.
    """
    return PIXEL_THRESHOLD_RATIO * conformal_threshold(np.sort(hot_areas), PIXEL_FALSE_ALARM_RATE)


def p_value(score: float, calibration: Float32) -> float:
    """Conformal: the share of good parts, this one counted in, that score at least as high.

    Args:
        score: of the frame.
        calibration: (n,), the scores of good parts, ascending.
    """
    at_least = len(calibration) - int(np.searchsorted(calibration, np.float32(score), side="left"))
    return (1 + at_least) / (len(calibration) + 1)


def conformal_threshold(calibration: Float32, false_alarm_rate: float) -> float:
    """The score that a good part exceeds at most this often.

    The ``⌈(n + 1)(1 − α)⌉``-th smallest calibration score; the largest one where n is too small for α
    (:func:`calibration_images_needed`).

    Args:
        calibration: (n,), ascending, n ≥ 1.
        false_alarm_rate: α, in (0, 1).
    """
    rank = conformal_rank(len(calibration), false_alarm_rate)
    return float(calibration[min(rank, len(calibration)) - 1])


def conformal_rank(n: int, false_alarm_rate: float) -> int:
    """``⌈(n + 1)(1 − α)⌉``, at least 1; above n where n images are too few for α."""
    # 1e-9: (n + 1)(1 − α) that is a whole number must not be rounded up by its last binary digit
    return max(1, math.ceil((n + 1) * (1 - false_alarm_rate) - 1e-9))


def calibration_images_needed(false_alarm_rate: float) -> int:
    """The least number of good images that this rate can be calibrated with: n ≥ 1/α − 1."""
    return max(1, math.ceil(1 / false_alarm_rate - 1 - 1e-9))
