"""Cross-fitted scores of the good images, from which the threshold is taken.

Leaving an image's patches out of the finished coreset would not do: the coreset holds exactly those of its patches
that lie far from all others, and no substitutes for them, so that the image would score against holes of its own
making (docs/calibration.md has figures). Instead the images are dealt into folds, and each fold is scored against a
coreset of the others, made by the same recipe.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bank_tools.bank.coreset import greedy_coreset
from bank_tools.bank.embeddings import EmbeddingStore, ForegroundPatches
from bank_tools.bank.index import IndexTrial
from bank_tools.bank.tail import threshold_of
from bank_tools.spread import Spread, one_by_one
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.scoring import image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.records import Float32, Int, PatchDistances, SearchDevice

OUTER_FENCE_IQR = 3.0
FEWEST_FOLDS = 5
IMAGES_IN_ALL_FOLDS = 1000

Search = Callable[[ForegroundEmbedding], PatchDistances]
"""Searches the patches of an image in a bank."""


@dataclass(frozen=True, slots=True)
class Companions:
    """Other pictures of some of the good images, each searched in the bank that has not seen its image."""

    embeddings: EmbeddingStore
    places: Mapping[int, Sequence[int]]
    """Of an image's number, those of its pictures among the embeddings."""

    def of(self, image: int) -> Iterator[ForegroundEmbedding]:
        """Those of one image."""
        return (self.embeddings[place] for place in self.places.get(image, ()))


@dataclass(frozen=True, slots=True)
class Coreset:
    """The patches kept of some images."""

    patches: Float32
    """(M, D), images in order."""
    patch_image: Int
    """(M,), ascending: the image each came from."""


def choose_coreset(
    images: EmbeddingStore,
    *,
    ratio: float,
    seed: int,
    most: int | None = None,
    on_chosen: Callable[[int], None] = lambda _: None,
) -> Coreset:
    """The coreset of all foreground patches of some images, each by its own mask.

    In memory are the coreset and a few numbers for each patch; the patches are read from the store.
    """
    patches = ForegroundPatches(images)
    rows = greedy_coreset(patches, ratio=ratio, seed=seed, most=most, on_chosen=on_chosen, scratch=images.folder)
    return Coreset(patches[rows], patches.image_of(rows))


def fold_count(n_images: int) -> int:
    """How many folds: one per image where they are few, fewer where each costs more, never below five."""
    return min(n_images, max(FEWEST_FOLDS, IMAGES_IN_ALL_FOLDS // n_images))


def cross_scores(
    images: EmbeddingStore,
    *,
    coreset_ratio: float,
    seed: int,
    max_patches: int | None = None,
    top_ratio: float,
    neighbours: int,
    search_device: SearchDevice = "cpu",
    search_threads: int = 0,
    levels: int = 1,
    trial: IndexTrial | None = None,
    views: int = 1,
    on_scored: Callable[[int], None] = lambda _: None,
    on_distances: Callable[[int, PatchDistances], None] = lambda _image, _distances: None,
    companions: Companions | None = None,
    on_companions: Callable[[int, float, list[PatchDistances]], None] = lambda _image, _score, _found: None,
    spread: Spread = one_by_one,
) -> Float32:
    """Score every good image against a coreset of the images of the other folds.

    Args:
        images: the good images, at least two; see :func:`cross_distances` for their views.
        coreset_ratio: as of the bank.
        seed: of the folds and the coresets.
        max_patches: as of the bank.
        top_ratio: as in inspection.
        neighbours: as in inspection.
        search_device: cpu or gpu.
        search_threads: of the CPU; 0 for one per core.
        levels: as in inspection.
        trial: compares every search with one in lists, on this thread: the folds are carried out one by one; None for
            no comparison.
        views: how many of each image there are, one after the other.
        on_scored: called with the number of images scored since its last call.
        on_distances: called with each image's number and its distances.
        companions: other pictures of some images.
        on_companions: called then with an image's number, its score and the distances of its companions.
        spread: how the folds are carried out.

    Returns:
        float32 (n,), in the order of the images.
    """
    search_among = partial(
        _coreset_search,
        ratio=coreset_ratio,
        seed=seed,
        most=max_patches,
        device=search_device,
        threads=search_threads,
        levels=levels,
        neighbours=neighbours,
        trial=trial,
    )
    scores = np.empty(len(images) // views, np.float32)
    for image, distances, beside in cross_distances(
        images, search_among, seed=seed, views=views, companions=companions, spread=spread
    ):
        scores[image] = image_score(distances, top_ratio=top_ratio)
        if trial is not None:
            trial.compare(images[image * views], distances)
        on_distances(image, distances)
        on_companions(image, float(scores[image]), beside)
        on_scored(1)
    return scores


def _coreset_search(
    images: EmbeddingStore,
    *,
    ratio: float,
    seed: int,
    most: int | None,
    device: SearchDevice,
    threads: int,
    levels: int,
    neighbours: int,
    trial: IndexTrial | None,
) -> Search:
    patches = choose_coreset(images, ratio=ratio, seed=seed, most=most).patches
    search = PatchSearch(patches, device=device, threads=threads, levels=levels)
    if trial is not None:
        trial.begin_fold(patches, search)
    return lambda one: search.distances(one.embedding, one.mask, neighbours=neighbours)


def cross_distances(
    images: EmbeddingStore,
    search_among: Callable[[EmbeddingStore], Search],
    *,
    seed: int,
    views: int = 1,
    also: EmbeddingStore | None = None,
    companions: Companions | None = None,
    spread: Spread = one_by_one,
) -> Iterator[tuple[int, PatchDistances, list[PatchDistances]]]:
    """Each good image's patches against a bank of the images of the other folds.

    Args:
        images: the good images, at least two; where ``views`` is above 1, so many views of each, one after the other:
            all of them go into banks, only the first is scored.
        search_among: makes a bank of some images, as the one in use is made of all, and searches it.
        seed: of the folds.
        views: how many views of each image there are.
        also: other images, each of which is searched in every fold; their numbers go on after the good images'.
        companions: other pictures of some images.
        spread: how the folds are carried out; each makes a bank of its own.

    Yields:
        The image's number, its distances and those of its companions, fold by fold.
    """
    n_images = len(images) // views
    n_folds = fold_count(n_images)
    fold_of = np.random.default_rng(seed).permutation(n_images) % n_folds
    folds = [
        _Fold(
            others=[index for index in range(len(images)) if fold_of[index // views] != fold],
            held_out=np.flatnonzero(fold_of == fold).tolist(),
        )
        for fold in range(n_folds)
    ]
    for found in spread(
        partial(_distances_in, images, search_among, views=views, also=also, companions=companions), folds
    ):
        yield from found


@dataclass(frozen=True, slots=True)
class _Fold:
    others: list[int]
    """Views that its bank is made of."""
    held_out: list[int]
    """Images that are searched in it."""


def _distances_in(
    images: EmbeddingStore,
    search_among: Callable[[EmbeddingStore], Search],
    fold: _Fold,
    *,
    views: int,
    also: EmbeddingStore | None,
    companions: Companions | None,
) -> Iterator[tuple[int, PatchDistances, list[PatchDistances]]]:
    search = search_among(images.only(fold.others))
    for image in fold.held_out:
        beside = companions.of(image) if companions is not None else ()
        yield image, search(images[image * views]), [search(one) for one in beside]
    for number, other in enumerate(also or (), start=len(images) // views):
        yield number, search(other), []


@dataclass(frozen=True, slots=True)
class OutlierCost:
    """What the images that score far above the other good ones do to the threshold."""

    threshold_with: float
    threshold_without: float
    """Of the scores of the others, to which the outliers still lent their patches: nearly the one that a bank without
    them has."""
    n_outliers: int
    n_others: int
    others_above_with: int
    """Other good images above the threshold that counts the outliers."""
    others_above_without: int

    @property
    def fall_ratio(self) -> float:
        """How far the threshold falls without them, as a part of it; below 0 where it rises."""
        return 1 - self.threshold_without / self.threshold_with if self.threshold_with else 0.0


def outlier_cost(scores: Float32, false_alarm_rate: float, *, seed: int) -> OutlierCost | None:
    """The threshold with and without the outliers; None where there are none.

    Args:
        scores: (n,), one per image.
        false_alarm_rate: as of the bank.
        seed: as of the bank.
    """
    far = outliers(scores)
    if not far:
        return None
    others = np.sort(np.delete(scores, far))
    with_them = threshold_of(np.sort(scores), false_alarm_rate, seed=seed)
    without = threshold_of(others, false_alarm_rate, seed=seed)
    return OutlierCost(
        threshold_with=with_them,
        threshold_without=without,
        n_outliers=len(far),
        n_others=len(others),
        others_above_with=int((others > with_them).sum()),
        others_above_without=int((others > without).sum()),
    )


def outliers(scores: Float32) -> list[int]:
    """Images that score far above the other good ones: beyond Tukey's outer fence, Q3 + 3·IQR; highest first.

    Args:
        scores: (n,), one per image.
    """
    lower, upper = np.quantile(scores, [0.25, 0.75])
    far = np.flatnonzero(scores > upper + OUTER_FENCE_IQR * (upper - lower))
    return [int(image) for image in far[np.argsort(-scores[far])]]
