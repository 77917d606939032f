"""The search is exact: what the blocked product finds is what one would find pair by pair in float64."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.errors import MissingExtraError, ProviderError
from edge_uad.inference.search import PRODUCT_BYTES, QUERY_ROWS, PatchSearch
from edge_uad.records import Embedding, Float32, PatchMask
from tests.banks import brute_force, unit_rows

ROUNDING = 2e-6
"""Of a squared distance computed in float32: twice a dot product of unit vectors."""


def clustered(rng: np.random.Generator, m: int, dim: int) -> Float32:
    """Patches that lie far nearer to one another than to the rest: many candidates within a hair."""
    rows = unit_rows(rng, 3, dim)[rng.integers(0, 3, m)] + 1e-3 * rng.standard_normal((m, dim), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def repeated(rng: np.random.Generator, m: int, dim: int) -> Float32:
    """Each patch several times: ties everywhere."""
    return unit_rows(rng, max(1, m // 4), dim)[rng.integers(0, max(1, m // 4), m)]


def axes(rng: np.random.Generator, m: int, dim: int) -> Float32:
    """Unit vectors and their opposites: distances of 0, 2 and 4 exactly."""
    return np.eye(dim, dtype=np.float32)[rng.integers(0, dim, m)] * rng.choice([-1, 1], (m, 1)).astype(np.float32)


def few_dimensions(rng: np.random.Generator, m: int, dim: int) -> Float32:
    """All within a plane: whatever is beyond the first two components is nothing."""
    rows = np.zeros((m, dim), np.float32)
    rows[:, :2] = unit_rows(rng, m, 2)
    return rows


Kind = Callable[[np.random.Generator, int, int], Float32]
KINDS: list[Kind] = [unit_rows, clustered, repeated, axes, few_dimensions]


SMALL_BLOCKS_BYTES = 4 * 7 * 16


@settings(deadline=None, max_examples=150)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 300),
    k=st.integers(1, 9),
    dim=st.sampled_from([2, 24, 65]),
    asked=st.sampled_from(KINDS),
    known=st.sampled_from(KINDS),
    near=st.booleans(),
    product_bytes=st.sampled_from([1, SMALL_BLOCKS_BYTES, PRODUCT_BYTES]),
    seed=st.integers(0, 2**32 - 1),
)
def test_search_is_exact(
    *, n: int, m: int, k: int, dim: int, asked: Kind, known: Kind, near: bool, product_bytes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    patches = known(rng, m, dim)
    queries = patches[rng.integers(0, len(patches), n)] if near else asked(rng, n, dim)
    squared, rows = PatchSearch(patches, product_bytes=product_bytes).nearest(queries, k)
    expected, expected_rows = brute_force(queries, patches, len(patches))
    k = min(k, len(patches))
    assert squared.shape == rows.shape == (n, k)
    np.testing.assert_allclose(squared, expected[:, :k], atol=ROUNDING)
    assert (np.diff(squared, axis=1) >= 0).all()
    # every row at most once, and each lies as far as is told of it
    assert all(len(set(found)) == k for found in rows.tolist())
    told = ((queries[:, None].astype(np.float64) - patches[rows]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, told, atol=ROUNDING)
    # where no other patch lies as near within rounding, it is the very row
    gaps = np.pad(np.diff(expected, axis=1), ((0, 0), (1, 1)), constant_values=np.inf)
    alone = np.minimum(gaps[:, :-1], gaps[:, 1:])[:, :k] > 2 * ROUNDING
    np.testing.assert_array_equal(rows[alone], expected_rows[:, :k][alone])


def test_more_queries_than_go_into_one_product() -> None:
    rng = np.random.default_rng(0)
    queries, patches = unit_rows(rng, 2 * QUERY_ROWS + 3, 16), unit_rows(rng, 50, 16)
    squared, rows = PatchSearch(patches).nearest(queries, 2)
    expected, expected_rows = brute_force(queries, patches, 2)
    np.testing.assert_allclose(squared, expected, atol=ROUNDING)
    np.testing.assert_array_equal(rows, expected_rows)


def test_a_patch_has_the_same_bits_whoever_stands_beside_it_and_however_the_work_is_cut() -> None:
    rng = np.random.default_rng(1)
    patches, queries = unit_rows(rng, 3001, 384), unit_rows(rng, 257, 384)
    whole, rows = PatchSearch(patches).nearest(queries, 3)
    for search in (PatchSearch(patches, threads=1), PatchSearch(patches, product_bytes=4 * 257 * 100)):
        np.testing.assert_array_equal(search.nearest(queries, 3), (whole, rows))
    for count in (1, 2, 13, 100):
        np.testing.assert_array_equal(PatchSearch(patches).nearest(queries[:count], 3), (whole[:count], rows[:count]))


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 200),
    k=st.integers(1, 5),
    levels=st.integers(2, 4),
    known=st.sampled_from([unit_rows, clustered, repeated]),
    seed=st.integers(0, 2**32 - 1),
)
def test_levels_find_their_neighbours_by_themselves(
    *, n: int, m: int, k: int, levels: int, known: Kind, seed: int
) -> None:
    """The squared distance is the mean of what each level finds; common neighbours never lie nearer."""
    rng = np.random.default_rng(seed)
    banks = [known(rng, m, 24) for _ in range(levels)]
    m = len(banks[0])
    frames = [unit_rows(rng, n, 24) for _ in range(levels)]
    patches, queries = (np.concatenate(parts, axis=1) / np.sqrt(np.float32(levels)) for parts in (banks, frames))
    search = PatchSearch(patches, levels=levels)
    squared, rows = search.nearest(queries, k)
    apart = [brute_force(frame, bank, min(k, m))[0] for frame, bank in zip(frames, banks, strict=True)]
    np.testing.assert_allclose(squared, np.mean(apart, axis=0), atol=ROUNDING)
    assert rows.shape == squared.shape
    together, _ = PatchSearch(patches).nearest(queries, k)
    assert (squared.mean(axis=1) <= together.mean(axis=1) + 2 * ROUNDING).all()
    np.testing.assert_array_equal(search.using(threads=1).nearest(queries, k)[0], squared)


def test_several_threads_may_search_at_once() -> None:
    rng = np.random.default_rng(2)
    search = PatchSearch(unit_rows(rng, 2000, 48))
    frames = [unit_rows(rng, 100 + index, 48) for index in range(24)]
    alone = [search.nearest(frame, 2) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda frame: search.nearest(frame, 2), frames))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_queries_find_nothing() -> None:
    squared, rows = PatchSearch(unit_rows(np.random.default_rng(0), 5, 4)).nearest(np.empty((0, 4), np.float32), 2)
    assert squared.shape == rows.shape == (0, 2)


def test_a_frame_without_foreground_has_no_distances() -> None:
    rng = np.random.default_rng(0)
    seen = Embedding(tokens=unit_rows(rng, 6, 24), attention=np.ones(6, np.float32), grid_hw=(2, 3))
    nothing = PatchMask(foreground=np.zeros(6, np.bool_), grid_hw=(2, 3))
    found = PatchSearch(unit_rows(rng, 50, 24)).distances(seen, nothing, neighbours=3)
    assert not found.squared.any()
    assert (found.nearest == -1).all()


def test_without_faiss_the_gpu_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # as where it is not installed
    with pytest.raises(MissingExtraError, match=r"searching on the GPU needs the \[gpu\] extra"):
        PatchSearch(unit_rows(np.random.default_rng(0), 5, 4), device="gpu")


def test_a_gpu_that_is_not_there_is_an_error_and_never_the_cpu() -> None:
    faiss = pytest.importorskip("faiss", reason="the [gpu] extra is not installed")
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(ProviderError, match="faiss"):
        PatchSearch(unit_rows(np.random.default_rng(0), 5, 4), device="gpu")
