"""Greedy k-centre coreset (ALGORITHM §4): few patches that lie close to all of them."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from bank_tools.bank.embeddings import temporary_array
from edge_uad.records import Bool, Float32, Int

PROJECTION_DIM = 128
N_ANCHORS = 10
BLOCK_ROWS = 8192
COPY_BLOCK_ROWS = 2048
CACHED_ROWS = 2048
"""Of each side of a block of distances: small enough to stay in a processor's last cache from product to minimum."""


def coreset_size(n_patches: int, ratio: float, most: int | None = None) -> int:
    """How many patches a coreset of this ratio keeps: at least one, at most ``most`` where that is given."""
    size = max(1, round(n_patches * ratio))
    return size if most is None else min(size, most)


class PatchMatrix(Protocol):
    """Rows of patches: an array, or a reader that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, D)."""

    def __getitem__(self, rows: slice, /) -> Float32:
        """float32 (n, D)."""


def greedy_coreset(
    patches: PatchMatrix,
    *,
    ratio: float,
    seed: int,
    most: int | None = None,
    on_chosen: Callable[[int], None] = lambda _: None,
    scratch: Path | None = None,
) -> Int:
    """Choose patches one by one, each the farthest from those chosen before.

    As in the paper's sampler: distances in a random projection to 128 dimensions; a patch's first distance is its mean
    distance to 10 random anchors. Same patches, ratio and seed give the same choice.

    The farthest patch is found lazily. A distance to the chosen set only ever shrinks, so one that is out of date is
    an upper bound. A pool of the farthest patches is kept up to date choice by choice; while its farthest lies beyond
    every bound outside the pool it is the farthest of all. Only then are all the others brought up to date, with all
    pending choices in one matrix product: the same choices at the speed of arithmetic instead of that of memory.
    Memory is O(M): a few numbers a patch, and the projections, 128 numbers a patch, which may lie in a file.

    Args:
        patches: float32 (M, D), read block by block.
        ratio: part to keep, in (0, 1]; 1 keeps all.
        seed: of projection and anchors.
        most: patches to keep at most; None for no bound.
        on_chosen: called with the number of patches chosen since its last call.
        scratch: folder of a temporary file for the projections; None holds them in memory.

    Returns:
        int64 (k,), ascending rows, k = :func:`coreset_size`.
    """
    n_patches = patches.shape[0]
    size = coreset_size(n_patches, ratio, most)
    if size == n_patches:
        on_chosen(size)
        return np.arange(size)
    rng = np.random.default_rng(seed)
    points = _project(patches, rng, scratch)
    norms = np.einsum("md,md->m", points, points)
    to_chosen = _mean_distance_to_anchors(points, norms, rng) ** 2
    chosen: list[int] = []
    while len(chosen) < size:
        fresh = _choose_from_pool(points, norms, to_chosen, size - len(chosen))
        chosen += fresh
        _bring_up_to_date(points, norms, to_chosen, np.asarray(fresh))
        to_chosen[fresh] = -1  # never twice, even where other patches are equal to it
        on_chosen(len(fresh))
    return np.sort(np.asarray(chosen, np.int64))


def _project(patches: PatchMatrix, rng: np.random.Generator, scratch: Path | None) -> Float32:
    n_patches, dim = patches.shape
    shape = n_patches, min(dim, PROJECTION_DIM)
    points = np.empty(shape, np.float32) if scratch is None else temporary_array(shape, scratch)
    projection: Float32 | None = None
    if dim > PROJECTION_DIM:
        projection = rng.standard_normal((dim, PROJECTION_DIM), np.float32) / np.float32(np.sqrt(PROJECTION_DIM))
    for rows in _even_blocks(n_patches, BLOCK_ROWS):
        if projection is None:
            points[rows] = patches[rows]
        else:
            np.matmul(patches[rows], projection, out=points[rows])
    return points


def _even_blocks(n: int, least: int) -> list[slice]:
    """Blocks of at least so many rows: a product of few rows would have other last bits than one of all rows."""
    edges = np.linspace(0, n, max(1, n // least) + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _mean_distance_to_anchors(points: Float32, norms: Float32, rng: np.random.Generator) -> Float32:
    anchors = rng.choice(len(points), min(N_ANCHORS, len(points)), replace=False)
    mean = np.empty(len(points), np.float32)
    for rows in _blocks(len(points), BLOCK_ROWS):
        squared = _squared_distances(points[rows], norms[rows], points[anchors], norms[anchors])
        mean[rows] = np.sqrt(squared).mean(axis=1)
    return mean


def _choose_from_pool(points: Float32, norms: Float32, to_chosen: Float32, most: int) -> list[int]:
    """The next choices, as many as the farthest points alone can decide; at least one."""
    pool_size = min(len(points), max(BLOCK_ROWS, len(points) // 32))
    order = np.argpartition(to_chosen, len(points) - pool_size)
    pool = np.sort(order[len(points) - pool_size :])
    outside = order[: len(points) - pool_size]
    bound = float(to_chosen[outside].max()) if len(outside) else -np.inf
    pool_points, pool_norms, pool_to_chosen = points[pool], norms[pool], to_chosen[pool]
    chosen: list[int] = []
    while len(chosen) < most:
        farthest = int(pool_to_chosen.argmax())
        if chosen and pool_to_chosen[farthest] < bound:
            break
        chosen.append(int(pool[farthest]))
        # ‖p − c‖² = ‖p‖² + ‖c‖² − 2 p·c; without clipping, since only the order matters here
        # row by row: too little work for BLAS to share among threads that would spin between choices
        squared = np.vecdot(pool_points, -2 * pool_points[farthest])
        squared += pool_norms
        squared += pool_norms[farthest]
        np.minimum(pool_to_chosen, squared, out=pool_to_chosen)
        pool_to_chosen[farthest] = -1
    return chosen


def _bring_up_to_date(points: Float32, norms: Float32, to_chosen: Float32, fresh: Int) -> None:
    """Lower ``to_chosen`` in place to the squared distance to the nearest of the fresh choices."""
    minus_twice, fresh_norms = -2 * points[fresh].T, norms[fresh]
    for rows in _blocks(len(points), CACHED_ROWS):
        for columns in _blocks(len(fresh), CACHED_ROWS):
            # the point's own norm is the same for all choices: it may wait until the least is found
            squared = points[rows] @ minus_twice[:, columns]
            squared += fresh_norms[columns]
            nearest = squared.min(axis=1) + norms[rows]
            np.minimum(to_chosen[rows], np.maximum(nearest, 0), out=to_chosen[rows])


def _squared_distances(points: Float32, norms: Float32, centres: Float32, centre_norms: Float32) -> Float32:
    squared: Float32 = points @ (-2 * centres.T)
    squared += norms[:, None]
    squared += centre_norms
    np.maximum(squared, 0, out=squared)
    return squared


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def without_copies(patches: PatchMatrix, min_distance: float) -> Bool:
    """Which patches are kept when each is dropped that is nearer than ``min_distance`` to one kept before it.

    Args:
        patches: float32 (M, D), unit norm, read block by block.
        min_distance: squared; 0 keeps all.

    Returns:
        bool (M,).
    """
    n_patches = patches.shape[0]
    keep = np.ones(n_patches, np.bool_)
    if min_distance <= 0:
        return keep
    least_cosine = np.float32(1 - min_distance / 2)
    for start in range(0, n_patches, COPY_BLOCK_ROWS):
        rows = slice(start, min(start + COPY_BLOCK_ROWS, n_patches))
        block = patches[rows]
        for before in range(0, start, COPY_BLOCK_ROWS):
            earlier = slice(before, before + COPY_BLOCK_ROWS)
            kept = patches[earlier][keep[earlier]]
            if len(kept):
                keep[rows] &= (block @ kept.T).max(axis=1) < least_cosine
        _drop_copies(block, keep[rows], least_cosine)
    return keep


def _drop_copies(patches: Float32, keep: Bool, least_cosine: np.float32) -> None:
    """Go through one block in order; ``keep`` is changed in place."""
    near = patches @ patches.T >= least_cosine
    for row in range(len(patches)):
        if keep[row]:
            keep[row + 1 :] &= ~near[row, row + 1 :]
