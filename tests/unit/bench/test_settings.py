"""Candidates that are read off one product are those that the bank's own search finds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.settings import (
    DEFAULT,
    GROUP,
    JOINT,
    LARGE,
    NEIGHBOURS,
    SMALL,
    TOP_RATIOS,
    Banks,
    candidates_from,
    highest,
)
from edge_uad.inference.search import PatchSearch, split_levels
from edge_uad.records import Float32

N_SMALL, N_DEFAULT, N_LARGE = 40, 3000, 5000
DIM, LEVELS = 16, 2


def unit_levels(rng: np.random.Generator, n: int) -> Float32:
    """(n, DIM), each level of the norm 1/√2."""
    parts = rng.standard_normal((n, LEVELS, DIM // LEVELS)).astype(np.float32)
    parts /= np.linalg.norm(parts, axis=2, keepdims=True) * np.sqrt(LEVELS)
    return np.ascontiguousarray(parts.reshape(n, DIM))


def test_every_candidate_is_what_the_banks_own_search_finds() -> None:
    rng = np.random.default_rng(0)
    patches, queries = unit_levels(rng, N_LARGE), unit_levels(rng, 50)
    banks = Banks(patches=patches, n_small=N_SMALL, n_default=N_DEFAULT)
    found = candidates_from(
        split_levels(queries, LEVELS), split_levels(patches, LEVELS), banks, top_ratio=0.01, alone=False
    )

    def own(n_patches: int, levels: int, k: int) -> Float32:
        squared: Float32 = PatchSearch(patches[:n_patches], levels=levels).nearest(queries, k)[0].mean(axis=1)
        return squared

    expected = {
        DEFAULT: own(N_DEFAULT, LEVELS, 1),
        JOINT: own(N_DEFAULT, 1, 1),
        SMALL: own(N_SMALL, LEVELS, 1),
        LARGE: own(N_LARGE, LEVELS, 1),
        **{f"{k} neighbours": own(N_DEFAULT, LEVELS, k) for k in NEIGHBOURS},
        **{f"top ratio {ratio:g}": own(N_DEFAULT, LEVELS, 1) for ratio in TOP_RATIOS},
    }
    assert {name for name, _, _ in found} == set(expected)
    for name, squared, _ in found:
        np.testing.assert_allclose(squared, expected[name], atol=2e-6)
    assert {name: ratio for name, _, ratio in found if name.startswith("top")} == {
        f"top ratio {ratio:g}": ratio for ratio in TOP_RATIOS
    }


def test_the_default_alone_is_the_same() -> None:
    rng = np.random.default_rng(1)
    patches, queries = unit_levels(rng, N_DEFAULT), unit_levels(rng, 7)
    banks = Banks(patches=patches, n_small=0, n_default=N_DEFAULT)
    [(name, squared, ratio)] = candidates_from(
        split_levels(queries, LEVELS), split_levels(patches, LEVELS), banks, top_ratio=0.05, alone=True
    )
    assert (name, ratio) == (DEFAULT, 0.05)
    np.testing.assert_allclose(squared, PatchSearch(patches, levels=LEVELS).nearest(queries)[0][:, 0], atol=2e-6)


@given(st.integers(1, 8 * GROUP + 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_highest_are_the_highest(width: int, k: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((3, width)).astype(np.float32)
    found = np.sort(highest(values, k), axis=1)
    np.testing.assert_array_equal(found, np.sort(values, axis=1)[:, -min(k, width) :])
