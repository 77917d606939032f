"""The same image seen coarser: each patch with its neighbourhood, as PatchCore's locally aware features."""

from dataclasses import replace

import numpy as np

from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.records import Float32


def at_scale(seen: ForegroundEmbedding, side: int) -> ForegroundEmbedding:
    """Each token replaced by the mean of the ``side`` × ``side`` patches around it, at unit norm.

    At the grid's edge the mean is over the patches that are there. The mask stays.

    Args:
        seen: tokens (N, D).
        side: in patches, odd; 1 changes nothing.
    """
    if side == 1:
        return seen
    embedding = seen.embedding
    grid = embedding.tokens.reshape(*embedding.grid_hw, -1)
    total = _summed(_summed(grid, side, axis=0), side, axis=1)  # the norm makes a mean of the sum
    tokens = total.reshape(embedding.tokens.shape)
    tokens /= np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return replace(seen, embedding=replace(embedding, tokens=tokens))


def _summed(grid: Float32, side: int, *, axis: int) -> Float32:
    """Running sums of ``side`` neighbours along an axis; nothing stands beyond the edge."""
    length, reach = grid.shape[axis], side // 2
    total = np.zeros_like(grid)
    for shift in range(-min(reach, length - 1), min(reach, length - 1) + 1):
        to = [slice(None)] * grid.ndim
        of = [slice(None)] * grid.ndim
        to[axis] = slice(max(-shift, 0), length - max(shift, 0))
        of[axis] = slice(max(shift, 0), length - max(-shift, 0))
        total[tuple(to)] += grid[tuple(of)]
    return total
