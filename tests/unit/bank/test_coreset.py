"""The lazy greedy coreset chooses what the plain one chooses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bank_tools.bank import coreset
from bank_tools.bank.coreset import coreset_size, greedy_coreset


def plain_greedy(patches: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """The sampler as published: one patch after the other, all distances brought up to date each time."""
    rng = np.random.default_rng(seed)
    anchors = rng.choice(len(patches), min(coreset.N_ANCHORS, len(patches)), replace=False)
    to_anchors = np.linalg.norm(patches[:, None].astype(np.float64) - patches[anchors][None], axis=2)
    to_chosen = to_anchors.mean(axis=1)
    chosen: list[int] = []
    for _ in range(coreset_size(len(patches), ratio)):
        farthest = int(to_chosen.argmax())
        chosen.append(farthest)
        to_chosen = np.minimum(to_chosen, np.linalg.norm(patches.astype(np.float64) - patches[farthest], axis=1))
        to_chosen[farthest] = -1
    return np.sort(chosen)


# Derandomised, and with more patches than anchors: where all are anchors two can be equally far, and between equals
# the last bit of a matrix product chooses, which the plain sampler has computed otherwise.
@settings(max_examples=30, derandomize=True)
@given(n=st.integers(20, 1000), ratio=st.floats(0.01, 0.9), seed=st.integers(0, 5))
def test_lazy_choices_are_the_plain_ones(n: int, ratio: float, seed: int) -> None:
    points = np.random.default_rng(seed + 100).standard_normal((n, 8), np.float32)
    np.testing.assert_array_equal(greedy_coreset(points, ratio=ratio, seed=seed), plain_greedy(points, ratio, seed))


def test_lazy_choices_are_the_plain_ones_when_the_pool_must_be_filled_again() -> None:
    n = coreset.BLOCK_ROWS + 3000
    points = np.random.default_rng(7).standard_normal((n, 4), np.float32)
    np.testing.assert_array_equal(greedy_coreset(points, ratio=0.05, seed=3), plain_greedy(points, 0.05, 3))


def test_one_patch_of_each_far_cluster_is_chosen() -> None:
    rng = np.random.default_rng(0)
    centres = 100 * rng.standard_normal((12, 16)).astype(np.float32)
    points = np.repeat(centres, 50, axis=0) + 0.01 * rng.standard_normal((600, 16)).astype(np.float32)
    rows = greedy_coreset(points, ratio=12 / 600, seed=0)
    assert sorted(set(rows // 50)) == list(range(12))


def test_equal_patches_are_chosen_once_each() -> None:
    rows = greedy_coreset(np.ones((40, 3), np.float32), ratio=0.5, seed=0)
    assert len(set(rows.tolist())) == 20


def test_same_seed_same_choice_also_where_a_projection_is_drawn() -> None:
    points = np.random.default_rng(1).standard_normal((500, 384), np.float32)
    first, again, other = (greedy_coreset(points, ratio=0.1, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_ratio_one_keeps_all_in_order() -> None:
    points = np.random.default_rng(1).standard_normal((30, 5), np.float32)
    np.testing.assert_array_equal(greedy_coreset(points, ratio=1.0, seed=0), np.arange(30))


def test_progress_adds_up_to_the_size() -> None:
    done: list[int] = []
    points = np.random.default_rng(1).standard_normal((400, 5), np.float32)
    rows = greedy_coreset(points, ratio=0.3, seed=0, on_chosen=done.append)
    assert sum(done) == len(rows) == 120


@pytest.mark.parametrize(("n", "ratio", "size"), [(5, 0.01, 1), (100, 0.1, 10), (7, 1.0, 7)])
def test_at_least_one_patch_is_kept(n: int, ratio: float, size: int) -> None:
    assert coreset_size(n, ratio) == size


def test_a_bound_keeps_the_choices_that_came_first() -> None:
    points = np.random.default_rng(0).standard_normal((400, 12), np.float32)
    bounded = greedy_coreset(points, ratio=0.5, seed=3, most=40)
    np.testing.assert_array_equal(bounded, greedy_coreset(points, ratio=0.1, seed=3))
    np.testing.assert_array_equal(greedy_coreset(points, ratio=0.1, seed=3, most=41), bounded)
    assert [coreset_size(400, 0.5, most) for most in (None, 1000, 200, 7)] == [200, 200, 200, 7]
