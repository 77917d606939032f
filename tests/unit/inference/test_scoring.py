"""Score, heatmap, p-value and threshold, by hand and by law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.inference.scoring import (
    calibration_images_needed,
    conformal_threshold,
    decide,
    heatmap,
    hot_area_heat,
    image_score,
    p_value,
    peak,
    pixel_threshold,
    top_patches,
)
from edge_uad.records import Decision, PatchDistances

SCORES = st.lists(st.floats(0, 4, width=32), min_size=1, max_size=60)
RATES = st.floats(0.005, 0.6)


def distances(*squared: float, grid_hw: tuple[int, int] | None = None) -> PatchDistances:
    return PatchDistances(
        squared=np.asarray(squared, np.float32),
        nearest=np.zeros(len(squared), np.int64),
        grid_hw=grid_hw or (1, len(squared)),
    )


def test_the_score_is_the_mean_of_the_largest_distances() -> None:
    assert image_score(distances(0, 1, 2, 3, 0, 0, 0, 0, 0, 4), top_ratio=0.3) == pytest.approx(3.0)


def test_masked_patches_count_in_the_number_that_is_averaged() -> None:
    # 2 of 10 patches are foreground; a ratio of 0.4 takes 4 of all 10, two of them masked zeros
    assert image_score(distances(0, 0, 0, 0, 0, 0, 0, 0, 2, 2), top_ratio=0.4) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "ratio", "taken"), [(10, 0.01, 1), (10, 0.25, 2), (10, 0.35, 4), (256, 0.05, 13)])
def test_the_number_taken_rounds_half_to_even_and_is_at_least_one(n: int, ratio: float, taken: int) -> None:
    squared = [float(value) for value in range(n)]
    assert image_score(distances(*squared), top_ratio=ratio) == pytest.approx(np.mean(squared[-taken:]))


def test_exactly_the_threshold_is_still_normal() -> None:
    assert decide(0.5, 0.5) is Decision.NORMAL
    assert decide(np.nextafter(0.5, 1), 0.5) is Decision.ANOMALOUS


def test_no_number_is_never_normal() -> None:
    assert decide(float("nan"), 0.5) is Decision.ANOMALOUS
    assert decide(0.5, float("nan")) is Decision.ANOMALOUS


@given(st.lists(st.floats(0, 4), min_size=20, max_size=20), st.floats(0.05, 1))
def test_a_part_that_scores_as_the_threshold_is_normal_although_scores_are_kept_in_single_precision(
    squared: list[float], ratio: float
) -> None:
    score = image_score(distances(*squared), top_ratio=ratio)
    calibration = np.sort(np.asarray([0.0] * 18 + [score], np.float32))
    assert decide(score, conformal_threshold(calibration, 0.05)) is Decision.NORMAL
    assert p_value(score, calibration) > 0.05


def test_heat_lies_where_the_distance_is_and_peaks_there() -> None:
    squared = np.zeros((8, 8), np.float32)
    squared[2, 5] = 1
    heat = heatmap(distances(*squared.ravel(), grid_hw=(8, 8)), (112, 112))
    assert heat.shape == (112, 112)
    assert heat.dtype == np.float32
    x, y = peak(heat)
    assert (int(y / 14), int(x / 14)) == (2, 5)
    assert heat[:14, :14].max() == 0


def test_flat_heat_stays_flat() -> None:
    heat = heatmap(distances(*[0.25] * 16, grid_hw=(4, 4)), (56, 56))
    np.testing.assert_allclose(heat, 0.25, atol=1e-6)


def test_the_p_value_counts_the_good_parts_that_score_as_high() -> None:
    calibration = np.asarray([0.1, 0.2, 0.2, 0.3], np.float32)
    assert p_value(0.05, calibration) == 5 / 5
    assert p_value(0.2, calibration) == 4 / 5
    assert p_value(0.25, calibration) == 2 / 5
    assert p_value(0.31, calibration) == 1 / 5


def test_the_threshold_is_the_conformal_quantile() -> None:
    calibration = np.arange(1, 100, dtype=np.float32)  # n = 99
    assert conformal_threshold(calibration, 0.05) == 95
    assert conformal_threshold(calibration, 0.01) == 99
    assert calibration_images_needed(0.01) == 99
    assert calibration_images_needed(0.05) == 19


def test_too_few_images_give_their_highest_score() -> None:
    assert conformal_threshold(np.asarray([0.1, 0.7], np.float32), 0.01) == pytest.approx(0.7)


@given(SCORES, RATES)
def test_no_more_good_parts_than_asked_lie_above_the_threshold(scores: list[float], rate: float) -> None:
    calibration = np.sort(np.asarray(scores, np.float32))
    threshold = conformal_threshold(calibration, rate)
    assert (calibration > threshold).sum() <= rate * (len(calibration) + 1)


@given(SCORES, RATES, st.floats(0, 4, width=32))
def test_anomalous_means_a_p_value_within_the_asked_rate(scores: list[float], rate: float, score: float) -> None:
    calibration = np.sort(np.asarray(scores, np.float32))
    if len(calibration) < calibration_images_needed(rate):
        return
    anomalous = decide(score, conformal_threshold(calibration, rate)) is Decision.ANOMALOUS
    assert anomalous == (p_value(score, calibration) <= rate + 1e-9)


@given(st.lists(st.floats(0, 4, width=32), min_size=1, max_size=40), st.floats(0.01, 1))
def test_the_patches_named_are_those_that_make_the_score(squared: list[float], ratio: float) -> None:
    found = distances(*squared)
    chosen = top_patches(found, top_ratio=ratio)
    assert len(set(chosen.tolist())) == len(chosen)
    assert found.squared[chosen].mean(dtype=np.float64) == pytest.approx(image_score(found, top_ratio=ratio))


def test_of_equal_patches_the_first_are_named() -> None:
    assert top_patches(distances(1, 3, 3, 3), top_ratio=0.5).tolist() == [1, 2]


def test_one_hot_pixel_is_no_hot_area() -> None:
    heat = np.full((20, 20), 0.1, np.float32)
    heat[3, 4:8] = (9.0, 0.8, 0.7, 0.6)  # a hundredth of 400 pixels is these four
    assert hot_area_heat(heat) == pytest.approx(0.6)
    heat[3, 7] = 0.1
    assert hot_area_heat(heat) == pytest.approx(0.1)


def test_the_pixel_threshold_is_four_fifths_of_what_one_good_part_in_a_hundred_exceeds() -> None:
    hot_areas = np.random.default_rng(0).permutation(np.arange(1, 200, dtype=np.float32))
    assert pixel_threshold(hot_areas) == pytest.approx(0.8 * 198)
    assert pixel_threshold(hot_areas[:1]) == pytest.approx(0.8 * float(hot_areas[0]))
