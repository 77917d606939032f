"""Patches without their near-copies."""

import numpy as np

from edge_uad.records import Bool, Float32

BLOCK_ROWS = 2048


def without_copies(patches: Float32, apart: float) -> Bool:
    """Which patches stay when each is dropped that lies near one kept before it.

    Every patch dropped lies within ``apart`` of one that stays, and no two that stay do.

    Args:
        patches: float32 (M, D), unit norm.
        apart: squared distance; 0 keeps all.

    Returns:
        bool (M,).
    """
    keep = np.ones(len(patches), np.bool_)
    if apart <= 0:
        return keep
    least_cosine = np.float32(1 - apart / 2)
    for start in range(0, len(patches), BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, len(patches)))
        for before in range(0, start, BLOCK_ROWS):
            kept = patches[before : before + BLOCK_ROWS][keep[before : before + BLOCK_ROWS]]
            if len(kept):
                keep[block] &= (patches[block] @ kept.T).max(axis=1) < least_cosine
        _thin_out_block(patches[block], keep[block], least_cosine)
    return keep


def _thin_out_block(patches: Float32, keep: Bool, least_cosine: np.float32) -> None:
    """Go through one block in order; ``keep`` is changed in place."""
    near = patches @ patches.T >= least_cosine
    for row in range(len(patches)):
        if keep[row]:
            keep[row + 1 :] &= ~near[row, row + 1 :]
