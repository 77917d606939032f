"""Synthetic defects: what a precision is tried on beside good parts. They choose no default and no threshold."""

import cv2
import numpy as np

from edge_uad.records import Box, UInt8

LEAST_SIDE_RATIO, MOST_SIDE_RATIO = 0.04, 0.12
"""Of a defect, as a part of the shorter side of what is judged."""


def with_defect(image: UInt8, *, seed: int, number: int, roi: Box | None = None) -> UInt8:
    """A copy of a good picture with one defect: a displaced piece, a scratch or a blot, in turn.

    Args:
        image: uint8 (H, W, 3).
        seed: of the draws.
        number: of the picture; the same seed and number give the same defect.
        roi: where it must lie; None for anywhere.
    """
    rng = np.random.default_rng([seed, number])
    x, y, w, h = (0, 0, image.shape[1], image.shape[0]) if roi is None else roi
    changed = image.copy()
    _KINDS[number % len(_KINDS)](changed[y : y + h, x : x + w], rng)
    return changed


def _side_px(part: UInt8, rng: np.random.Generator) -> int:
    shorter_px: int = min(part.shape[:2])
    return max(2, round(shorter_px * rng.uniform(LEAST_SIDE_RATIO, MOST_SIDE_RATIO)))


def _corner(part: UInt8, side_px: int, rng: np.random.Generator) -> tuple[int, int]:
    height, width = part.shape[:2]
    return int(rng.integers(max(1, height - side_px))), int(rng.integers(max(1, width - side_px)))


def _displaced_piece(part: UInt8, rng: np.random.Generator) -> None:
    side_px = _side_px(part, rng)
    (from_y, from_x), (to_y, to_x) = (_corner(part, side_px, rng) for _ in range(2))
    piece = np.rot90(part[from_y : from_y + side_px, from_x : from_x + side_px], int(rng.integers(1, 4))).copy()
    target = part[to_y : to_y + piece.shape[0], to_x : to_x + piece.shape[1]]
    target[:] = piece[: target.shape[0], : target.shape[1]]


def _scratch(part: UInt8, rng: np.random.Generator) -> None:
    side_px = 2 * _side_px(part, rng)
    y, x = _corner(part, side_px, rng)
    points = np.stack([x + rng.integers(0, side_px, 4), y + rng.integers(0, side_px, 4)], axis=1)
    shade = int(rng.choice([20, 235]))
    thickness_px = max(1, min(part.shape[:2]) // 150)
    drawn = np.ascontiguousarray(part)
    cv2.polylines(drawn, [points.astype(np.int32)], isClosed=False, color=(shade,) * 3, thickness=thickness_px)
    part[:] = drawn


def _blot(part: UInt8, rng: np.random.Generator) -> None:
    side_px = _side_px(part, rng)
    y, x = _corner(part, side_px, rng)
    target = part[y : y + side_px, x : x + side_px].astype(np.float32)
    rows, columns = ((2 * np.arange(n) + 1) / n - 1 for n in target.shape[:2])
    cover = np.clip(1.5 * (1 - rows[:, None] ** 2 - columns**2), 0, 1)[..., None] * rng.uniform(0.5, 0.9)
    colour = rng.uniform(0, 255, 3)
    part[y : y + side_px, x : x + side_px] = np.rint((1 - cover) * target + cover * colour)


_KINDS = (_displaced_piece, _scratch, _blot)
