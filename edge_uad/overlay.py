"""Heat over the picture, on a fixed scale: the same colour means the same distance, on every frame.

The scale is anchored at the bank's threshold: well below it nothing is drawn, the threshold itself is in the middle of
the colours, twice the threshold and more is the hottest.
"""

import cv2
import numpy as np

from edge_uad.records import Float32, Placement, UInt8

HOTTEST_LEVEL = 2.0
"""In thresholds."""
FIRST_SHOWN_LEVEL = 0.8
FULLY_SHOWN_LEVEL = 1.2
STRONGEST_BLEND_RATIO = 0.6


def overlay(image: UInt8, heat: Float32, *, threshold: float, placement: Placement) -> UInt8:
    """Draw heat over the image.

    Args:
        image: uint8 (H, W, 3), RGB.
        heat: float32 (h, w) at the model's input size.
        threshold: the bank's.
        placement: where the image lies in the model's input.

    Returns:
        uint8 (H, W, 3), RGB; a new array.
    """
    level = heat_on_image(heat, (image.shape[0], image.shape[1]), placement) / max(threshold, 1e-12)
    colours = cv2.applyColorMap(_to_uint8(level / HOTTEST_LEVEL), cv2.COLORMAP_TURBO)[:, :, ::-1]
    shown = np.clip((level - FIRST_SHOWN_LEVEL) / (FULLY_SHOWN_LEVEL - FIRST_SHOWN_LEVEL), 0, 1)
    blend = (STRONGEST_BLEND_RATIO * shown)[:, :, None]
    blended: UInt8 = np.rint(image * (1 - blend) + colours * blend).astype(np.uint8)
    return blended


def heat_on_image(heat: Float32, image_hw: tuple[int, int], placement: Placement) -> Float32:
    """Heat at the image's size; 0 where the model did not look.

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
