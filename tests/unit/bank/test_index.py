"""Lists are made alike every time, and a bank gets them only where its good images say that nothing changes."""

import dataclasses

import numpy as np
import pytest

from bank_tools.bank import index as making
from bank_tools.bank.calibrate import cross_scores
from bank_tools.bank.index import IndexTrial, build_index, n_lists_of, shortfall, wants_index
from bank_tools.bank.recipe import Recipe
from edge_uad.errors import UsageError
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.records import Embedding, Float32, IndexCertificate, IndexChoice, PatchMask
from tests.banks import level_rows, stored, unit_rows

RECIPE = Recipe(bpm_kernel=3, bpm_threshold=0, coreset_ratio=1, index="always")


CERTIFICATE = IndexCertificate(
    n_lists=40,
    lists_read=4,
    n_images=50,
    recall=0.96,
    flips=0,
    largest_score_difference=0.02,
    p99_score_difference=0.004,
    seconds=1.0,
)


def image_of(tokens: Float32) -> ForegroundEmbedding:
    """All of it foreground."""
    grid_hw = (1, len(tokens))
    seen = Embedding(tokens=tokens, attention=np.ones(len(tokens), np.float32), grid_hw=grid_hw)
    return ForegroundEmbedding(seen, PatchMask(foreground=np.ones(len(tokens), np.bool_), grid_hw=grid_hw))


def tried(images: list[ForegroundEmbedding], recipe: Recipe) -> tuple[IndexTrial, Float32]:
    """A trial in which every image was compared, and the exact scores."""
    trial = IndexTrial(recipe)
    scores = cross_scores(
        stored(images),
        coreset_ratio=recipe.coreset_ratio,
        seed=recipe.seed,
        top_ratio=recipe.top_ratio,
        neighbours=recipe.neighbours,
        levels=recipe.levels,
        trial=trial,
    )
    return trial, scores


@pytest.mark.parametrize("levels", [1, 2])
def test_each_patch_lies_in_the_list_of_its_nearest_centroid_whatever_the_threads(levels: int) -> None:
    patches = level_rows(np.random.default_rng(0), 3000, 256, levels)
    one, other = (build_index(patches, levels=levels, seed=5, threads=threads) for threads in (1, 2))
    for name, tensor in one.tensors().items():
        np.testing.assert_array_equal(tensor, other.tensors()[name], name)
    for level, part in zip(one.levels, np.split(patches, levels, axis=1), strict=True):
        assert sorted(level.members.tolist()) == list(range(3000))
        short = level.short(np.ascontiguousarray(part * np.sqrt(np.float32(levels))))
        products = short @ level.centroids.T
        home = np.empty(3000, np.int64)
        home[level.members] = np.repeat(np.arange(len(level.centroids)), np.diff(level.starts))
        np.testing.assert_allclose(products[np.arange(3000), home], products.max(axis=1), atol=1e-5)


def test_patches_that_are_all_alike_can_be_indexed() -> None:
    patches = np.tile(unit_rows(np.random.default_rng(0), 1, 24), (50, 1))
    [level] = build_index(patches, levels=1, seed=0).levels
    assert sorted(level.members.tolist()) == list(range(50))
    assert np.isfinite(level.centroids).all()


@pytest.mark.parametrize(
    ("choice", "n_patches", "wanted"),
    [
        ("auto", making.PAYS_FROM, True),
        ("auto", making.PAYS_FROM - 1, False),
        ("always", 2, True),
        ("never", 10**6, False),
    ],
)
def test_when_a_bank_is_to_have_lists(choice: IndexChoice, n_patches: int, *, wanted: bool) -> None:
    assert wants_index(dataclasses.replace(RECIPE, index=choice), n_patches) is wanted


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="the index is 'maybe'; use auto, always, never"):
        dataclasses.replace(RECIPE, index="maybe")  # type: ignore[arg-type]


def test_images_that_vouch_for_each_other_allow_an_index_and_nothing_is_counted_twice() -> None:
    rng = np.random.default_rng(1)
    part = unit_rows(rng, 40, 64)

    def photograph() -> ForegroundEmbedding:
        rows = part + 0.01 * rng.standard_normal(part.shape, np.float32)
        return image_of(np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32))

    trial, scores = tried([photograph() for _ in range(34)], RECIPE)
    verdict = trial.verdict(float(scores.max()) * 1.1, n_patches=1320)
    assert verdict.refusal is None
    found = verdict.certificate
    assert found is not None
    assert (found.n_images, found.flips, found.n_lists) == (making.IMAGES_ENOUGH, 0, n_lists_of(1320))
    assert found.recall >= making.LEAST_RECALL
    assert found.p99_score_difference <= found.largest_score_difference


def test_patches_without_any_order_are_not_searched_in_lists() -> None:
    """In 400 dimensions everything is as far from everything: the nearest lies in any list, and short vectors say
    nothing."""
    rng = np.random.default_rng(2)
    trial, scores = tried([image_of(unit_rows(rng, 400, 400)) for _ in range(6)], RECIPE)
    verdict = trial.verdict(float(scores.max()) * 1.1, n_patches=2400)
    assert verdict.certificate is None
    assert verdict.refusal is not None
    assert "of the patches found their nearest, 95% should" in verdict.refusal


def test_a_threshold_between_the_two_scores_is_a_changed_verdict() -> None:
    rng = np.random.default_rng(3)
    trial, scores = tried([image_of(unit_rows(rng, 400, 200)) for _ in range(5)], RECIPE)
    rises = trial.verdict(float(scores.max()) + 1e-6, n_patches=2000)
    assert rises.refusal is not None
    assert "verdicts changed" in rises.refusal


def test_nothing_compared_allows_nothing() -> None:
    assert IndexTrial(RECIPE).verdict(1.0, n_patches=100).certificate is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"flips": 1}, "1 of 50 verdicts changed"),
        ({"recall": 0.94}, "94.0% of the patches found their nearest, 95% should"),
        ({"recall": float("nan")}, "nan%"),
        ({"p99_score_difference": 0.006}, "scores rose by 0.006 (99th percentile), 0.005 is allowed"),
        ({"p99_score_difference": float("nan")}, "is allowed"),
    ],
)
def test_what_is_promised(changed: dict[str, float], message: str) -> None:
    found = shortfall(dataclasses.replace(CERTIFICATE, **changed), threshold=0.5)  # type: ignore[arg-type]
    assert message in found
    assert bool(found) == bool(changed)
