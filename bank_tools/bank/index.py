"""The lists that a large bank is searched in, and the comparison with the exact search that allows them.

Compared is what calibration scores anyway: good images against coresets of others. Each such coreset gets lists of its
own, made as the bank's are made, so that what is certified is the way of making them, on images that they do not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from bank_tools.bank.recipe import Recipe
from edge_uad.inference.index import IndexedSearch, LevelIndex, PatchIndex, shortened
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.scoring import decide, image_score
from edge_uad.inference.search import PatchSearch, best_of, open_session, split_levels
from edge_uad.records import Float32, IndexCertificate, Int, PatchDistances

PAYS_FROM = 20_000
"""Patches from which on a bank gets lists by itself (``benchmarks/search.py`` has the times)."""
SHORT_DIM = 64
LISTS_PER_ROOT = 1.0
"""So many times the square root of the patches are the lists. More of them are more calls, fewer are longer ones."""
WIDTHS = (4, 8, 16, 32)
"""Lists read, from the fastest on; the first that holds what is promised is taken."""
COMPONENT_ROWS, ROWS_PER_LIST, ROUNDS, BLOCK_ROWS = 20_000, 40, 10, 4096
FOLDS_ENOUGH, IMAGES_ENOUGH = 5, 30
"""Folds of calibration whose coresets get lists, and images compared in them; more would cost more than they tell."""

LEAST_RECALL = 0.95
SCORE_RATIO = 0.01
"""The 99th percentile of the scores' rises is at most this part of the threshold; and no verdict may change."""
SAME_DISTANCE = 4e-6
"""Squared distances that differ by less are one: twice the rounding of float32."""


def build_index(patches: Float32, *, levels: int, seed: int, threads: int = 0) -> PatchIndex:
    """The lists of a bank's patches, for the narrowest width.

    The same patches and seed give the same lists on one machine, whatever the number of threads.

    Args:
        patches: float32 (M, D), unit norm.
        levels: as in inspection.
        seed: of the samples that components and centroids are found by.
        threads: of the CPU; 0 for one per core.
    """
    n_lists = n_lists_of(len(patches))
    found = [
        _level_index(level, n_lists, np.random.default_rng((seed, number)), open_session(threads))
        for number, level in enumerate(split_levels(patches, levels))
    ]
    return PatchIndex(tuple(found), min(WIDTHS[0], n_lists))


def n_lists_of(n_patches: int) -> int:
    """In how many lists so many patches lie."""
    return min(n_patches, round(LISTS_PER_ROOT * float(np.sqrt(n_patches))))


def wants_index(recipe: Recipe, n_patches: int) -> bool:
    """Whether a bank of so many patches is to get lists, where its good images allow them."""
    return recipe.index == "always" or (recipe.index == "auto" and n_patches >= PAYS_FROM)


@dataclass(frozen=True, slots=True)
class IndexVerdict:
    """What the comparison came to."""

    certificate: IndexCertificate | None
    """Of the narrowest width that holds what is promised; None where none does."""
    refusal: str | None
    """Why not, where none does."""


class IndexTrial:
    """Compares searches in lists with the exact one while the good images are calibrated.

    Args:
        recipe: of the bank.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._folds = 0
        self._searches: list[IndexedSearch] = []
        self._exact: list[float] = []
        self._indexed: list[list[float]] = []
        self._found: list[Int] = []
        self._n_patches = 0
        self._seconds = 0.0

    def begin_fold(self, patches: Float32, exact: PatchSearch) -> None:
        """Make the lists of the next fold's coreset, where it is one of those that get some."""
        started_s = perf_counter()
        self._searches = []
        if self._folds < FOLDS_ENOUGH or len(self._exact) < IMAGES_ENOUGH:
            self._folds += 1
            recipe = self._recipe
            index = build_index(patches, levels=recipe.levels, seed=recipe.seed, threads=recipe.search_threads)
            narrow = IndexedSearch(exact, index, threads=recipe.search_threads)
            self._searches = [narrow.reading(width) for width in WIDTHS]
        self._seconds += perf_counter() - started_s

    def compare(self, image: ForegroundEmbedding, exact: PatchDistances) -> None:
        """Search one image of the fold in lists of every width, beside what the exact search found."""
        if not self._searches:
            return
        started_s, recipe = perf_counter(), self._recipe
        indexed = [one.distances(image.embedding, image.mask, neighbours=recipe.neighbours) for one in self._searches]
        self._exact.append(image_score(exact, top_ratio=recipe.top_ratio))
        self._indexed.append([image_score(one, top_ratio=recipe.top_ratio) for one in indexed])
        foreground = image.mask.foreground
        limit = exact.squared[foreground] + SAME_DISTANCE
        self._found.append(np.array([np.count_nonzero(one.squared[foreground] <= limit) for one in indexed]))
        self._n_patches += len(limit)
        self._seconds += perf_counter() - started_s

    def verdict(self, threshold: float, *, n_patches: int) -> IndexVerdict:
        """The narrowest width that holds what is promised.

        Args:
            threshold: of the bank.
            n_patches: of the bank.
        """
        if not self._exact:
            return IndexVerdict(None, "no good image could be compared")
        refusal = ""
        for column, width in enumerate(WIDTHS):
            certificate = self._certificate(column, min(width, n_lists_of(n_patches)), threshold, n_patches)
            refusal = shortfall(certificate, threshold)
            if not refusal:
                return IndexVerdict(certificate, None)
        return IndexVerdict(None, refusal)

    def _certificate(self, column: int, width: int, threshold: float, n_patches: int) -> IndexCertificate:
        indexed = [scores[column] for scores in self._indexed]
        both = list(zip(indexed, self._exact, strict=True))
        rises = np.abs(np.subtract(indexed, self._exact))
        return IndexCertificate(
            n_lists=n_lists_of(n_patches),
            lists_read=width,
            n_images=len(indexed),
            recall=float(sum(found[column] for found in self._found)) / max(self._n_patches, 1),
            flips=sum(decide(one, threshold) != decide(exact, threshold) for one, exact in both),
            largest_score_difference=float(rises.max()),
            p99_score_difference=float(np.quantile(rises, 0.99)),
            seconds=round(self._seconds, 1),
        )


def shortfall(certificate: IndexCertificate, threshold: float) -> str:
    """What a search in lists does not hold of what is promised, in words; empty where it holds all."""
    beyond = []
    if certificate.flips:
        beyond.append(f"{certificate.flips} of {certificate.n_images} verdicts changed")
    if not certificate.recall >= LEAST_RECALL:
        beyond.append(f"{certificate.recall:.1%} of the patches found their nearest, {LEAST_RECALL:.0%} should")
    if not certificate.p99_score_difference <= SCORE_RATIO * threshold:
        beyond.append(
            f"scores rose by {certificate.p99_score_difference:.2g} (99th percentile), {SCORE_RATIO * threshold:.2g} "
            "is allowed"
        )
    return ", ".join(beyond)


def _level_index(patches: Float32, n_lists: int, rng: np.random.Generator, session: Any) -> LevelIndex:
    axes = _components(_sample(patches, COMPONENT_ROWS, rng), min(SHORT_DIM - 1, patches.shape[1]))
    short = np.empty((len(patches), axes.shape[1] + 1), np.float32)
    for some in _blocks(len(patches)):
        shortened(patches[some], axes, out=short[some])
    centroids = _centroids(_sample(short, ROWS_PER_LIST * n_lists, rng), n_lists, rng, session)
    nearest = _nearest(short, centroids, session)
    starts = np.concatenate([[0], np.cumsum(np.bincount(nearest, minlength=n_lists))])
    members = np.argsort(nearest, kind="stable")
    return LevelIndex(axes, centroids, members.astype(np.int32), starts.astype(np.int32))


def _sample(vectors: Float32, most: int, rng: np.random.Generator) -> Float32:
    if len(vectors) <= most:
        return vectors
    return vectors[np.sort(rng.choice(len(vectors), most, replace=False))]


def _components(vectors: Float32, n: int) -> Float32:
    """float32 (d, n): the leading principal components, about the origin as cosines are."""
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(axes[:, ::-1][:, :n], np.float32)


def _centroids(short: Float32, n_lists: int, rng: np.random.Generator, session: Any) -> Float32:
    """float32 (L, r), unit norm: spherical k-means. A list that loses all its vectors keeps its centroid."""
    centroids = _unit(short[rng.choice(len(short), n_lists, replace=False)])
    for _ in range(ROUNDS):
        nearest = _nearest(short, centroids, session)
        counts = np.bincount(nearest, minlength=n_lists)
        filled = counts > 0
        firsts = (np.cumsum(counts) - counts)[filled]
        centroids[filled] = np.add.reduceat(short[np.argsort(nearest, kind="stable")], firsts, axis=0)
        centroids = _unit(centroids)
    return centroids


def _nearest(short: Float32, centroids: Float32, session: Any) -> Int:
    """int64 (n,): each vector's list."""
    nearest = np.empty(len(short), np.int64)
    for some in _blocks(len(short)):
        nearest[some] = best_of(session, short[some], centroids, 1)[1][:, 0]
    return nearest


def _unit(vectors: Float32) -> Float32:
    unit: Float32 = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _blocks(n: int) -> Sequence[slice]:
    return [slice(start, start + BLOCK_ROWS) for start in range(0, n, BLOCK_ROWS)]
