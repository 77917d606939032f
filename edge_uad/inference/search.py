"""Exact nearest neighbours among unit-norm patches (ALGORITHM §5): one matrix product and its best, block by block.

Past the paper: a patch may be embedded at several levels, one block of the backbone each, and each level finds its own
nearest neighbour. Fine structure and meaning are then separate witnesses whose distances are averaged, instead of one
neighbour having to be near in both (docs/results.md has the figures).
"""

from copy import copy
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_uad.errors import MissingExtraError, ProviderError
from edge_uad.inference.cpu_sessions import cpu_session_options
from edge_uad.records import Embedding, Float32, Int, PatchDistances, PatchMask, SearchDevice

NEAREST_GRAPH = files("edge_uad.inference") / "nearest.onnx"
"""The search as an ONNX model: queries · patchesᵀ and the k best of each row. ``export/search_graph.py`` writes it."""

FARTHEST = 4.0
"""The largest squared distance that two unit-norm patches can have."""
QUERY_ROWS = 1024
PRODUCT_BYTES = 16 * 2**20
"""How much of the queries × patches matrix is held at a time by default: what a processor's last cache can hold."""


class PatchSearch:
    """Exact nearest neighbours among unit-norm patches, at each level by itself.

    Exact: no patch of the bank is left out, and one is passed over only for another whose cosine is as high within the
    rounding of a float32 product (some 1e-7). Distances are computed anew from the rows found, each from its own two
    vectors alone, so that their bits depend neither on the other patches of the frame nor on blocks or threads.

    May be used by several threads at once.

    Args:
        patches: float32 (M, D), unit norm.
        device: cpu, by ONNX Runtime, or gpu, by faiss.
        threads: of the CPU; 0 for one per core.
        levels: how many equally long parts a patch has, each of the norm 1/√levels.
        product_bytes: how much of the queries × patches matrix may be held at a time.

    Raises:
        MissingExtraError: the GPU was requested, and faiss is not installed.
        ProviderError: the GPU was requested and cannot be used.
    """

    def __init__(
        self,
        patches: Float32,
        *,
        device: SearchDevice = "cpu",
        threads: int = 0,
        levels: int = 1,
        product_bytes: int = PRODUCT_BYTES,
    ) -> None:
        session = open_session(threads) if device == "cpu" else None
        self.n_patches = len(patches)
        self.levels = [
            LevelSearch(level, session=session, product_bytes=product_bytes) for level in split_levels(patches, levels)
        ]

    def using(self, *, threads: int) -> "PatchSearch":
        """The same search on the CPU by so many threads, of the same patches in memory; 0 for one per core."""
        other = copy(self)
        other.levels = [level.using(threads=threads) for level in self.levels]
        return other

    def nearest(self, queries: Float32, neighbours: int = 1) -> tuple[Float32, Int]:
        """Squared distances and rows of the nearest patches.

        Args:
            queries: float32 (n, D), unit norm.
            neighbours: k.

        Returns:
            Squared distances float32 (n, k), ascending, 0..4: the mean over the levels, each by its own neighbours;
            rows int64 (n, k), the first level's. Where the bank holds fewer than k patches, k is their number.
        """
        k = min(neighbours, self.n_patches)
        found = [
            level.nearest(part, k)
            for level, part in zip(self.levels, split_levels(queries, len(self.levels)), strict=True)
        ]
        if len(found) == 1:
            return found[0]
        mean: Float32 = np.mean([squared for squared, _ in found], axis=0, dtype=np.float32)
        return mean, found[0][1]

    def distances(self, embedding: Embedding, mask: PatchMask, *, neighbours: int) -> PatchDistances:
        """Mean of the k squared distances per foreground patch; 0 and row -1 for the others."""
        squared = np.zeros(len(embedding.tokens), np.float32)
        rows = np.full(len(embedding.tokens), -1, np.int64)
        if mask.foreground.any():
            found, found_rows = self.nearest(embedding.tokens[mask.foreground], neighbours)
            squared[mask.foreground] = found.mean(axis=1)
            rows[mask.foreground] = found_rows[:, 0]
        return PatchDistances(squared=squared, nearest=rows, grid_hw=embedding.grid_hw)


class LevelSearch:
    """The exact search at one level. May be used by several threads at once.

    Args:
        patches: float32 (M, d), unit norm, C-contiguous.
        session: of the search's graph; None to search on the GPU.
        product_bytes: how much of the queries × patches matrix may be held at a time.
    """

    def __init__(self, patches: Float32, *, session: Any, product_bytes: int) -> None:
        self.patches = patches
        self._session = session
        self._product_bytes = product_bytes
        self._gpu_index = _gpu_index(patches) if session is None else None

    def using(self, *, threads: int) -> "LevelSearch":
        """The same patches in memory, searched on the CPU by so many threads; 0 for one per core."""
        return LevelSearch(self.patches, session=open_session(threads), product_bytes=self._product_bytes)

    def nearest(self, queries: Float32, k: int) -> tuple[Float32, Int]:
        """Squared distances float32 (n, k), ascending, and rows int64 (n, k) of queries (n, d), unit norm."""
        squared, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERY_ROWS):
            some = slice(start, start + QUERY_ROWS)
            squared[some], rows[some] = self.distances_of(queries[some], self._best_rows(queries[some], k))
        return squared, rows

    def _best_rows(self, queries: Float32, k: int) -> Int:
        """int64 (n, k): rows of highest cosine."""
        if self._gpu_index is not None:
            found: Int = self._gpu_index.search(queries, k)[1]
            return found
        block_rows = max(k, self._product_bytes // (4 * len(queries)))
        cosines = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self.patches), block_rows):
            block = self.patches[start : start + block_rows]
            best, best_rows = best_of(self._session, queries, block, min(k, len(block)))
            cosines, rows = _best_of_both(cosines, rows, best, best_rows + start, k)
        return rows

    def distances_of(self, queries: Float32, rows: Int) -> tuple[Float32, Int]:
        """Squared distances float32 (n, k), ascending, of queries (n, d) and rows (n, k); the rows in that order."""
        cosines = np.vecdot(queries[:, None, :], self.patches[rows])
        # unit norm: ‖a − b‖² = 2 − 2·cos; rounding can leave the range by an ulp
        squared: Float32 = np.clip(2 - 2 * cosines, 0, FARTHEST)
        order = np.argsort(squared, axis=1, kind="stable")
        return np.take_along_axis(squared, order, axis=1), np.take_along_axis(rows, order, axis=1)


def split_levels(rows: Float32, levels: int) -> list[Float32]:
    """Unit-norm rows cut into their levels, each at unit norm again.

    Args:
        rows: float32 (n, D), each of the ``levels`` parts of the norm 1/√levels.
        levels: a divisor of D.

    Returns:
        For each level float32 (n, D / levels), C-contiguous.
    """
    if levels == 1:
        return [np.ascontiguousarray(rows, np.float32)]
    scale = np.float32(np.sqrt(levels))
    return [np.ascontiguousarray(part * scale, np.float32) for part in np.split(rows, levels, axis=1)]


def best_of(session: Any, queries: Float32, patches: Float32, k: int) -> tuple[Float32, Int]:
    """The k highest products float32 (n, k) of each of queries (n, d) with patches (m, d), and their rows (n, k)."""
    best, rows = session.run(None, {"queries": queries, "patches": patches, "k": np.array([k], np.int64)})
    return best, rows


def _best_of_both(cosines: Float32, rows: Int, others: Float32, other_rows: Int, k: int) -> tuple[Float32, Int]:
    """The k best of two candidate lists; of equal ones the first."""
    if not cosines.size:
        return others, other_rows
    cosines, rows = np.concatenate([cosines, others], axis=1), np.concatenate([rows, other_rows], axis=1)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, order, axis=1), np.take_along_axis(rows, order, axis=1)


@cache
def open_session(threads: int) -> Any:
    """The search's graph, run by so many threads of the CPU; 0 for one per core.

    One session for all banks: it holds threads and working memory, the bank is an input.
    """
    options = cpu_session_options(threads)
    options.enable_mem_pattern = False  # it would keep a plan for every number of foreground patches ever seen
    return ort.InferenceSession(NEAREST_GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])


def _gpu_index(patches: Float32) -> Any:
    """The patches as a flat index on the first GPU: as exact as the CPU's search."""
    try:
        import faiss  # noqa: PLC0415  # only the GPU's search needs it, and it brings threads and a BLAS of its own
    except ImportError as error:
        raise MissingExtraError("searching on the GPU", "gpu") from error
    if not hasattr(faiss, "StandardGpuResources"):
        raise ProviderError(
            "this faiss cannot search on a GPU; replace it by that of the [gpu] extra: "
            "pip uninstall faiss-cpu, then pip install 'edge-uad[gpu]'"
        )
    if faiss.get_num_gpus() == 0:
        raise ProviderError("searching on the GPU was requested and faiss finds none; use --search-device cpu")
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatIP(patches.shape[1]))
    index.add(patches)
    return index
