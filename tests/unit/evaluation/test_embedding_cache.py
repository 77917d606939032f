"""Embeddings kept on disk: exact, bounded, whole."""

from pathlib import Path

import numpy as np

from bank_tools.evaluation.embedding_cache import EmbeddingCache
from edge_uad.records import Embedding
from tests.banks import unit_rows


def embedding(seed: int) -> Embedding:
    rng = np.random.default_rng(seed)
    return Embedding(tokens=unit_rows(rng, 6, 8), attention=rng.random(6, np.float32), grid_hw=(2, 3))


def key(seed: int) -> str:
    return f"{seed:064x}"[::-1]


def test_what_comes_back_is_bit_for_bit_what_went_in(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, max_bytes=10**6).put(key(1), embedding(1))
    found = EmbeddingCache(tmp_path, max_bytes=10**6).get(key(1))
    assert found is not None
    np.testing.assert_array_equal(found.tokens, embedding(1).tokens)
    np.testing.assert_array_equal(found.attention, embedding(1).attention)
    assert found.tokens.dtype == found.attention.dtype == np.float32
    assert found.grid_hw == (2, 3)


def test_what_was_never_put_is_not_there(tmp_path: Path) -> None:
    assert EmbeddingCache(tmp_path, max_bytes=10**6).get(key(1)) is None


def test_the_oldest_go_first_and_the_bound_holds(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=3000)
    for seed in range(40):
        cache.put(key(seed), embedding(seed))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= 3000
    assert cache.get(key(39)) is not None
    assert cache.get(key(0)) is None


def test_a_new_process_counts_what_is_there_already(tmp_path: Path) -> None:
    first = EmbeddingCache(tmp_path, max_bytes=10**6)
    first.put(key(1), embedding(1))
    assert EmbeddingCache(tmp_path, max_bytes=10**6).n_bytes == first.n_bytes > 0


def test_one_that_is_larger_than_the_whole_cache_is_not_kept(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=100)
    cache.put(key(1), embedding(1))
    assert cache.get(key(1)) is None


def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=10**6)
    cache.put(key(1), embedding(1))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    assert cache.get(key(1)) is None
    cache.put(key(1), embedding(1))
    assert cache.get(key(1)) is not None
