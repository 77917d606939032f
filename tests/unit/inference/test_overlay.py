"""Heat lies where it belongs, on a scale that never moves."""

import cv2
import numpy as np
import pytest

from edge_uad.inference.overlay import _blended, at_most, heat_on_image, overlay, overlay_anchor
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Geometry, Placement
from tests.banks import random_bank

GREY = np.full((60, 80, 3), 120, np.uint8)
WHOLE = Placement((0.0, 0.0, 80.0, 60.0), (0.0, 0.0, 32.0, 32.0))


def heat_of(level: float) -> np.ndarray:
    return np.full((32, 32), level, np.float32)


def test_heat_well_below_the_threshold_leaves_the_picture_as_it_is() -> None:
    np.testing.assert_array_equal(overlay(GREY, heat_of(0.3), threshold=0.5, placement=WHOLE), GREY)


def test_the_same_heat_has_the_same_colour_whatever_else_is_in_the_picture() -> None:
    alone = overlay(GREY, heat_of(0.6), threshold=0.5, placement=WHOLE)
    with_hotter = heat_of(0.6)
    with_hotter[:8] = 2.0
    beside = overlay(GREY, with_hotter, threshold=0.5, placement=WHOLE)
    np.testing.assert_array_equal(alone[40:], beside[40:])


def test_the_scale_is_anchored_at_the_threshold_and_ends_at_twice_that() -> None:
    once, same = (overlay(GREY, heat_of(t), threshold=t, placement=WHOLE) for t in (0.2, 0.9))
    np.testing.assert_array_equal(once, same)
    twice, more = (overlay(GREY, heat_of(level), threshold=0.4, placement=WHOLE) for level in (0.8, 4.0))
    np.testing.assert_array_equal(twice, more)
    assert not np.array_equal(once, twice)
    assert twice[0, 0, 0] > twice[0, 0, 2]  # the hottest is red


def test_drawing_begins_at_a_banks_pixel_threshold_and_in_older_banks_at_four_fifths_of_the_image_threshold() -> None:
    for manifest, first in (
        (random_bank(threshold=0.5, pixel_threshold=0.3).manifest, 0.3),
        (random_bank(threshold=0.5).manifest, 0.4),
    ):
        anchor = overlay_anchor(manifest)
        below, above = (overlay(GREY, heat_of(first * by), threshold=anchor, placement=WHOLE) for by in (0.99, 1.05))
        np.testing.assert_array_equal(below, GREY)
        assert (above != GREY).any()


def test_the_picture_handed_in_is_not_drawn_on() -> None:
    picture = GREY.copy()
    overlay(picture, heat_of(1.0), threshold=0.1, placement=WHOLE)
    np.testing.assert_array_equal(picture, GREY)


@pytest.mark.parametrize("seed", range(5))
def test_drawing_the_warm_part_alone_is_drawing_everywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    heat = np.zeros((32, 32), np.float32)
    heat[8:20, 5:13] = rng.random((12, 8))
    level = heat_on_image(heat, (60, 80), WHOLE) / np.float32(0.5)
    np.testing.assert_array_equal(overlay(image, heat, threshold=0.5, placement=WHOLE), _blended(image, level))


@pytest.mark.parametrize("geometry", list(Geometry))
def test_heat_comes_back_to_the_place_in_the_image_that_caused_it(geometry: Geometry) -> None:
    image_hw = (300, 500)
    preprocessor = Preprocessor(
        geometry=geometry, roi=None, input_hw=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    image = np.zeros((*image_hw, 3), np.uint8)
    image[140:160, 290:310] = 255  # bright where the heat is to be
    heat = preprocessor.pixels(image)[0]
    found = heat_on_image(heat, image_hw, preprocessor.placement(image_hw))
    rows, columns = np.nonzero(found > 0.3)
    assert np.mean(rows) == pytest.approx(149.5, abs=4)
    assert np.mean(columns) == pytest.approx(299.5, abs=6)


@pytest.mark.parametrize("roi", [None, (410, 130, 1000, 700)])
@pytest.mark.parametrize("geometry", list(Geometry))
@pytest.mark.parametrize("image_hw", [(1000, 1600), (1601, 1447)])
def test_a_picture_scaled_before_it_is_drawn_on_looks_like_one_scaled_after(
    geometry: Geometry, roi: tuple[int, int, int, int] | None, image_hw: tuple[int, int]
) -> None:
    preprocessor = Preprocessor(
        geometry=geometry, roi=roi, input_hw=(64, 64), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    placement = preprocessor.placement(image_hw)
    rows, columns = np.mgrid[: image_hw[0], : image_hw[1]]
    image = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2).astype(np.uint8)
    image = cv2.blur(image, (31, 31)).astype(np.uint8)
    heat = np.zeros((64, 64), np.float32)
    heat[20:36, 26:40] = 1.0
    heat = cv2.GaussianBlur(heat, (0, 0), 3).astype(np.float32)

    after = at_most(overlay(image, heat, threshold=0.4, placement=placement), 512)
    scaled = at_most(image, 512)
    before = overlay(
        scaled,
        heat,
        threshold=0.4,
        placement=placement.on_scaled(image_hw, (scaled.shape[0], scaled.shape[1])),
    )

    assert before.shape == after.shape
    assert max(before.shape[:2]) == 512
    drawn = np.abs(after.astype(int) - scaled).max(axis=2) > 40
    assert drawn.any()  # there is heat to compare
    difference = np.abs(before.astype(int) - after).max(axis=2)
    # a pixel at most where the edge of what the model sees comes to lie
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99) < 12


def test_a_small_picture_is_not_scaled() -> None:
    assert at_most(GREY, 80) is GREY
    assert at_most(GREY, 40).shape == (30, 40, 3)


@pytest.mark.parametrize("image_hw", [(2, 1), (1, 2), (1, 1), (1, 900), (900, 1)])
@pytest.mark.parametrize("geometry", list(Geometry))
def test_the_thinnest_picture_has_an_overlay(geometry: Geometry, image_hw: tuple[int, int]) -> None:
    preprocessor = Preprocessor(
        geometry=geometry, roi=None, input_hw=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    image = np.zeros((*image_hw, 3), np.uint8)
    drawn = overlay(image, heat_of(1.0), threshold=0.5, placement=preprocessor.placement(image_hw))
    assert drawn.shape == image.shape
    assert drawn.any()


def test_outside_the_region_of_interest_there_is_no_heat() -> None:
    placement = Placement((10.0, 20.0, 40.0, 30.0), (0.0, 0.0, 32.0, 32.0))
    found = heat_on_image(heat_of(1.0), (60, 80), placement)
    assert found[20:50, 10:50].min() == 1
    found[20:50, 10:50] = 0
    assert found.max() == 0
