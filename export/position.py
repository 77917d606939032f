"""Where a patch lies, as the transformers are told: embeddings for another patch grid, or a rotation by the place.

Embeddings are interpolated as torch's bicubic ``interpolate`` does it; DINOv3 turns queries and keys instead.
"""

import math

import numpy as np

from edge_uad.records import Float32
from export.architecture import VitSpec

CUBIC = -0.75
"""Parameter of the cubic convolution kernel in torch."""
CUBIC_ANTIALIASED = -0.5
"""The same where torch resizes with antialiasing."""
KERNEL_REACH = 2
"""Half the width of the cubic kernel, in pixels of the finer grid."""
ROTATION_BASE = 100
"""DINOv3's: the periods of the rotation reach from 1 towards it, in halves of the image's side."""


def rotation_periods(head_dim: int) -> Float32:
    """The periods of DINOv3's rotation, float32 (head_dim / 4,), for checkpoints that do not hold them."""
    steps = np.arange(head_dim // 4, dtype=np.float32) / np.float32(head_dim // 4)
    return np.asarray(ROTATION_BASE**steps, np.float32)


def rotation_for(periods: Float32, grid_hw: tuple[int, int], spec: VitSpec) -> tuple[Float32, Float32]:
    """Cosines and sines that turn the queries and keys of every token, by DINOv3's rule.

    A patch's centre has coordinates from -1 to 1 on both axes, whatever the grid's sides. Of a head's channels the
    first half pairs with the second; of the pairs the first half turns by the row, the others by the column. CLS and
    registers have no place and are not turned.

    Args:
        periods: as the checkpoint has them, (head_dim / 4,).
        grid_hw: the patch grid.
        spec: the architecture.

    Returns:
        Cosines and sines, each float32 (T, head_dim / 2), one for each pair.
    """
    rows, columns = (2 * (np.arange(side) + 0.5) / side - 1 for side in grid_hw)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    turns = (places / periods.astype(np.float64)).reshape(len(places), -1)
    angles = np.concatenate([np.zeros((spec.prefix_tokens, turns.shape[1])), 2 * math.pi * turns])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def pos_embed_for(pos_embed: Float32, grid_hw: tuple[int, int], spec: VitSpec) -> Float32:
    """A stored position embedding for the patch grid of one input size, by the publisher's rule."""
    return interpolated_pos_embed(pos_embed, grid_hw, antialias=spec.pos_antialias, offset=spec.pos_offset)


def interpolated_pos_embed(pos_embed: Float32, grid_hw: tuple[int, int], *, antialias: bool, offset: float) -> Float32:
    """A position embedding for another patch grid, exactly as its publishers interpolate it.

    DINO, iBOT and DINOv2 without registers scale bicubically by (side + 0.1)/stored side: the offset once avoided a
    rounding error, and remains part of what the weights were trained with. With registers DINOv2 resizes to the grid
    itself, antialiased.

    Args:
        pos_embed: float32 (1, 1 + g², D), CLS first.
        grid_hw: the patch grid wanted.
        antialias: as the publisher has it.
        offset: added to the grid's sides for the scale; 0 to resize to the grid exactly.

    Returns:
        float32 (1, 1 + gh·gw, D).
    """
    side = math.isqrt(pos_embed.shape[1] - 1)
    if grid_hw == (side, side):
        return pos_embed
    rows, columns = (
        _resize_matrix(side, target, step=side / (target + offset), antialias=antialias) for target in grid_hw
    )
    grid = pos_embed[0, 1:].reshape(side, side, -1).astype(np.float64)
    resized = np.einsum("ys,xt,std->yxd", rows, columns, grid, optimize=True)
    patches = resized.reshape(1, grid_hw[0] * grid_hw[1], -1).astype(np.float32)
    return np.concatenate([pos_embed[:, :1], patches], axis=1)


def _resize_matrix(side: int, target: int, *, step: float, antialias: bool) -> np.ndarray:
    """float64 (target, side): the weight of every stored place in every new one.

    Args:
        side: stored places.
        target: new places.
        step: stored places per new place.
        antialias: widen the kernel where the grid becomes coarser, weigh only places inside; else repeat the border.
    """
    # coordinates are float32 in torch, and part of what the weights are given
    centres = np.float32(step) * (np.arange(target, dtype=np.float32) + np.float32(0.5))
    places = np.arange(side)
    if antialias and side == target:
        return np.eye(side)  # torch leaves a side alone that keeps its size
    if antialias:
        stretch = max(step, 1.0)
        reach = KERNEL_REACH * stretch
        weights = _cubic((places[None, :] - centres[:, None] + 0.5) / stretch, CUBIC_ANTIALIASED)
        first = np.maximum((centres - reach + 0.5).astype(int), 0)
        last = np.minimum((centres + reach + 0.5).astype(int), side)
        weights[(places[None, :] < first[:, None]) | (places[None, :] >= last[:, None])] = 0
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))
    matrix = np.zeros((target, side))
    nearest = centres - np.float32(0.5)
    below = np.floor(nearest).astype(int)
    for tap in range(1 - KERNEL_REACH, 1 + KERNEL_REACH):
        weight = _cubic(below + tap - nearest.astype(np.float64), CUBIC)
        np.add.at(matrix, (np.arange(target), np.clip(below + tap, 0, side - 1)), weight)
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel, 0 from a distance of 2 on."""
    x = np.abs(distance.astype(np.float64))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < KERNEL_REACH, far, 0.0))
