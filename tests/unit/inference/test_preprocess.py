"""Every geometry, against hand-computed cases and the laws that a resize must keep."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.errors import FrameError
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Box, Geometry, UInt8

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def preprocessor(
    geometry: Geometry = Geometry.STRETCH, *, roi: Box | None = None, input_hw: tuple[int, int] = (32, 32)
) -> Preprocessor:
    return Preprocessor(geometry=geometry, roi=roi, input_hw=input_hw, mean=MEAN, std=STD)


def flat_image(height: int, width: int, colour: tuple[int, int, int]) -> UInt8:
    return np.full((height, width, 3), colour, np.uint8)


def normalised(colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray([(v / 255 - m) / s for v, m, s in zip(colour, MEAN, STD, strict=True)])


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    geometry=st.sampled_from([Geometry.STRETCH, Geometry.PAPER]),
    input_hw=st.sampled_from([(32, 32), (80, 32), (32, 56)]),
)
def test_a_flat_image_stays_flat_and_is_normalised_as_imagenet(
    height: int, width: int, colour: tuple[int, int, int], geometry: Geometry, input_hw: tuple[int, int]
) -> None:
    """Tiles make inputs that are not square: whatever the picture's own shape, nothing of them may stay empty."""
    pixels = preprocessor(geometry, input_hw=input_hw).pixels(flat_image(height, width, colour))
    assert pixels.shape == (3, *input_hw)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    expected = np.broadcast_to(normalised(colour)[:, None, None], pixels.shape)
    np.testing.assert_allclose(pixels, expected, atol=1e-4)


def test_channels_stay_red_green_blue() -> None:
    red = preprocessor().pixels(flat_image(40, 40, (255, 0, 0)))
    assert red[0].min() > red[1].max()
    assert red[0].min() > red[2].max()


def test_stretch_lets_every_pixel_count() -> None:
    dark = flat_image(320, 320, (0, 0, 0))
    base = preprocessor().pixels(dark)
    for row, column in [(0, 0), (319, 319), (0, 319), (157, 211)]:
        speck = dark.copy()
        speck[row, column] = 255
        changed = np.argwhere(preprocessor().pixels(speck)[0] != base[0])
        assert changed.tolist() == [[row // 10, column // 10]]


def test_stretch_of_a_model_sized_image_changes_no_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = (image / 255 - MEAN) / STD
    np.testing.assert_allclose(preprocessor().pixels(image).transpose(1, 2, 0), expected, atol=1e-5)


def test_stretch_grows_one_axis_and_shrinks_the_other() -> None:
    image = np.zeros((8, 640, 3), np.uint8)
    image[:, 320:] = 255
    pixels = preprocessor().pixels(image)[0]
    assert (pixels[:, :16] == pixels[0, 0]).all()
    assert (pixels[:, 16:] == pixels[0, 31]).all()


def test_paper_takes_the_centre_crop_of_the_shorter_side_at_256() -> None:
    placement = preprocessor(Geometry.PAPER, input_hw=(224, 224)).placement((256, 512))
    assert placement.image_rect == (144, 16, 224, 224)
    assert placement.input_rect == (0, 0, 224, 224)


def test_paper_does_not_see_what_lies_outside_its_crop() -> None:
    image = flat_image(256, 512, (10, 20, 30))
    beyond = image.copy()
    beyond[:, :140] = 255
    same = preprocessor(Geometry.PAPER, input_hw=(224, 224))
    np.testing.assert_array_equal(same.pixels(image), same.pixels(beyond))


def test_cifar_puts_the_image_into_the_middle_of_zeros() -> None:
    cifar = preprocessor(Geometry.CIFAR, input_hw=(224, 224))
    pixels = cifar.pixels(flat_image(32, 32, (255, 255, 255)))
    black, white = normalised((0, 0, 0)), normalised((255, 255, 255))
    np.testing.assert_allclose(pixels[:, :56, :], np.broadcast_to(black[:, None, None], (3, 56, 224)), atol=1e-5)
    content = pixels[:, 56:168, 56:168]
    np.testing.assert_allclose(content, np.broadcast_to(white[:, None, None], (3, 112, 112)), atol=1e-5)
    assert cifar.placement((32, 32)).input_rect == (56, 56, 112, 112)


def test_a_region_of_interest_is_all_that_is_seen() -> None:
    image = flat_image(100, 100, (0, 0, 0))
    image[20:60, 10:90] = 200
    pixels = preprocessor(roi=(10, 20, 80, 40)).pixels(image)
    np.testing.assert_allclose(pixels[0], normalised((200, 200, 200))[0], atol=1e-5)


def test_a_frame_smaller_than_the_region_of_interest_cannot_be_judged() -> None:
    with pytest.raises(FrameError, match=r"10,20,80,40 reaches outside the image of 64×48 px"):
        preprocessor(roi=(10, 20, 80, 40)).pixels(flat_image(48, 64, (0, 0, 0)))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty"],
)
def test_anything_but_rgb_bytes_is_refused(image: np.ndarray) -> None:
    with pytest.raises(FrameError, match=r"uint8 \(H, W, 3\) was expected"):
        preprocessor().pixels(image)


@settings(deadline=None)
@given(
    image_hw=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    input_hw=st.sampled_from([(32, 32), (80, 32), (32, 56)]),
    roi_ratios=st.none() | st.tuples(*[st.floats(0, 1)] * 4),
    seed=st.integers(0, 99),
)
def test_stretch_is_the_area_average_normalised_level_by_level_to_the_last_bit(
    image_hw: tuple[int, int], input_hw: tuple[int, int], roi_ratios: tuple[float, ...] | None, seed: int
) -> None:
    """A bank that was built with ``(resized * scale - shift)`` in one expression must find its own pixels again."""
    image = np.random.default_rng(seed).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    roi = None if roi_ratios is None else box_in(image_hw, roi_ratios)
    x, y, w, h = roi or (0, 0, image_hw[1], image_hw[0])
    expected = former_normalisation(area_averaged(image[y : y + h, x : x + w], input_hw))
    pixels = preprocessor(roi=roi, input_hw=input_hw).pixels(image)
    assert pixels.flags.c_contiguous
    assert pixels.tobytes() == expected.tobytes()


@settings(deadline=None)
@given(
    geometry=st.sampled_from([Geometry.PAPER, Geometry.CIFAR]),
    image_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 99),
)
def test_pixels_between_two_levels_are_normalised_to_the_same_last_bit(
    geometry: Geometry, image_hw: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    unchanged = Preprocessor(geometry=geometry, roi=None, input_hw=(32, 56), mean=(0, 0, 0), std=(1 / 255,) * 3)
    resized = unchanged.pixels(image).transpose(1, 2, 0)
    expected = former_normalisation(resized)
    assert preprocessor(geometry, input_hw=(32, 56)).pixels(image).tobytes() == expected.tobytes()


def box_in(image_hw: tuple[int, int], ratios: tuple[float, ...]) -> Box:
    """A box of at least one pixel inside an image."""
    height, width = image_hw
    x, y = round(ratios[0] * (width - 1)), round(ratios[1] * (height - 1))
    return x, y, 1 + round(ratios[2] * (width - x - 1)), 1 + round(ratios[3] * (height - y - 1))


def area_averaged(region: UInt8, hw: tuple[int, int]) -> np.ndarray:
    shrunk = min(hw[0], region.shape[0]), min(hw[1], region.shape[1])
    averaged = cv2.resize(np.ascontiguousarray(region), shrunk[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(averaged, hw[::-1], interpolation=cv2.INTER_LINEAR))


def former_normalisation(resized: np.ndarray) -> np.ndarray:
    std = np.asarray(STD, np.float32)
    scale, shift = np.float32(1) / (np.float32(255) * std), np.asarray(MEAN, np.float32) / std
    return np.ascontiguousarray((resized * scale - shift).transpose(2, 0, 1))


@given(
    geometry=st.sampled_from(list(Geometry)),
    image_hw=st.tuples(st.integers(16, 500), st.integers(16, 500)),
    input_hw=st.sampled_from([(32, 32), (80, 32), (32, 56)]),
)
def test_a_placement_leads_from_the_input_into_the_image(
    geometry: Geometry, image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    placement = preprocessor(geometry, input_hw=input_hw).placement(image_hw)
    left, top, width, height = placement.input_rect
    x, y = placement.to_image(left, top)
    assert (x, y) == placement.image_rect[:2]
    far_x, far_y = placement.to_image(left + width, top + height)
    assert -0.5 <= x < far_x <= image_hw[1] + 0.5
    assert -0.5 <= y < far_y <= image_hw[0] + 0.5
