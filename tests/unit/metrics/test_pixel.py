"""Pixel metrics: exact on cases worked out by hand, within their stated error of scikit-learn, bounded in memory."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bank_tools.metrics import pixel as pixel_metrics
from bank_tools.metrics.pixel import KEPT_MANTISSA_BITS, PixelMetrics, PixelResult, area_up_to
from edge_uad.records import Bool, Float32

scipy_ndimage = pytest.importorskip("scipy.ndimage", reason="the [evaluate] extra is not installed")
metrics = pytest.importorskip("sklearn.metrics", reason="the [evaluate] extra is not installed")

HEAT = np.array([[0.9, 0.8, 0.1, 0.2], [0.7, 0.3, 0.0, 0.6]], np.float32)
MASK = np.array([[1, 1, 0, 0], [0, 0, 0, 1]], np.bool_)


def result_of(*images: tuple[Float32, Bool], threshold: float | None = None) -> PixelResult:
    counted = PixelMetrics()
    for heat, mask in images:
        counted.add(heat, mask)
    return counted.result(threshold)


def test_metrics_of_eight_pixels() -> None:
    # From the hottest down: a a n a n n n n, where a is anomalous: 0.9 and 0.8 are one region, 0.6 is another.
    result = result_of((HEAT, MASK))

    assert result.auroc == pytest.approx(14 / 15)
    assert result.auroc_error == 0, "no anomalous pixel shares its bin with a normal one"
    assert result.ap == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert result.f1_max == pytest.approx(6 / 7)
    assert result.f1_max_threshold == pytest.approx(0.6, rel=2**-KEPT_MANTISSA_BITS)
    assert (result.n_images, result.n_regions) == (1, 2)
    # Overlap: 1/4, 1/2 at rate 0; still 1/2 at rate 1/5; 1 at 1/5 and beyond.
    assert result.aupro_03 == pytest.approx((0.2 * 0.5 + 0.1 * 1) / 0.3)
    assert result.aupro_005 == pytest.approx(0.5)


def test_every_region_weighs_the_same_however_small() -> None:
    heat = np.zeros((20, 20), np.float32)
    mask = np.zeros((20, 20), np.bool_)
    mask[0, 0] = mask[5:15, 5:15] = True
    heat[0, 0] = 1  # the speck is found, the large region is as cold as the rest

    result = result_of((heat, mask))

    # Half the regions at rate 0, then a straight line to (1, 1), where all pixels tie at 0.
    assert result.aupro_03 == pytest.approx((0.5 + 0.5 + 0.3 * 0.5) / 2)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    assert result_of((HEAT[:, :2], np.eye(2, dtype=np.bool_))).n_regions == 1


def test_images_add_up_as_if_they_were_one() -> None:
    cold, good = np.full((3, 4), 0.05, np.float32), np.zeros((3, 4), np.bool_)

    apart = result_of((HEAT, MASK), (cold, good))
    together = result_of((np.vstack([HEAT, cold]), np.vstack([MASK, good])))

    assert (apart.n_images, together.n_images) == (2, 1)
    assert (apart.auroc, apart.ap, apart.aupro_03) == (together.auroc, together.ap, together.aupro_03)


def test_segf1_is_the_f1_of_a_threshold_chosen_elsewhere() -> None:
    # At 0.65 the pixels 0.9, 0.8 (right) and 0.7 (wrong) are found, 0.6 is missed.
    assert result_of((HEAT, MASK), threshold=0.65).segf1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result_of((HEAT, MASK), threshold=-1.0).segf1 == pytest.approx(2 * 3 / (2 * 3 + 5)), "all pixels are found"
    assert result_of((HEAT, MASK), threshold=2.0).segf1 == 0
    assert result_of((HEAT, MASK)).segf1 is None, "no threshold was chosen"


def test_without_anomalous_or_without_normal_pixels_there_is_nothing_to_compute() -> None:
    everywhere, nowhere = np.ones_like(MASK), np.zeros_like(MASK)

    for result in (result_of(), result_of((HEAT, everywhere)), result_of((HEAT, nowhere), threshold=0.5)):
        computed = (result.auroc, result.auroc_error, result.ap, result.f1_max, result.aupro_03, result.aupro_005)
        assert set(computed) == {None}
        assert result.segf1 is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1])
def test_heat_that_is_no_heat_is_refused_and_counted_nowhere(wrong: float) -> None:
    counted = PixelMetrics()
    heat = HEAT.copy()
    heat[1, 1] = wrong

    with pytest.raises(ValueError, match="finite and not negative"):
        counted.add(heat, MASK)
    assert counted.result().n_images == 0


def test_heat_and_mask_must_be_of_one_size() -> None:
    with pytest.raises(ValueError, match="the heat is 4×2, the mask 2×4"):
        PixelMetrics().add(HEAT, MASK.T)


@settings(max_examples=60)
@given(
    npst.arrays(np.float32, (12, 9), elements=st.floats(0, 4, width=32)),
    npst.arrays(np.bool_, (12, 9)),
)
def test_the_stated_error_holds_against_scikit_learn(heat: Float32, mask: Bool) -> None:
    if mask.all() or not mask.any():
        return
    result = result_of((heat, mask))
    assert result.auroc is not None
    assert result.auroc_error is not None

    exact = metrics.roc_auc_score(mask.ravel(), heat.ravel())
    assert abs(result.auroc - exact) <= result.auroc_error + 1e-12

    in_bins = rounded_down(heat).ravel()
    precision, recall, _ = metrics.precision_recall_curve(mask.ravel(), in_bins)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert result.auroc == pytest.approx(metrics.roc_auc_score(mask.ravel(), in_bins))
    assert result.ap == pytest.approx(metrics.average_precision_score(mask.ravel(), in_bins))
    assert result.f1_max == pytest.approx(f1.max())


def test_on_heat_like_ours_the_error_is_far_below_what_a_table_shows() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 200), np.bool_)
    mask[50:90, 60:120] = True
    heat = (rng.gamma(4, 0.05, mask.shape) + 0.15 * mask).astype(np.float32)

    result = result_of((heat, mask))

    truth, scores = mask.ravel(), heat.ravel()
    assert result.auroc_error is not None
    assert result.auroc_error < 1e-4
    assert result.auroc == pytest.approx(metrics.roc_auc_score(truth, scores), abs=result.auroc_error)
    assert result.ap == pytest.approx(metrics.average_precision_score(truth, scores), abs=2e-4)
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    assert result.f1_max == pytest.approx((2 * precision * recall / (precision + recall)).max(), abs=2e-4)


@settings(max_examples=40)
@given(
    npst.arrays(np.float32, (8, 7), elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1.0, 2.0])),
    npst.arrays(np.bool_, (8, 7)),
    st.sampled_from([0.3, 0.05]),
)
def test_aupro_is_the_area_under_the_mean_overlap_threshold_by_threshold(
    heat: Float32, mask: Bool, limit: float
) -> None:
    if mask.all() or not mask.any():
        return
    labels, n_regions = scipy_ndimage.label(mask, structure=np.ones((3, 3)))
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(heat.ravel().tolist()), reverse=True):
        called = heat >= threshold
        overlap = np.mean([called[labels == region].mean() for region in range(1, n_regions + 1)])
        curve.append((float(called[~mask].mean()), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2

    result = result_of((heat, mask))

    assert (result.aupro_03 if limit == 0.3 else result.aupro_005) == pytest.approx(area / limit)


def rounded_down(heat: Float32) -> Float32:
    """To KEPT_MANTISSA_BITS of precision, by arithmetic instead of by bits; evenly below float32's normal range."""
    mantissa, exponent = np.frexp(heat.astype(np.float64))
    exponent = np.maximum(exponent, np.finfo(np.float32).minexp + 1)
    step = np.ldexp(1.0, exponent - 1 - KEPT_MANTISSA_BITS)
    return np.where(mantissa == 0, 0, np.floor(heat / step) * step).astype(np.float32)


def test_a_region_split_over_the_same_heat_is_found_at_once() -> None:
    mask = np.zeros((6, 6), np.bool_)
    mask[1:4, 1:4] = True

    result = result_of((mask.astype(np.float32), mask))

    assert (result.auroc, result.ap, result.f1_max) == (1, 1, 1)
    assert result.aupro_03 == pytest.approx(1)
    assert result.aupro_005 == pytest.approx(1)


def test_the_area_up_to_a_limit_cuts_the_trapeze_that_crosses_it() -> None:
    x, y = np.array([0, 0, 0.4, 1]), np.array([0, 0.5, 0.7, 1])

    assert area_up_to(x, y, 0.2) == pytest.approx((0.5 + 0.6) / 2)
    assert area_up_to(x, y, 1.0) == pytest.approx(0.4 * 0.6 + 0.6 * 0.85)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    counted = PixelMetrics()
    rng = np.random.default_rng(0)

    def held() -> int:
        return sum(value.nbytes for value in vars(counted).values() if isinstance(value, np.ndarray))

    before = held()
    for _ in range(20):
        counted.add(rng.random((32, 32), np.float32), rng.random((32, 32)) < 0.1)

    assert held() == before == 3 * 8 * pixel_metrics.N_BINS
