"""A search in lists tells the distance of a patch of the bank, and never one below the exact search's."""

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bank_tools.bank.index import build_index, n_lists_of
from edge_uad.errors import BankError
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.index import IndexedSearch, LevelIndex, PatchIndex, describe_search
from edge_uad.inference.search import PatchSearch, split_levels
from edge_uad.records import Embedding, Float32, PatchMask
from tests.banks import level_rows, random_bank, unit_rows

ROUNDING = 2e-6
"""Of a squared distance computed in float32: twice a dot product of unit vectors."""
WIDE_DIM = 128
"""More than short vectors have."""


def searches(patches: Float32, *, levels: int = 1, lists_read: int = 1) -> tuple[PatchSearch, IndexedSearch]:
    """The exact search, and one in lists."""
    exact = PatchSearch(patches, levels=levels)
    index = build_index(patches, levels=levels, seed=0)
    return exact, IndexedSearch(exact, index).reading(lists_read)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 60),
    m=st.integers(1, 400),
    k=st.integers(1, 20),
    levels=st.integers(1, 2),
    lists_read=st.integers(1, 8),
    dim=st.sampled_from([24, 2 * WIDE_DIM]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_distance_is_below_the_exact_one_and_each_is_that_of_its_row(
    *, n: int, m: int, k: int, levels: int, lists_read: int, dim: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    patches, queries = level_rows(rng, m, dim, levels), level_rows(rng, n, dim, levels)
    exact, indexed = searches(patches, levels=levels, lists_read=lists_read)
    squared, rows = indexed.nearest(queries, k)
    expected, _ = exact.nearest(queries, k)
    assert squared.shape == rows.shape == expected.shape
    assert (squared >= expected - ROUNDING).all()
    for level, one in zip(indexed.levels, split_levels(queries, levels), strict=True):
        found, found_rows = level.nearest(one, min(k, m))
        assert ((found_rows >= 0) & (found_rows < m)).all()
        assert (np.diff(found, axis=1) >= 0).all()
        assert all(len(set(some)) == min(k, m) for some in found_rows.tolist())
        told = ((one[:, None].astype(np.float64) - level.patches[found_rows]) ** 2).sum(axis=2)
        np.testing.assert_allclose(found, told, atol=ROUNDING)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 60),
    m=st.integers(1, 400),
    k=st.integers(1, 8),
    levels=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_with_every_list_read_it_is_the_exact_search(*, n: int, m: int, k: int, levels: int, seed: int) -> None:
    """Where short vectors hold all that a patch has."""
    rng = np.random.default_rng(seed)
    patches, queries = level_rows(rng, m, 24 * levels, levels), level_rows(rng, n, 24 * levels, levels)
    exact, indexed = searches(patches, levels=levels, lists_read=n_lists_of(m))
    squared, rows = indexed.nearest(queries, k)
    expected, expected_rows = exact.nearest(queries, k)
    np.testing.assert_allclose(squared, expected, atol=ROUNDING)
    if m > k:  # where no other patch lies as near within rounding, it is the very row
        gap = np.diff(PatchSearch(split_levels(patches, levels)[0]).nearest(split_levels(queries, levels)[0], k + 1)[0])
        alone = gap.min(axis=1) > 2 * ROUNDING
        np.testing.assert_array_equal(rows[alone], expected_rows[alone])


def test_of_real_like_patches_most_find_their_nearest_and_more_lists_find_more() -> None:
    rng = np.random.default_rng(0)
    centres = unit_rows(rng, 300, 64)

    def around(n: int) -> Float32:
        rows = centres[rng.integers(0, 300, n)] + 0.05 * rng.standard_normal((n, 64), np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    exact, indexed = searches(around(20_000))
    queries = around(500)
    expected = exact.nearest(queries)[0]
    found = [indexed.reading(lists).nearest(queries)[0] <= expected + ROUNDING for lists in (1, 4, n_lists_of(20_000))]
    recalls = [float(one.mean()) for one in found]
    assert recalls[0] > 0.5
    assert recalls == sorted(recalls)
    assert recalls[2] == 1


def test_a_frame_has_the_same_bits_by_any_number_of_threads() -> None:
    rng = np.random.default_rng(1)
    patches, queries = unit_rows(rng, 5000, WIDE_DIM), unit_rows(rng, 257, WIDE_DIM)
    _, indexed = searches(patches, lists_read=4)
    expected = indexed.nearest(queries, 3)
    for threads in (0, 1, 3):
        np.testing.assert_array_equal(indexed.using(threads=threads).nearest(queries, 3), expected)
        by_one_list = indexed.reading(1).using(threads=threads)
        assert isinstance(by_one_list, IndexedSearch)
        np.testing.assert_array_equal(by_one_list.reading(4).nearest(queries, 3), expected)


def test_several_threads_may_search_at_once() -> None:
    rng = np.random.default_rng(2)
    _, indexed = searches(unit_rows(rng, 3000, WIDE_DIM), lists_read=2)
    frames = [unit_rows(rng, 50 + index, WIDE_DIM) for index in range(24)]
    alone = [indexed.nearest(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(indexed.nearest, frames))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_equal_patches_the_first_is_named() -> None:
    rng = np.random.default_rng(3)
    once = unit_rows(rng, 50, 24)
    _, indexed = searches(np.concatenate([once, once]), lists_read=2)
    squared, rows = indexed.nearest(once)
    np.testing.assert_allclose(squared, 0, atol=ROUNDING)
    np.testing.assert_array_equal(rows[:, 0], np.arange(50))


def test_a_bank_with_an_index_comes_back_whole_and_judges_alike(tmp_path: Path) -> None:
    bank = random_bank(indexed=True, levels=2, n_patches=500)
    bank.save(tmp_path / "b")
    again = PatchBank.load(tmp_path / "b")
    assert again.manifest == bank.manifest
    assert isinstance(again.search, IndexedSearch)
    seen = Embedding(
        tokens=level_rows(np.random.default_rng(0), 6, 24, 2), attention=np.ones(6, np.float32), grid_hw=(2, 3)
    )
    mask = PatchMask(foreground=np.ones(6, np.bool_), grid_hw=(2, 3))
    for one in (again, again.searched_by(threads=1)):
        np.testing.assert_array_equal(one.distances(seen, mask).squared, bank.distances(seen, mask).squared)


def test_a_bank_without_an_index_is_the_file_that_it_was(tmp_path: Path) -> None:
    random_bank().save(tmp_path / "b")
    with safe_open(tmp_path / "b", "numpy") as file:
        assert sorted(file.keys()) == ["calibration", "patch_image", "patches"]
        assert "index" not in json.loads(file.metadata()["edge_uad_manifest"])
    assert describe_search(random_bank().manifest) is None


def test_the_index_is_part_of_the_banks_identity() -> None:
    bank = random_bank(indexed=True)
    assert bank.index is not None
    assert bank.manifest.bank_id != random_bank().manifest.bank_id
    [level] = bank.index.levels
    turned = dataclasses.replace(level, members=level.members[::-1])
    other = PatchBank.sealed(
        patches=bank.patches,
        patch_image=bank.patch_image,
        calibration=bank.calibration,
        manifest=bank.manifest,
        index=PatchIndex((turned,), bank.index.lists_read),
    )
    assert other.manifest.bank_id != bank.manifest.bank_id


def test_how_a_bank_is_searched_is_told_in_one_line() -> None:
    manifest = random_bank(indexed=True).manifest
    told = describe_search(manifest)
    assert told is not None
    assert told.startswith("searched by an index, 4 of 9 lists")
    assert "99.00% of the patches" in told
    assert "\n" not in told
    assert describe_search(manifest, "gpu") == "searched exactly on the GPU; its index is for the CPU"


Change = Callable[[LevelIndex], dict[str, Any]]

DAMAGES: dict[str, Change] = {
    "no members": lambda _: {"members": None},
    "members of another type": lambda one: {"members": one.members.astype(np.int64)},
    "a member that is not there": lambda one: {"members": np.where(one.members == 3, 80, one.members)},
    "a negative member": lambda one: {"members": np.where(one.members == 3, -1, one.members)},
    "a member twice": lambda one: {"members": np.where(one.members == 3, 4, one.members)},
    "too few members": lambda one: {"members": one.members[1:]},
    "lists that overlap": lambda one: {"starts": one.starts[[0, 2, 1, *range(3, len(one.starts))]]},
    "lists beyond the end": lambda one: {"starts": one.starts + one.starts[-1] * (np.arange(len(one.starts)) == 5)},
    "lists that begin late": lambda one: {"starts": np.maximum(one.starts, 1)},
    "lists that end early": lambda one: {"starts": np.minimum(one.starts, 79)},
    "a list more": lambda one: {"starts": np.append(one.starts, one.starts[-1])},
    "a centroid less": lambda one: {"centroids": one.centroids[1:]},
    "long centroids": lambda one: {"centroids": one.centroids * np.float32(1e20)},
    "no number in a centroid": lambda one: {"centroids": one.centroids * np.float32("nan")},
    "axes of another width": lambda one: {"axes": one.axes[:, 1:]},
    "endless axes": lambda one: {"axes": one.axes * np.float32("inf")},
    "flat axes": lambda one: {"axes": one.axes.ravel()},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_refused_before_anything_is_searched(tmp_path: Path, damage: str) -> None:
    bank = random_bank(indexed=True)
    bank.save(tmp_path / "b")
    assert bank.index is not None
    [level] = bank.index.levels
    stored = PatchIndex((level,), 1).tensors()
    level = LevelIndex(**{name.rpartition(".")[2]: tensor for name, tensor in stored.items()})
    tensors = load_file(tmp_path / "b")
    for name, changed in DAMAGES[damage](level).items():
        if changed is None:
            del tensors[f"index.0.{name}"]
        else:
            as_stored = (
                changed
                if changed.dtype == np.int64 and damage.endswith("type")
                else changed.astype(stored[f"index.0.{name}"].dtype)
            )
            tensors[f"index.0.{name}"] = np.ascontiguousarray(as_stored)
    with safe_open(tmp_path / "b", "numpy") as file:
        metadata = file.metadata()
    save_file(tensors, tmp_path / "b", metadata)
    with pytest.raises(BankError, match=r"cannot be searched: its? .*; rerun edge-uad build-bank") as caught:
        PatchBank.load(tmp_path / "b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"n_lists": 0},
        {"lists_read": 0},
        {"lists_read": 10},
        {"recall": 1.5},
        {"recall": float("nan")},
        {"flips": -1},
        {"p99_score_difference": float("inf")},
        {"surprise": 1},
    ],
)
def test_a_certificate_out_of_its_range_is_a_damaged_manifest(tmp_path: Path, changed: dict[str, object]) -> None:
    bank = random_bank(indexed=True)
    bank.save(tmp_path / "b")
    manifest = dataclasses.asdict(bank.manifest)
    manifest["index"] |= changed
    save_file(load_file(tmp_path / "b"), tmp_path / "b", {"edge_uad_manifest": json.dumps(manifest)})
    with pytest.raises(BankError, match="damaged manifest"):
        PatchBank.load(tmp_path / "b")


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_changed_byte_of_an_index_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: float, change: int
) -> None:
    path = tmp_path_factory.mktemp("bank") / "b"
    random_bank(indexed=True).save(path)
    content = bytearray(path.read_bytes())
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    content[header_bytes + int(place * (len(content) - header_bytes))] ^= change
    path.write_bytes(content)
    with pytest.raises(BankError, match=str(path)):
        PatchBank.load(path)
