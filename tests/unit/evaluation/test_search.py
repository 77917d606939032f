"""What goes past the paper: scales, weights, banks without near-copies."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.bank.coreset import COPY_BLOCK_ROWS, without_copies
from bank_tools.bank.recipe import Recipe
from bank_tools.evaluation.search import ReferenceSearch, at_scale, support_weights
from bank_tools.evaluation.variant import Variant, parse_scales
from edge_uad.errors import UsageError
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.records import Embedding, PatchMask
from tests.banks import stored, unit_rows

EVERYTHING = Recipe(bpm_kernel=1, coreset_ratio=1.0)


def image_of(tokens: np.ndarray, grid_hw: tuple[int, int]) -> ForegroundEmbedding:
    n = grid_hw[0] * grid_hw[1]
    embedding = Embedding(tokens=tokens.astype(np.float32), attention=np.ones(n, np.float32), grid_hw=grid_hw)
    return ForegroundEmbedding(embedding, PatchMask(foreground=np.ones(n, np.bool_), grid_hw=grid_hw))


def random_image(rng: np.random.Generator, grid_hw: tuple[int, int] = (4, 5)) -> ForegroundEmbedding:
    return image_of(unit_rows(rng, grid_hw[0] * grid_hw[1], 8), grid_hw)


def test_a_neighbourhood_is_the_mean_of_the_patches_that_are_there() -> None:
    seen = random_image(np.random.default_rng(0), (3, 4))
    grid = seen.embedding.tokens.reshape(3, 4, 8)
    coarse = at_scale(seen, 3).embedding.tokens.reshape(3, 4, 8)
    for row in range(3):
        for column in range(4):
            near = grid[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 8).mean(axis=0)
            np.testing.assert_allclose(coarse[row, column], near / np.linalg.norm(near), atol=1e-6)


@given(side=st.sampled_from([1, 3, 5, 31]), seed=st.integers(0, 99))
def test_an_image_of_one_patch_everywhere_looks_the_same_at_every_scale(side: int, seed: int) -> None:
    one = unit_rows(np.random.default_rng(seed), 1, 8)
    seen = image_of(np.repeat(one, 20, axis=0), (4, 5))
    np.testing.assert_allclose(at_scale(seen, side).embedding.tokens, seen.embedding.tokens, atol=1e-6)


def test_distances_of_several_scales_are_averaged() -> None:
    rng = np.random.default_rng(1)
    good, test = [random_image(rng) for _ in range(3)], random_image(rng)
    alone = [ReferenceSearch(stored(good), Variant(recipe=EVERYTHING, scales=(side,))) for side in (1, 3)]
    both = ReferenceSearch(stored(good), Variant(recipe=EVERYTHING, scales=(1, 3)))
    np.testing.assert_allclose(both(test).squared, np.mean([one(test).squared for one in alone], axis=0), atol=1e-6)
    assert both.n_patches == sum(one.n_patches for one in alone) == 120


def test_a_patch_is_weighed_against_the_surroundings_of_its_nearest() -> None:
    """By hand: the token lies 60° from its nearest bank patch and 90° from that one's neighbour."""
    patches = np.asarray([[0.5, math.sqrt(3) / 2], [0.0, 1.0]], np.float32)
    weight = support_weights(np.asarray([[1.0, 0.0]], np.float32), patches, np.asarray([[0, 1]]))
    assert weight[0] == pytest.approx(1 - math.exp(1) / (math.exp(1) + math.exp(math.sqrt(2))))


def test_weights_multiply_the_distances() -> None:
    rng = np.random.default_rng(2)
    good, test = [random_image(rng) for _ in range(3)], random_image(rng)
    plain = ReferenceSearch(stored(good), Variant(recipe=EVERYTHING))(test)
    weighted = ReferenceSearch(stored(good), Variant(recipe=EVERYTHING, reweighted=True))(test)
    np.testing.assert_array_equal(weighted.nearest, plain.nearest)
    ratio = weighted.squared / plain.squared
    # nine patches of support, the nearest of which is the nearest: its share is a ninth at most
    assert (ratio >= 1 - 1 / 9 - 1e-6).all()
    assert (ratio < 1).all()


def test_masked_patches_stay_at_zero_whatever_the_weights() -> None:
    rng = np.random.default_rng(3)
    good, test = [random_image(rng)], random_image(rng)
    test.mask.foreground[::2] = False
    found = ReferenceSearch(stored(good), Variant(recipe=EVERYTHING, reweighted=True, scales=(1, 3)))(test)
    assert (found.squared[::2] == 0).all()
    assert (found.squared[1::2] > 0).all()


@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 200),
    apart=st.floats(0.001, 3.9),
    spread=st.sampled_from([1e-3, 0.1, 1.0]),
)
def test_what_is_dropped_has_a_twin_that_stays_and_those_that_stay_are_apart(
    seed: int, n: int, apart: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    around = unit_rows(rng, 3, 6)[rng.integers(0, 3, n)] + spread * rng.standard_normal((n, 6))
    patches = (around / np.linalg.norm(around, axis=1, keepdims=True)).astype(np.float32)
    keep = without_copies(patches, apart)
    squared = ((patches[:, None].astype(float) - patches[None]) ** 2).sum(axis=2)
    rounding = 1e-5
    kept = np.flatnonzero(keep)
    assert (squared[np.ix_(~keep, keep)].min(axis=1, initial=np.inf) <= apart + rounding).all()
    among = squared[np.ix_(kept, kept)] + 9 * np.eye(len(kept))
    assert among.min() > apart - rounding


def test_copies_are_found_across_blocks() -> None:
    patches = unit_rows(np.random.default_rng(4), 16, 64)
    many = np.tile(patches, (COPY_BLOCK_ROWS // 8, 1))
    assert np.flatnonzero(without_copies(many, 0.01)).tolist() == list(range(16))


def test_a_bank_without_copies_leaves_no_image_of_copies_behind() -> None:
    good = random_image(np.random.default_rng(5))
    twice = ReferenceSearch(stored([good, good]), Variant(recipe=EVERYTHING, min_distance=1e-4))
    assert twice.n_patches == 20
    np.testing.assert_allclose(twice(good).squared, 0, atol=1e-5)


def test_nothing_is_dropped_unless_asked() -> None:
    assert without_copies(np.zeros((4, 3), np.float32), 0).all()


@pytest.mark.parametrize("text", ["", "two", "1,3", "2", "1+0"])
def test_scales_that_are_no_neighbourhoods_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="odd numbers"):
        Variant(recipe=EVERYTHING, scales=parse_scales(text))


@pytest.mark.parametrize("apart", [-0.1, 4.0, math.nan])
def test_a_distance_that_no_two_patches_have_is_refused(apart: float) -> None:
    with pytest.raises(UsageError, match="squared distance"):
        Variant(recipe=EVERYTHING, min_distance=apart)


def test_soft_masking_multiplies_each_distance_by_its_share_of_the_highest_attention() -> None:
    rng = np.random.default_rng(4)
    good, test = [random_image(rng)], random_image(rng)
    attention = np.arange(20, dtype=np.float32)
    weighted = replace(test, embedding=replace(test.embedding, attention=attention))
    plain = ReferenceSearch(stored(good), Variant(recipe=EVERYTHING))(weighted)
    soft = ReferenceSearch(stored(good), Variant(recipe=EVERYTHING, bpm_soft=True))(weighted)
    np.testing.assert_array_equal(soft.squared, plain.squared * (attention / np.float32(19)))
    np.testing.assert_array_equal(soft.nearest, plain.nearest)


@pytest.mark.parametrize(
    "options",
    [{}, {"reweighted": True}, {"scales": (1, 3)}, {"bpm_soft": True}],
    ids=lambda options: next(iter(options), ""),
)
def test_a_bank_that_was_sent_elsewhere_finds_the_same(options: dict[str, object]) -> None:
    rng = np.random.default_rng(3)
    images, query = stored(random_image(rng) for _ in range(3)), random_image(rng)
    search = ReferenceSearch(images, replace(Variant(recipe=EVERYTHING), **options))  # type: ignore[arg-type]
    sent = pickle.loads(pickle.dumps(search))  # noqa: S301  # its own
    assert sent.n_patches == search.n_patches
    np.testing.assert_array_equal(sent(query).squared, search(query).squared)
    np.testing.assert_array_equal(sent(query).nearest, search(query).nearest)
