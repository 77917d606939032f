"""Synthetic defects: one each, inside what is judged, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.bank.synthetic import with_defect
from edge_uad.records import Box


def textured(height: int, width: int) -> np.ndarray:
    """uint8 (H, W, 3), no two places alike."""
    return np.random.default_rng(3).integers(60, 190, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("number", range(9))
def test_a_defect_changes_a_small_part_and_leaves_the_picture_itself_alone(number: int) -> None:
    image = textured(120, 160)
    before = image.copy()
    changed = with_defect(image, seed=0, number=number)
    np.testing.assert_array_equal(image, before)
    assert changed.dtype == np.uint8
    assert 0 < (changed != image).any(axis=2).mean() < 0.2


@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 50), st.integers(0, 5))
def test_any_size_works_and_the_same_seed_gives_the_same_defect(
    height: int, width: int, number: int, seed: int
) -> None:
    image = textured(height, width)
    once, again = (with_defect(image, seed=seed, number=number) for _ in range(2))
    assert once.shape == image.shape
    np.testing.assert_array_equal(once, again)


@given(st.integers(0, 30))
def test_a_defect_lies_in_the_region_of_interest(number: int) -> None:
    image = textured(90, 90)
    roi: Box = (20, 30, 40, 25)
    changed = (with_defect(image, seed=0, number=number, roi=roi) != image).any(axis=2)
    assert changed[30:55, 20:60].any()
    changed[30:55, 20:60] = False
    assert not changed.any()
