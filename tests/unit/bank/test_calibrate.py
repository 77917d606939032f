"""Calibration scores are those of images that the bank has not seen."""

from collections.abc import Callable

import numpy as np
import pytest

from bank_tools.bank.calibrate import (
    choose_coreset,
    cross_distances,
    cross_scores,
    fold_count,
    outlier_cost,
    outliers,
)
from bank_tools.bank.embeddings import EmbeddingStore
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.scoring import image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.records import Embedding, PatchDistances, PatchMask
from tests.banks import stored, unit_rows

GRID = (3, 3)
N = 9


def all_patches(images: EmbeddingStore) -> Callable[[ForegroundEmbedding], PatchDistances]:
    search = PatchSearch(choose_coreset(images, ratio=1.0, seed=0).patches)
    return lambda one: search.distances(one.embedding, one.mask, neighbours=1)


def image_of(tokens: np.ndarray, foreground: np.ndarray | None = None) -> ForegroundEmbedding:
    mask = np.ones(N, bool) if foreground is None else foreground
    embedding = Embedding(tokens=tokens.astype(np.float32), attention=np.ones(N, np.float32), grid_hw=GRID)
    return ForegroundEmbedding(embedding, PatchMask(foreground=mask, grid_hw=GRID))


def random_images(n: int, *, noise: float, seed: int = 0) -> list[ForegroundEmbedding]:
    """Images of one rigid scene: each place of the grid looks the same in all of them, but for noise."""
    rng = np.random.default_rng(seed)
    scene = unit_rows(rng, N, 16)
    images = []
    for _ in range(n):
        tokens = scene + noise * rng.standard_normal(scene.shape)
        images.append(image_of(tokens / np.linalg.norm(tokens, axis=1, keepdims=True)))
    return images


def test_with_one_fold_per_image_each_is_scored_against_all_the_others() -> None:
    images = random_images(5, noise=0.3)
    scores = cross_scores(stored(images), coreset_ratio=1.0, seed=0, top_ratio=0.3, neighbours=1)
    for index, image in enumerate(images):
        others = np.concatenate([other.embedding.tokens for other in images if other is not image])
        squared = ((image.embedding.tokens[:, None] - others[None]) ** 2).sum(axis=2).min(axis=1)
        assert scores[index] == pytest.approx(np.sort(squared)[-3:].mean(), abs=1e-5)


def test_a_small_coreset_of_a_rigid_scene_has_no_holes() -> None:
    """Every place of the scene keeps a patch whichever image is left out, so no good image scores like a defect."""
    images = random_images(20, noise=0.02)
    scores = cross_scores(stored(images), coreset_ratio=0.05, seed=0, top_ratio=0.05, neighbours=1)
    assert scores.max() < 0.1


def test_calibration_scores_are_distributed_as_those_of_new_images() -> None:
    images = random_images(300, noise=0.1)
    learned, new = images[:150], images[150:]
    calibration = cross_scores(stored(learned), coreset_ratio=0.1, seed=0, top_ratio=0.2, neighbours=1)
    search = PatchSearch(choose_coreset(stored(learned), ratio=0.1, seed=0).patches)
    scores = [image_score(search.distances(one.embedding, one.mask, neighbours=1), top_ratio=0.2) for one in new]
    above = np.mean(np.asarray(scores)[:, None] > calibration[None])
    assert above == pytest.approx(0.5, abs=0.1)


def test_only_foreground_patches_enter_a_coreset_each_image_by_its_own_mask() -> None:
    rng = np.random.default_rng(0)
    masks = [np.arange(N) < 3, np.arange(N) >= 7]
    images = [image_of(unit_rows(rng, N, 8), mask) for mask in masks]
    coreset = choose_coreset(stored(images), ratio=1.0, seed=0)
    assert coreset.patch_image.tolist() == [0, 0, 0, 1, 1]
    expected = np.concatenate([one.embedding.tokens[mask] for one, mask in zip(images, masks, strict=True)])
    np.testing.assert_array_equal(coreset.patches, expected)


@pytest.mark.parametrize(("n", "folds"), [(2, 2), (31, 31), (32, 31), (100, 10), (200, 5), (762, 5), (9000, 5)])
def test_few_images_get_a_fold_each_and_many_get_five(n: int, folds: int) -> None:
    assert fold_count(n) == folds


def test_outliers_are_listed_highest_first() -> None:
    scores = np.asarray([0.5, 0.52, 9.0, 0.49, 0.51, 2.0, 0.5, 0.53, 0.48, 0.47, 0.51, 0.52], np.float32)
    assert outliers(scores) == [2, 5]
    assert outliers(np.full(5, 0.3, np.float32)) == []


def test_the_cost_of_outliers_is_the_threshold_with_and_without_them() -> None:
    others = np.linspace(0.4, 0.5, 30, dtype=np.float32)
    scores = np.insert(others, 7, np.float32([2.0, 3.0]))
    cost = outlier_cost(scores, 0.1, seed=0)
    assert cost is not None
    assert (cost.n_outliers, cost.n_others) == (2, 30)
    assert cost.threshold_with == pytest.approx(float(np.sort(scores)[29]))  # rank ⌈33 · 0.9⌉ of 32
    assert cost.threshold_without == pytest.approx(float(others[27]))  # rank ⌈31 · 0.9⌉ of 30
    assert (cost.others_above_with, cost.others_above_without) == (0, 2)
    assert cost.fall_ratio == pytest.approx(1 - others[27] / others[29])


def test_images_that_do_not_stand_out_cost_nothing() -> None:
    assert outlier_cost(np.linspace(0.4, 0.5, 30, dtype=np.float32), 0.1, seed=0) is None


def test_every_images_distances_are_handed_out_with_its_number() -> None:
    images = random_images(5, noise=0.3)
    found: dict[int, float] = {}
    scores = cross_scores(
        stored(images),
        coreset_ratio=1.0,
        seed=0,
        top_ratio=0.3,
        neighbours=1,
        on_distances=lambda image, distances: found.update({image: image_score(distances, top_ratio=0.3)}),
    )
    assert [found[image] for image in range(5)] == scores.tolist()


def test_other_views_of_an_image_are_never_in_the_bank_it_is_scored_against() -> None:
    images = random_images(6, noise=0.5)
    views = [view for image in images for view in (image, image)]
    found = {image: one for image, one, _ in cross_distances(stored(views), all_patches, seed=0, views=2)}
    assert sorted(found) == list(range(6))
    # each image's second view is its copy: were it in the bank, every distance would be 0
    assert all(distances.squared.min() > 0.01 for distances in found.values())


def test_views_of_the_other_images_are_in_the_bank() -> None:
    images = random_images(3, noise=0.5)
    views = [images[0], images[1], images[1], images[0], images[2], images[2]]  # the first's twin is a view of another
    found = {image: one for image, one, _ in cross_distances(stored(views), all_patches, seed=0, views=2)}
    np.testing.assert_allclose(found[0].squared, 0, atol=1e-5)
