"""Exact nearest neighbours among unit-norm patches (ALGORITHM §5): one matrix product and its best, block by block."""

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_uad.errors import MissingExtraError, ProviderError
from edge_uad.records import Embedding, Float32, Int, PatchDistances, PatchMask, SearchDevice

NEAREST_GRAPH = files("edge_uad.inference") / "nearest.onnx"
"""The search as an ONNX model: queries · patchesᵀ and the k best of each row. ``export/search_graph.py`` writes it."""

QUERY_ROWS = 1024
PRODUCT_BYTES = 16 * 2**20
"""How much of the queries × patches matrix is held at a time by default: what a processor's last cache can hold."""


class PatchSearch:
    """Exact nearest neighbours among unit-norm patches.

    Exact: no patch of the bank is left out, and one is passed over only for another whose cosine is as high within the
    rounding of a float32 product (some 1e-7). Distances are computed anew from the rows found, each from its own two
    vectors alone, so that their bits depend neither on the other patches of the frame nor on blocks or threads.

    May be used by several threads at once.

    Args:
        patches: float32 (M, D), unit norm.
        device: cpu, by ONNX Runtime, or gpu, by faiss.
        threads: of the CPU; 0 for one per core.
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
        product_bytes: int = PRODUCT_BYTES,
    ) -> None:
        self._patches = np.ascontiguousarray(patches, np.float32)
        self._gpu_index = _gpu_index(self._patches) if device == "gpu" else None
        self._product_bytes = product_bytes
        self._session = _open_session(threads) if device == "cpu" else None

    def nearest(self, queries: Float32, neighbours: int = 1) -> tuple[Float32, Int]:
        """Squared distances and rows of the nearest patches.

        Args:
            queries: float32 (n, D), unit norm.
            neighbours: k.

        Returns:
            Squared distances float32 (n, k), ascending, 0..4; rows int64 (n, k). Where the bank holds fewer than k
            patches, k is their number.
        """
        k = min(neighbours, len(self._patches))
        queries = np.ascontiguousarray(queries, np.float32)
        squared, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERY_ROWS):
            some = slice(start, start + QUERY_ROWS)
            squared[some], rows[some] = self._distances_of(queries[some], self._best_rows(queries[some], k))
        return squared, rows

    def distances(self, embedding: Embedding, mask: PatchMask, *, neighbours: int) -> PatchDistances:
        """Mean of the k squared distances per foreground patch; 0 and row -1 for the others."""
        squared = np.zeros(len(embedding.tokens), np.float32)
        rows = np.full(len(embedding.tokens), -1, np.int64)
        if mask.foreground.any():
            found, found_rows = self.nearest(embedding.tokens[mask.foreground], neighbours)
            squared[mask.foreground] = found.mean(axis=1)
            rows[mask.foreground] = found_rows[:, 0]
        return PatchDistances(squared=squared, nearest=rows, grid_hw=embedding.grid_hw)

    def _best_rows(self, queries: Float32, k: int) -> Int:
        """int64 (n, k): rows of highest cosine."""
        if self._gpu_index is not None:
            found: Int = self._gpu_index.search(queries, k)[1]
            return found
        block_rows = max(k, self._product_bytes // (4 * len(queries)))
        cosines = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self._patches), block_rows):
            block = self._patches[start : start + block_rows]
            best, best_rows = _best_of(self._session, queries, block, min(k, len(block)))
            cosines, rows = _best_of_both(cosines, rows, best, best_rows + start, k)
        return rows

    def _distances_of(self, queries: Float32, rows: Int) -> tuple[Float32, Int]:
        """Squared distances, ascending, and the rows in the same order."""
        cosines = np.vecdot(queries[:, None, :], self._patches[rows])
        # unit norm: ‖a − b‖² = 2 − 2·cos; rounding can leave the range by an ulp
        squared: Float32 = np.clip(2 - 2 * cosines, 0, 4)
        order = np.argsort(squared, axis=1, kind="stable")
        return np.take_along_axis(squared, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _best_of(session: Any, queries: Float32, patches: Float32, k: int) -> tuple[Float32, Int]:
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
def _open_session(threads: int) -> Any:
    """One session for all banks: it holds threads and working memory, the bank is an input."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # it would keep a plan for every number of foreground patches ever seen
    # between frames the cores belong to the backbone and to other stations; BLAS threads would spin on them
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
