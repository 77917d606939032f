"""Frame → pixels: the only resize and the only normalisation in the repository (ALGORITHM §1)."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from edge_uad.errors import FrameError
from edge_uad.records import Box, Float32, Geometry, Int, Placement, UInt8

PAPER_SHORTER_SIDE_RATIO = 256 / 224
CIFAR_CONTENT_RATIO = 0.5
REDUCED_OVERSAMPLING = 2
"""A picture reduced while it is decoded keeps so many pixels a side for each of the model's input: the rest of the way
is area averaging, as it is for the whole picture."""


class Preprocessor:
    """Brings images of any size to the model's input.

    Args:
        geometry: how (see :class:`Geometry`).
        roi: region of interest in image pixels; None for the whole image.
        input_hw: the model's input size.
        mean: per channel, of RGB in 0..1.
        std: per channel, of RGB in 0..1.
    """

    def __init__(
        self,
        *,
        geometry: Geometry,
        roi: Box | None,
        input_hw: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self._geometry = geometry
        self._roi = roi
        self._input_hw = input_hw
        # (v/255 − mean)/std in one multiplication and one subtraction per value
        self._scale = np.float32(1) / (np.float32(255) * np.asarray(std, np.float32))
        self._shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
        self._of_level = np.ascontiguousarray(self._normalised(np.arange(256, dtype=np.uint8)[:, None, None])[:, :, 0])
        """float32 (3, 256), what each level of each channel becomes."""

    def pixels(self, image: UInt8) -> Float32:
        """Resize and normalise.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            float32 (3, h, w) at the model's input size, C-contiguous.

        Raises:
            FrameError: not such an image, or smaller than the region of interest.
        """
        region = self._region(image)
        if self._geometry is Geometry.STRETCH:
            return self._looked_up(_resize_area(region, self._input_hw))
        return self._normalised(self._resize_as_in_paper(region))

    @property
    def least_side_px(self) -> int:
        """What both sides of a picture must keep that is reduced while it is decoded."""
        return REDUCED_OVERSAMPLING * max(self._input_hw)

    def placement(self, image_hw: tuple[int, int]) -> Placement:
        """Mapping between an image of this size and the model's input, for heat and peaks."""
        height, width = self._input_hw
        x, y, w, h = (float(v) for v in self._roi or (0, 0, image_hw[1], image_hw[0]))
        whole_input = (0.0, 0.0, float(width), float(height))
        match self._geometry:
            case Geometry.STRETCH:
                return Placement((x, y, w, h), whole_input)
            case Geometry.PAPER:
                (resized_h, resized_w), (top, left) = self._paper_layout((int(h), int(w)))
                to_image_x, to_image_y = w / resized_w, h / resized_h
                shown = (x + left * to_image_x, y + top * to_image_y, width * to_image_x, height * to_image_y)
                return Placement(shown, whole_input)
            case Geometry.CIFAR:
                (content_h, content_w), (top, left) = self._cifar_layout()
                return Placement((x, y, w, h), (float(left), float(top), float(content_w), float(content_h)))

    def _normalised(self, resized: Float32 | UInt8) -> Float32:
        """float32 (3, h, w) of (h, w, 3) or (h, w, 1), level by level."""
        planes = np.empty((3, *resized.shape[:2]), np.float32)
        np.multiply(resized.transpose(2, 0, 1), self._scale[:, None, None], out=planes)
        planes -= self._shift[:, None, None]
        return planes

    def _looked_up(self, resized: UInt8) -> Float32:
        """As ``_normalised``, to the last bit, in a sixth of the time: uint8 has 256 levels (benchmarks.frames)."""
        planes = np.empty((3, *resized.shape[:2]), np.float32)
        for levels, of_level, plane in zip(cv2.split(resized), self._of_level, planes, strict=True):
            cv2.LUT(levels, of_level, dst=plane)
        return planes

    def _region(self, image: UInt8) -> UInt8:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise FrameError(f"the image is {image.dtype} {image.shape}, uint8 (H, W, 3) was expected")
        if self._roi is None:
            return image
        x, y, w, h = self._roi
        if x + w > image.shape[1] or y + h > image.shape[0]:
            raise FrameError(
                f"the region of interest {x},{y},{w},{h} reaches outside "
                f"the image of {image.shape[1]}×{image.shape[0]} px"
            )
        return image[y : y + h, x : x + w]

    def _resize_as_in_paper(self, region: UInt8) -> Float32:
        if self._geometry is Geometry.PAPER:
            resized_hw, corner = self._paper_layout((region.shape[0], region.shape[1]))
            return _resize_antialiased(region, resized_hw, corner, self._input_hw)
        (content_h, content_w), (top, left) = self._cifar_layout()
        padded = np.zeros((*self._input_hw, 3), np.float32)
        content = _resize_antialiased(region, (content_h, content_w), (0, 0), (content_h, content_w))
        padded[top : top + content_h, left : left + content_w] = content
        return padded

    def _paper_layout(self, region_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Size after the resize that covers the input enlarged, and top-left corner of the centre crop in it.

        For a square input that is the paper's resize of the shorter side; tiles can make one that is not.
        """
        height, width = self._input_hw
        least_h, least_w = round(height * PAPER_SHORTER_SIDE_RATIO), round(width * PAPER_SHORTER_SIDE_RATIO)
        region_h, region_w = region_hw
        if region_h * least_w <= region_w * least_h:
            resized = (least_h, int(least_h * region_w / region_h))
        else:
            resized = (int(least_w * region_h / region_w), least_w)
        return resized, (round((resized[0] - height) / 2), round((resized[1] - width) / 2))

    def _cifar_layout(self) -> tuple[tuple[int, int], tuple[int, int]]:
        height, width = self._input_hw
        content = (round(height * CIFAR_CONTENT_RATIO), round(width * CIFAR_CONTENT_RATIO))
        return content, ((height - content[0]) // 2, (width - content[1]) // 2)


def _resize_area(region: UInt8, hw: tuple[int, int]) -> UInt8:
    """Each axis by area averaging where it shrinks, so that every pixel counts; bilinear where it grows."""
    height, width = hw
    shrunk = (min(height, region.shape[0]), min(width, region.shape[1]))
    if shrunk != region.shape[:2]:
        region = cv2.resize(region, shrunk[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # uint8 in, uint8 out
    if shrunk != hw:
        region = cv2.resize(region, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]  # as above
    return region


def _resize_antialiased(
    region: UInt8, hw: tuple[int, int], corner: tuple[int, int], window_hw: tuple[int, int]
) -> Float32:
    """A window of the region resized to ``hw``: bilinear with antialiasing, as PIL and torch have it, in float32.

    Only the window is computed: of a very long strip, the centre crop is a small part.
    """
    rows = _triangle_taps(region.shape[0], hw[0], corner[0], window_hw[0])
    columns = _triangle_taps(region.shape[1], hw[1], corner[1], window_hw[1])
    return _weighted(_weighted(region[rows.used, columns.used], rows, axis=0), columns, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Taps:
    """Which inputs each output sample is made of, and how much of each."""

    used: slice
    """The inputs that any output needs."""
    inputs: Int
    """int64 (taps, outputs), counted from the first one used."""
    weights: Float32
    """float32 (taps, outputs), columns summing to 1."""


def _weighted(values: UInt8 | Float32, taps: _Taps, *, axis: int) -> Float32:
    """Resample one axis, tap by tap: no BLAS, whose threads would wait for the cores that the backbone has."""
    shape = tuple(-1 if one == axis else 1 for one in range(values.ndim))
    total: Float32 = np.take(values, taps.inputs[0], axis) * taps.weights[0].reshape(shape)
    for inputs, weights in zip(taps.inputs[1:], taps.weights[1:], strict=True):
        total += np.take(values, inputs, axis) * weights.reshape(shape)
    return total


@lru_cache(maxsize=16)
def _triangle_taps(n_in: int, n_out: int, start: int, count: int) -> _Taps:
    """For the output samples ``start`` to ``start + count``.

    Half-pixel centres; the triangle's support is widened by the scale when shrinking.
    """
    scale = n_in / n_out
    support = max(scale, 1.0)
    centres = (np.arange(start, start + count) + 0.5) * scale
    inputs = np.floor(centres - support).astype(np.int64) + np.arange(int(2 * support) + 2)[:, None]
    weights = np.clip(1 - np.abs(inputs + 0.5 - centres) / support, 0, None)
    weights[(inputs < 0) | (inputs >= n_in)] = 0
    used = (weights > 0).any(axis=1)
    inputs, weights = np.clip(inputs[used], 0, n_in - 1), weights[used] / weights.sum(axis=0)
    first = int(inputs.min())
    return _Taps(slice(first, int(inputs.max()) + 1), inputs - first, weights.astype(np.float32))
