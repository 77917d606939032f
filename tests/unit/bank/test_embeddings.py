"""EmbeddingStore: what is read from the file is what was appended, and banks do not depend on it."""

import pickle
import resource
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.bank.calibrate import choose_coreset, cross_distances
from bank_tools.bank.coreset import BLOCK_ROWS, PROJECTION_DIM, greedy_coreset
from bank_tools.bank.embeddings import EmbeddingStore, ForegroundPatches
from edge_uad.errors import UsageError
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.search import PatchSearch
from edge_uad.records import Embedding, Float32, PatchDistances, PatchMask
from tests.banks import stored, unit_rows


def random_images(
    seed: int, n: int, *, grid_hw: tuple[int, int] = (3, 4), dim: int = 6, foreground: float = 0.5
) -> list[ForegroundEmbedding]:
    rng = np.random.default_rng(seed)
    n_patches = grid_hw[0] * grid_hw[1]
    images = []
    for _ in range(n):
        attention = rng.random(n_patches, np.float32)
        tokens = unit_rows(rng, n_patches, dim)
        mask = rng.random(n_patches) < foreground
        mask[0] = True
        images.append(
            ForegroundEmbedding(
                Embedding(tokens=tokens, attention=attention, grid_hw=grid_hw),
                PatchMask(foreground=mask, grid_hw=grid_hw),
            )
        )
    return images


def all_patches(images: list[ForegroundEmbedding]) -> Float32:
    return np.concatenate([one.embedding.tokens[one.mask.foreground] for one in images])


def assert_equal(found: ForegroundEmbedding, expected: ForegroundEmbedding) -> None:
    np.testing.assert_array_equal(found.embedding.tokens, expected.embedding.tokens)
    np.testing.assert_array_equal(found.embedding.attention, expected.embedding.attention)
    np.testing.assert_array_equal(found.mask.foreground, expected.mask.foreground)
    assert found.embedding.grid_hw == found.mask.grid_hw == expected.mask.grid_hw


@given(seed=st.integers(0, 999), n=st.integers(1, 6), data=st.data())
def test_what_is_read_is_what_was_appended(seed: int, n: int, data: st.DataObject) -> None:
    images = random_images(seed, n)
    store = stored(images)
    for found, expected in zip(store, images, strict=True):
        assert_equal(found, expected)
    chosen = data.draw(st.lists(st.integers(0, n - 1), max_size=5))
    view = store.only(chosen)
    assert len(view) == len(chosen)
    for found, image in zip(view, chosen, strict=True):
        assert_equal(found, images[image])


@given(seed=st.integers(0, 999), n=st.integers(0, 6), data=st.data())
def test_another_process_reads_what_this_one_appended_masks_and_all(seed: int, n: int, data: st.DataObject) -> None:
    store = stored(random_images(seed, n))
    sent = pickle.loads(pickle.dumps(store))  # noqa: S301  # its own
    views = [(store, sent)]
    if n:
        chosen = data.draw(st.lists(st.integers(0, n - 1), max_size=5))
        kept = store.masked(kernel=1, threshold=0)
        views.append((kept.only(chosen), pickle.loads(pickle.dumps(kept.only(chosen)))))  # noqa: S301
        views.append((kept.only(chosen), sent.masked(kernel=1, threshold=0).only(chosen)))
    for here, there in views:
        assert here.dim == there.dim
        for found, expected in zip(there, here, strict=True):
            assert_equal(found, expected)
    with pytest.raises(TypeError, match="read only"):
        sent.append(random_images(seed, 1)[0])


@given(seed=st.integers(0, 999), n=st.integers(1, 6), data=st.data())
def test_rows_of_patches_are_those_of_the_concatenated_matrix(seed: int, n: int, data: st.DataObject) -> None:
    images = random_images(seed, n)
    expected, patches = all_patches(images), ForegroundPatches(stored(images))
    assert patches.shape == expected.shape
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(expected)), st.integers(0, len(expected)))))
    np.testing.assert_array_equal(patches[start:stop], expected[start:stop])
    rows = np.asarray(sorted(data.draw(st.sets(st.integers(0, len(expected) - 1)))), np.int64)
    np.testing.assert_array_equal(patches[rows], expected[rows])
    image_of = np.repeat(np.arange(n), [int(one.mask.foreground.sum()) for one in images])
    np.testing.assert_array_equal(patches.image_of(rows), image_of[rows])


def test_a_coreset_read_from_the_store_is_the_one_chosen_in_memory_bit_for_bit() -> None:
    """More patches than three blocks, of a dimension that is projected; compared with the product of all rows."""
    images = random_images(0, 30, grid_hw=(32, 32), dim=192, foreground=0.9)
    patches = all_patches(images)
    assert len(patches) > 3 * BLOCK_ROWS
    projected = patches @ projection_of(192)
    rows = greedy_coreset(patches, ratio=0.02, seed=0)
    coreset = choose_coreset(stored(images), ratio=0.02, seed=0)
    np.testing.assert_array_equal(coreset.patches, patches[rows])
    blockwise = [
        patches[start : start + BLOCK_ROWS] @ projection_of(192) for start in range(0, len(patches), BLOCK_ROWS)
    ]
    np.testing.assert_array_equal(np.concatenate(blockwise), projected)


def test_a_bank_is_chosen_and_calibrated_in_a_fraction_of_its_patches_memory() -> None:
    """NumPy's allocations at their peak, while as many images are stored, chosen from and scored as take 75 MiB."""
    one = random_images(0, 1, grid_hw=(32, 32), dim=192, foreground=1)[0]
    n_images = 100
    tracemalloc.start()
    try:
        store = stored(one for _ in range(n_images))
        choose_coreset(store, ratio=0.0005, seed=0)
        for _, distances, _ in islice(cross_distances(store, search_of_few, seed=0), 2):
            assert distances.squared.max() < 1e-5  # every image is a copy of the others
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n_images * one.embedding.tokens.nbytes / 2


def search_of_few(images: EmbeddingStore) -> Callable[[ForegroundEmbedding], PatchDistances]:
    search = PatchSearch(choose_coreset(images.only([0]), ratio=1.0, seed=0).patches)
    return lambda one: search.distances(one.embedding, one.mask, neighbours=1)


def projection_of(dim: int) -> Float32:
    """As drawn by the coreset with seed 0."""
    normal = np.random.default_rng(0).standard_normal((dim, PROJECTION_DIM), np.float32)
    return normal / np.float32(np.sqrt(PROJECTION_DIM))


def test_changed_images_keep_their_masks() -> None:
    images = random_images(1, 3)
    flipped = stored(images).changed(lambda one: ForegroundEmbedding(_negated(one.embedding), one.mask)).only([2])
    np.testing.assert_array_equal(flipped[0].embedding.tokens, -images[2].embedding.tokens)
    np.testing.assert_array_equal(flipped.n_foreground, [images[2].mask.foreground.sum()])


def _negated(embedding: Embedding) -> Embedding:
    return Embedding(tokens=-embedding.tokens, attention=embedding.attention, grid_hw=embedding.grid_hw)


def test_the_file_has_no_name_and_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    store.append(random_images(0, 1)[0])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="set TMPDIR"):
        EmbeddingStore(tmp_path / "missing")


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    """The limit on the size of files is what a full disk is to a process: writing fails halfway."""
    store = EmbeddingStore(tmp_path)
    [image] = random_images(0, 1, grid_hw=(32, 32), dim=64)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UsageError, match=f"{tmp_path}.*free some space"):
            store.append(image)
        with pytest.raises(UsageError, match="free some space"):
            greedy_coreset(all_patches([image]), ratio=0.1, seed=0, scratch=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
