"""Good parts learned in all four orientations, where they lie anyhow: told, or decided from good parts alone.

Parts that come to the camera in one orientation gain nothing by turned views, which cost a larger bank and let a part
pass that lies wrongly. Parts that lie anyhow show themselves: an unseen one lies no farther from the others turned
than from the others as they were taken. docs/results.md has the figures of nine sets and of simulated parts that lie
anyhow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.mask_rule import ROUNDING
from bank_tools.bank.recipe import Recipe
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.scoring import image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.progress import Progress
from edge_uad.records import Float32, Rotations

QUARTER_TURNS = 4
TURNED_UP_TO_RATIO = 1.1
"""Turned views are learned where unseen good parts score at most so many times as high against them. Parts that lie
anyhow came to 1.00 to 1.05, parts that lie alike to 1.33 and more (docs/results.md)."""
IMAGES_PER_HALF = 40
UNSEEN_PER_HALF = 20
PATCHES_PER_HALF = 5000
"""Of each view: enough for a ratio with two digits, in seconds."""


@dataclass(frozen=True, slots=True)
class RotatedImages:
    """Good images in the views that the bank learns."""

    embeddings: EmbeddingStore
    """The views of each image one after the other, the one that was taken first."""
    recipe: Recipe
    """With its rotations settled."""
    views: int
    """Of each image."""
    turned_ratio: float | None
    """How high unseen images score against turned views, over how high against those as taken; None where told."""


def n_views(rotations: Rotations) -> int:
    """How many views of each image are embedded."""
    return 1 if rotations is Rotations.NONE else QUARTER_TURNS


def turned(pixels: Float32, quarter_turns: int) -> Float32:
    """The picture, (3, h, w) as the backbone takes it, turned counter-clockwise.

    Turned here, and not as it comes from the camera, because the region of interest is cut out before.
    """
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns, axes=(1, 2)))


def embed_views(embedder: Embedder, pixels: Float32, *, views: int) -> list[ForegroundEmbedding]:
    """Embeddings of so many quarter turns of a picture that is ready for the backbone.

    Raises:
        FrameError: one of them cannot be embedded.
    """
    return [embedder.embed_pixels(turned(pixels, turn)) for turn in range(views)]


def settle_rotations(images: EmbeddingStore, recipe: Recipe, progress: Progress) -> RotatedImages:
    """The images as they are where the recipe states its rotations; else in the views that they themselves decide on.

    Args:
        images: ``n_views`` of each, one after the other.
        recipe: as asked for.
        progress: shows the step.
    """
    views = n_views(recipe.rotations)
    if recipe.rotations is not Rotations.AUTO:
        return RotatedImages(images, recipe, views, None)
    with progress.step("deciding on rotations", 1, "banks") as done:
        ratio = turned_ratio(images, recipe)
        done(1)
    if ratio is not None and ratio <= TURNED_UP_TO_RATIO:
        return RotatedImages(images, replace(recipe, rotations=Rotations.QUARTER), views, ratio)
    as_taken = images.only(range(0, len(images), views))
    return RotatedImages(as_taken, replace(recipe, rotations=Rotations.NONE), 1, ratio)


def turned_ratio(images: EmbeddingStore, recipe: Recipe) -> float | None:
    """How high unseen good images score against turned views of the others, over how high against these as taken.

    Two halves of the images are scored against each other, one view of the learned half at a time: banks of one size,
    so that no bank is nearer because it is larger. About 1 where parts lie anyhow, far above it where they lie alike.

    Args:
        images: four views of each, one after the other.
        recipe: of levels, neighbours, top ratio and seed.

    Returns:
        Ratio of the geometric means, in which no odd part has a large say; None where there are fewer than two images.
    """
    n_images = len(images) // QUARTER_TURNS
    rng = np.random.default_rng(recipe.seed)
    some = rng.permutation(n_images)[: 2 * IMAGES_PER_HALF].tolist()
    halves = some[::2], some[1::2]
    if n_images < 2:
        return None
    scores: list[list[float]] = []
    for learned, unseen in (halves, halves[::-1]):
        searches = [
            PatchSearch(patches, device=recipe.search_device, threads=recipe.search_threads, levels=recipe.levels)
            for patches in _patches(images, learned, rng)
        ]
        for image in unseen[:UNSEEN_PER_HALF]:
            one = images[image * QUARTER_TURNS]
            scores.append([_score(one, search, recipe) for search in searches])
    logs = np.log(np.maximum(np.asarray(scores), ROUNDING))
    return float(np.exp((logs[:, 1:] - logs[:, :1]).mean()))


def sentence_of(rotations: Rotations, ratio: float | None) -> str:
    """What was told or decided, and why, for people."""
    learned = "all four orientations learned" if rotations is Rotations.QUARTER else "none"
    if ratio is None:
        return learned
    found = f"unseen good parts score {ratio:.2f} times as high against turned ones"
    if rotations is Rotations.QUARTER:
        return f"{learned}: {found} (up to {TURNED_UP_TO_RATIO:g}), so that they lie anyhow"
    return f"{learned}: {found} (above {TURNED_UP_TO_RATIO:g}), so that they lie alike"


def _patches(images: EmbeddingStore, learned: Sequence[int], rng: np.random.Generator) -> list[Float32]:
    """Foreground patches of each view of these images."""
    per_view = -(-PATCHES_PER_HALF // len(learned))
    found: list[list[Float32]] = [[] for _ in range(QUARTER_TURNS)]
    for image in learned:
        for view, patches in enumerate(found):
            one = images[image * QUARTER_TURNS + view]
            tokens = one.embedding.tokens[one.mask.foreground]
            patches.append(tokens[rng.permutation(len(tokens))[:per_view]])
    return [np.concatenate(view) for view in found]


def _score(image: ForegroundEmbedding, search: PatchSearch, recipe: Recipe) -> float:
    distances = search.distances(image.embedding, image.mask, neighbours=recipe.neighbours)
    return image_score(distances, top_ratio=recipe.top_ratio)
