"""Search in lists: a query is compared with the patches of the nearest few lists alone, and these exactly once more.

Patches lie in lists around centroids (an inverted file). Lists, and candidates within them, are chosen by short
vectors: the leading principal components, and what is left of the length. The distance that is told is computed anew
from the patch itself. So it is always that of a patch of the bank, and never less than the exact search's: a miss makes
a part look worse, never better. How often that happens is measured where the bank is built
(``bank_tools/bank/index.py``).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np

from edge_uad.inference.search import LevelSearch, PatchSearch, best_of, open_session
from edge_uad.records import BankManifest, Float32, Int, SearchDevice

REST_WEIGHT = 0.75
"""How much the parts of two near vectors beyond the components are taken to have in common: the product of their
lengths, times this, stands for their product. Measured on several products' patches: 0.75 finds more than 0 or 0.5."""
PER_LIST, KEPT = 8, 16
"""Candidates of a list, and of all lists, that are compared exactly; for more than one neighbour at least twice k."""
FAR_RATIO = 0.02
"""The patches farthest from the bank, of which the score is made, are searched in more lists, with more candidates."""
FAR_FACTOR = 8
FAR_KEPT = 64
QUERY_ROWS = 4096
EXACT_ROWS = 64
"""Queries whose candidates are compared at a time: what a processor's cache can hold."""
UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class LevelIndex:
    """The lists of one level's patches."""

    axes: Float32
    """(d, r − 1), principal components, orthonormal columns."""
    centroids: Float32
    """(L, r), unit norm, of short vectors."""
    members: Int
    """int32 (M,): the patches' rows, list by list."""
    starts: Int
    """int32 (L + 1,): where each list begins in ``members``, and the end."""

    def short(self, vectors: Float32) -> Float32:
        """Short vectors float32 (n, r) of unit-norm ones (n, d)."""
        short = np.empty((len(vectors), self.centroids.shape[1]), np.float32)
        return shortened(vectors, self.axes, out=short)


@dataclass(frozen=True, slots=True, eq=False)
class PatchIndex:
    """The lists of a bank's patches, level by level, and how many of them a query reads."""

    levels: tuple[LevelIndex, ...]
    lists_read: int

    def tensors(self) -> dict[str, Any]:
        """By name, as they are stored and hashed."""
        return {
            _tensor_name(level, name): np.ascontiguousarray(getattr(one, name), dtype)
            for level, one in enumerate(self.levels)
            for name, dtype in _DTYPES.items()
        }


_DTYPES: Mapping[str, type] = {"axes": np.float32, "centroids": np.float32, "members": np.int32, "starts": np.int32}


class IndexedSearch(PatchSearch):
    """A search in lists, by the interface of the exact one. May be used by several threads at once.

    The same queries find the same patches whatever the number of threads.

    Args:
        exact: the search of the same patches, whose memory is shared; it answers where the lists hold too few.
        index: of the patches.
        threads: of the CPU; 0 for one per core.
    """

    def __init__(self, exact: PatchSearch, index: PatchIndex, *, threads: int = 0) -> None:
        self.n_patches = exact.n_patches
        self.levels = [
            _IndexedLevel(level, lists, _short_patches(level.patches, lists), index.lists_read, threads)
            for level, lists in zip(exact.levels, index.levels, strict=True)
        ]

    def reading(self, lists: int) -> "IndexedSearch":
        """The same search of the same patches in memory, with so many lists read by each query."""
        other = copy(self)
        other.levels = [level.reading(lists) for level in self.levels if isinstance(level, _IndexedLevel)]
        return other


class _IndexedLevel(LevelSearch):
    """The search in lists at one level. May be used by several threads at once.

    Args:
        exact: the search of the same patches.
        index: of the patches.
        short: their short vectors (M, r), list by list.
        lists_read: by each query.
        threads: of the CPU; 0 for one per core.
    """

    def __init__(self, exact: LevelSearch, index: LevelIndex, short: Float32, lists_read: int, threads: int) -> None:
        self.patches = exact.patches
        self._exact = exact
        self._index = index
        self._short = short
        self._lists_read = min(lists_read, len(index.centroids))
        self._threads = threads
        self._session = open_session(threads)
        self._n_workers = threads or len(os.sched_getaffinity(0))

    def using(self, *, threads: int) -> "_IndexedLevel":
        """The same patches and lists in memory, searched by so many threads; 0 for one per core."""
        return _IndexedLevel(self._exact.using(threads=threads), self._index, self._short, self._lists_read, threads)

    def reading(self, lists: int) -> "_IndexedLevel":
        """The same patches and lists in memory, with so many lists read by each query."""
        return _IndexedLevel(self._exact, self._index, self._short, lists, self._threads)

    def nearest(self, queries: Float32, k: int) -> tuple[Float32, Int]:
        """Squared distances float32 (n, k), ascending, and rows int64 (n, k) of queries (n, d), unit norm."""
        short = self._index.short(queries)
        squared, rows = self._search(queries, short, k, lists_read=self._lists_read, kept=max(KEPT, 2 * k))
        n_far = int(np.ceil(FAR_RATIO * len(queries)))
        if n_far and self._lists_read < len(self._index.centroids):
            far = np.argsort(-squared.mean(axis=1), kind="stable")[:n_far]
            more = self._search(
                queries[far], short[far], k, lists_read=FAR_FACTOR * self._lists_read, kept=max(FAR_KEPT, 2 * k)
            )
            nearer = more[0].sum(axis=1) < squared[far].sum(axis=1)
            squared[far[nearer]], rows[far[nearer]] = more[0][nearer], more[1][nearer]
        return squared, rows

    def _search(self, queries: Float32, short: Float32, k: int, *, lists_read: int, kept: int) -> tuple[Float32, Int]:
        """The k nearest of the candidates that so many lists give; of all patches where the lists hold fewer."""
        squared, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERY_ROWS):
            some = slice(start, start + QUERY_ROWS)
            candidates = self._candidates(short[some], max(PER_LIST, k), lists_read=lists_read, kept=kept)
            self._compare(queries[some], candidates, squared[some], rows[some])
        return squared, rows

    def _compare(self, queries: Float32, candidates: Int, squared: Float32, rows: Int) -> None:
        """Fill ``squared`` and ``rows`` (n, k) with the nearest of the candidates (n, c), by their own vectors."""
        k = squared.shape[1]
        enough = (candidates >= 0).sum(axis=1) >= k

        def compare(start: int) -> None:
            some = slice(start, start + EXACT_ROWS)
            found, found_rows = self.distances_of(queries[some], candidates[some])
            squared[some], rows[some] = found[:, :k], found_rows[:, :k]

        self._share(compare, range(0, len(queries), EXACT_ROWS))
        if not enough.all():
            squared[~enough], rows[~enough] = self._exact.nearest(queries[~enough], k)

    def distances_of(self, queries: Float32, rows: Int) -> tuple[Float32, Int]:
        """As of the exact search; a row of -1 is no patch, and lies last."""
        squared, found = super().distances_of(queries, rows)
        if (rows >= 0).all():
            return squared, found
        squared = np.where(found < 0, np.float32(np.inf), squared)
        order = np.argsort(squared, axis=1, kind="stable")
        return np.take_along_axis(squared, order, axis=1), np.take_along_axis(found, order, axis=1)

    def _candidates(self, short: Float32, per_list: int, *, lists_read: int, kept: int) -> Int:
        """Rows int64 (n, kept or fewer), ascending: the best by short vectors of the nearest lists; -1 for none."""
        index, one_thread = self._index, open_session(1)
        lists_read = min(lists_read, len(index.centroids))
        lists = best_of(self._session, short, index.centroids, lists_read)[1].ravel()
        # the queries that read a list stand together: one product for each list
        pairs = np.argsort(lists, kind="stable")
        asking = short[pairs // lists_read]
        read, first = np.unique(lists[pairs], return_index=True)
        spans = list(zip(index.starts[read], index.starts[read + 1], first, [*first[1:], len(pairs)], strict=True))
        products = np.full((len(pairs), per_list), -np.inf, np.float32)
        places = np.zeros((len(pairs), per_list), np.int64)

        def read_lists(some: int) -> None:
            for start, stop, begin, end in spans[some :: self._n_workers]:
                if k := min(per_list, int(stop - start)):
                    best, rows = best_of(one_thread, asking[begin:end], self._short[start:stop], k)
                    products[begin:end, :k] = best
                    np.add(rows, start, out=places[begin:end, :k])

        self._share(read_lists, range(self._n_workers))
        at = np.empty_like(pairs)
        at[pairs] = np.arange(len(pairs))
        products, places = products[at].reshape(len(short), -1), places[at].reshape(len(short), -1)
        if products.shape[1] > kept:
            best = np.argpartition(-products, kept - 1, axis=1)[:, :kept]
            products, places = np.take_along_axis(products, best, axis=1), np.take_along_axis(places, best, axis=1)
        rows = np.where(np.isneginf(products), -1, index.members[places])
        rows.sort(axis=1)  # of patches equally near the first, as the exact search has it
        return rows.astype(np.int64)

    def _share(self, work: Callable[[int], None], parts: Sequence[int]) -> None:
        """Do the parts, by as many threads as there are for it; the result depends on the parts alone."""
        if self._n_workers == 1:
            for one in parts:
                work(one)
        else:
            list(_pool(self._n_workers).map(work, parts))


def index_of(
    tensors: Mapping[str, Any], *, dim: int, n_patches: int, levels: int, n_lists: int, lists_read: int
) -> PatchIndex:
    """The index that tensors of a bank file describe.

    Args:
        tensors: of the file, by name.
        dim: D, of a patch.
        n_patches: M.
        levels: of a patch; D is a multiple.
        n_lists: of each level.
        lists_read: by each query.

    Raises:
        ValueError: one is missing, or of another type or shape, or names what is not there.
    """
    found = []
    for level in range(levels):
        named = {name: tensors.get(_tensor_name(level, name)) for name in _DTYPES}
        for name, dtype in _DTYPES.items():
            tensor = named[name]
            if tensor is None or tensor.dtype != dtype or tensor.ndim != (2 if dtype is np.float32 else 1):
                raise ValueError(f"it has no usable tensor {_tensor_name(level, name)}")
        one = LevelIndex(**cast("dict[str, Any]", named))
        if len(one.centroids) != n_lists or not _holds(one, dim // levels, n_patches):
            raise ValueError("its index does not fit its patches")
        found.append(one)
    return PatchIndex(tuple(found), lists_read)


def _holds(index: LevelIndex, dim: int, n_patches: int) -> bool:
    """Whether shapes fit, vectors are unit norm, and each patch lies in one list."""
    n_lists, width = index.centroids.shape
    shapes = (
        index.axes.shape == (dim, width - 1),
        index.members.shape == (n_patches,),
        index.starts.shape == (n_lists + 1,),
    )
    if not all(shapes) or not n_lists or (index.starts[0], index.starts[-1]) != (0, n_patches):
        return False
    if (np.diff(index.starts) < 0).any() or not 0 <= index.members.min() <= index.members.max() < n_patches:
        return False
    each_once = (np.bincount(index.members, minlength=n_patches) == 1).all()
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.concatenate([np.linalg.norm(index.axes, axis=0), np.linalg.norm(index.centroids, axis=1)])
        return bool(each_once and (np.abs(lengths - 1) < UNIT_TOLERANCE).all())


def shortened(vectors: Float32, axes: Float32, *, out: Float32) -> Float32:
    """Write the short vectors of unit-norm ones.

    Args:
        vectors: float32 (n, d).
        axes: float32 (d, r − 1).
        out: float32 (n, r).

    Returns:
        ``out``.
    """
    np.matmul(vectors, axes, out=out[:, :-1])
    rest = 1 - np.vecdot(out[:, :-1], out[:, :-1])
    out[:, -1] = np.sqrt(REST_WEIGHT * np.maximum(rest, 0))
    return out


def _short_patches(patches: Float32, index: LevelIndex) -> Float32:
    """float32 (M, r), list by list."""
    short = np.empty((len(patches), index.centroids.shape[1]), np.float32)
    for start in range(0, len(patches), QUERY_ROWS):
        some = slice(start, start + QUERY_ROWS)
        shortened(patches[index.members[some]], index.axes, out=short[some])
    return short


def describe_search(manifest: BankManifest, device: SearchDevice = "cpu") -> str | None:
    """How a bank with an index is searched, in one line for people; None for one that is searched exactly."""
    found = manifest.index
    if found is None:
        return None
    if device != "cpu":
        return "searched exactly on the GPU; its index is for the CPU"
    return (
        f"searched by an index, {found.lists_read} of {found.n_lists} lists and more for the farthest patches: on "
        f"{found.n_images} good images {found.recall:.2%} of the patches found their nearest, {found.flips} verdicts "
        f"changed, scores rose by {found.p99_score_difference:.2g} (99th percentile) at a threshold of "
        f"{manifest.threshold:.2g}"
    )


def _tensor_name(level: int, name: str) -> str:
    return f"index.{level}.{name}"


@cache
def _pool(n: int) -> ThreadPoolExecutor:
    """One pool for all banks; its threads sleep where there is nothing to search."""
    return ThreadPoolExecutor(n, thread_name_prefix="search")
