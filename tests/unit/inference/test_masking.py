"""Back Patch Masking, held to cases computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_uad.errors import FrameError, UsageError
from edge_uad.inference.masking import check_kernel, default_kernel, foreground, smoothed_attention
from edge_uad.records import Embedding


def embedding(attention: np.ndarray) -> Embedding:
    return Embedding(
        tokens=np.zeros((attention.size, 1), np.float32),
        attention=attention.astype(np.float32).ravel(),
        grid_hw=(attention.shape[0], attention.shape[1]),
    )


def mask_of(attention: np.ndarray, kernel: int, threshold: float) -> np.ndarray:
    return foreground(
        attention.astype(np.float32).ravel(),
        (attention.shape[0], attention.shape[1]),
        kernel=kernel,
        threshold=threshold,
    ).foreground.reshape(attention.shape)


def test_without_smoothing_a_patch_counts_strictly_above_its_share_of_the_maximum() -> None:
    attention = np.array([[8.0, 1.0, 2.0]])
    np.testing.assert_array_equal(mask_of(attention, 1, 0.125), [[True, False, True]])


def test_zeros_beyond_the_edge_count_in_the_mean() -> None:
    # 3×3 means of a flat 3×3 grid: 9/9 in the middle, 6/9 at the sides, 4/9 in the corners
    flat = np.ones((3, 3))
    np.testing.assert_array_equal(
        mask_of(flat, 3, 0.5), [[False, True, False], [True, True, True], [False, True, False]]
    )


def test_a_single_bright_patch_spreads_as_far_as_the_kernel() -> None:
    attention = np.zeros((7, 7))
    attention[3, 3] = 1
    expected = np.zeros((7, 7), bool)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(mask_of(attention, 3, 0.1), expected)


@given(hnp.arrays(np.float64, (5, 6), elements=st.floats(0.01, 1)), st.floats(0.5, 1000))
def test_only_the_proportions_within_one_image_matter(attention: np.ndarray, factor: float) -> None:
    # scaled by a power of two, so that float32 rounding is the same
    scaled = attention * 2.0 ** int(np.log2(factor))
    np.testing.assert_array_equal(mask_of(attention, 3, 0.4), mask_of(scaled, 3, 0.4))


@given(hnp.arrays(np.float64, (4, 4), elements=st.floats(0.01, 1)), st.sampled_from([1, 3, 5]), st.floats(0, 0.99))
def test_the_most_attended_patch_is_always_foreground(attention: np.ndarray, kernel: int, threshold: float) -> None:
    assert mask_of(attention, kernel, threshold).any()


def test_threshold_zero_keeps_every_patch() -> None:
    assert mask_of(np.array([[0.0, 0.0], [1.0, 0.0]]), 1, 0.0).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_useless_attention_is_no_mask(value: float) -> None:
    with pytest.raises(FrameError, match="no usable attention"):
        mask_of(np.full((3, 3), value), 3, 0.1)


@pytest.mark.parametrize("kernel", [0, 2, -1, 8, 9_999_999])
def test_a_kernel_without_a_centre_is_refused(kernel: int) -> None:
    with pytest.raises(UsageError, match=f"kernel is {kernel}"):
        check_kernel(kernel)


@pytest.mark.parametrize(("grid", "kernel"), [(28, 7), (16, 3), (14, 3), (37, 9), (32, 7), (4, 1), (1, 1)])
def test_the_default_kernel_covers_the_papers_share_of_the_grid(grid: int, kernel: int) -> None:
    assert default_kernel((grid, grid)) == kernel
    check_kernel(kernel)


def test_smoothed_attention_is_each_patchs_share_of_the_maximum() -> None:
    shares = smoothed_attention(np.array([8.0, 0.0, 2.0], np.float32), (1, 3), kernel=1)
    np.testing.assert_array_equal(shares, np.float32([1, 0, 0.25]))


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(0.01, 1)), st.sampled_from([1, 3]), st.floats(0.01, 0.99))
def test_foreground_is_where_the_smoothed_attention_exceeds_the_threshold(
    attention: np.ndarray, kernel: int, threshold: float
) -> None:
    shares = smoothed_attention(
        attention.astype(np.float32).ravel(), (attention.shape[0], attention.shape[1]), kernel=kernel
    )
    np.testing.assert_array_equal(mask_of(attention, kernel, threshold).ravel(), shares > threshold)
