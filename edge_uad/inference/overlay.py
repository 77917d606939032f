"""Heat over the picture, on a fixed scale: the same colour means the same distance, on every frame.

The scale is anchored at the bank's pixel threshold, from which heat is drawn: fainter below half as much again, the
hottest at two and a half times it. Banks without one, older ones, are drawn from four fifths of their image threshold.
"""

import cv2
import numpy as np

from edge_uad.records import BankManifest, Bool, Float32, Placement, UInt8

LONGEST_SIDE_PX = 1024
"""Published heatmaps are pictures for people: larger ones are scaled down."""
HOTTEST_LEVEL = 2.0
"""In anchors; so are the next two."""
FIRST_SHOWN_LEVEL = 0.8
FULLY_SHOWN_LEVEL = 1.2
STRONGEST_BLEND_RATIO = 0.6


def overlay_anchor(manifest: BankManifest) -> float:
    """The heat in the middle of a bank's colours, so that drawing begins at its pixel threshold."""
    if manifest.pixel_threshold is None:
        return manifest.threshold
    return anchor_of(manifest.pixel_threshold)


def anchor_of(pixel_threshold: float) -> float:
    """The heat in the middle of the colours where drawing begins at this heat."""
    return pixel_threshold / FIRST_SHOWN_LEVEL


def overlay(image: UInt8, heat: Float32, *, threshold: float, placement: Placement) -> UInt8:
    """Draw heat over the image.

    Args:
        image: uint8 (H, W, 3), RGB.
        heat: float32 (h, w) at the model's input size.
        threshold: the heat in the middle of the colours, see :func:`overlay_anchor`.
        placement: where the image lies in the model's input.

    Returns:
        uint8 (H, W, 3), RGB; a new array.
    """
    level = heat_on_image(heat, (image.shape[0], image.shape[1]), placement) / np.float32(max(threshold, 1e-12))
    drawn = image.copy()
    warm = _bounds(level > FIRST_SHOWN_LEVEL)  # elsewhere nothing is drawn: most good parts stay as they are
    drawn[warm] = _blended(image[warm], level[warm])
    return drawn


def _blended(image: UInt8, level: Float32) -> UInt8:
    colours = cv2.applyColorMap(_to_uint8(level / HOTTEST_LEVEL), cv2.COLORMAP_TURBO)[:, :, ::-1]
    shown = np.clip((level - FIRST_SHOWN_LEVEL) / (FULLY_SHOWN_LEVEL - FIRST_SHOWN_LEVEL), 0, 1)
    blend = (STRONGEST_BLEND_RATIO * shown)[:, :, None]
    blended: UInt8 = np.rint(image * (1 - blend) + colours * blend).astype(np.uint8)
    return blended


def _bounds(where: Bool) -> tuple[slice, slice]:
    """The smallest rectangle that holds all of it: rows and columns; one pixel where there is nothing."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def at_most(image: UInt8, longest_px: int) -> UInt8:
    """The image, uint8 (H, W, 3), scaled down where its longer side is longer, each pixel a mean."""
    height, width = image.shape[:2]
    ratio = longest_px / max(height, width)
    if ratio >= 1:
        return image
    size = (max(round(width * ratio), 1), max(round(height * ratio), 1))
    scaled: UInt8 = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return scaled


def heat_on_image(heat: Float32, image_hw: tuple[int, int], placement: Placement) -> Float32:
    """Heat at the image's size; 0 outside the inspected region.

    Args:
        heat: float32 (h, w) at the model's input size.
        image_hw: H, W of the image.
        placement: where the image lies in the model's input.

    Returns:
        float32 (H, W).
    """
    left, top, right, bottom = _corners(placement.input_rect)
    seen = heat[top:bottom, left:right]
    image_left, image_top, image_right, image_bottom = _within(_corners(placement.image_rect), image_hw)
    canvas = np.zeros(image_hw, np.float32)
    size = (image_right - image_left, image_bottom - image_top)
    canvas[image_top:image_bottom, image_left:image_right] = cv2.resize(seen, size, interpolation=cv2.INTER_LINEAR)
    return canvas


def _corners(rect: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    x, y, w, h = rect
    return round(x), round(y), round(x + w), round(y + h)


def _within(corners: tuple[int, int, int, int], image_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """At least one pixel, and none outside the image: of a very thin one the crop can round to nothing."""
    left, top, right, bottom = corners
    left, top = min(max(left, 0), image_hw[1] - 1), min(max(top, 0), image_hw[0] - 1)
    return left, top, min(max(right, left + 1), image_hw[1]), min(max(bottom, top + 1), image_hw[0])


def _to_uint8(ratio: Float32) -> UInt8:
    return np.rint(np.clip(ratio, 0, 1) * 255).astype(np.uint8)
