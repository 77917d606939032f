"""Whether a bank masks the background (UniFormaly §3.2), decided from good parts alone.

A mask costs every defect that lies in what it takes for background, and wins only where the background of good parts
raises false alarms: where background patches of unseen good parts lie as far from the bank as foreground patches do.
That is what is measured here, at the backbone's last level, the one whose attention draws the mask. docs/results.md has
the ratios of ten sets beside what the mask wins or costs on each.
"""

from dataclasses import dataclass

import numpy as np

from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.recipe import PAPER_BPM_THRESHOLD, Recipe
from edge_uad.inference.search import PatchSearch, split_levels
from edge_uad.records import Bool, Float32

MASKED_FROM_RATIO = 0.9
"""Masked where the background's distances reach this part of the foreground's."""
QUANTILE = 0.995
"""Of each kind's distances: what the highest patches of an image reach, which make its score."""
IMAGES_PER_HALF = 40
PATCHES_PER_HALF = 5000
"""Enough for a ratio with two digits, in seconds."""
ROUNDING = 1e-5
"""More than float32 products alone make of the squared distance of two equal patches: below it nothing varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskDecision:
    """The decision and its numbers."""

    bpm_threshold: float
    """The paper's where the background is masked, 0 where every patch is kept."""
    background_ratio: float | None
    """The background's quantile of distances over the foreground's; None where the mask leaves out nothing."""


def decide_mask(images: EmbeddingStore, recipe: Recipe, *, levels: int, views: int = 1) -> MaskDecision:
    """Score two halves of the good images against each other, every patch of them, and compare the mask's two sides.

    Args:
        images: with every patch in their masks; of one alone nothing can be known, and it is not masked.
        recipe: kernel and seed.
        levels: of the model's patches, however many of them are searched apart.
        views: how many of each image there are, one after the other: all are learned, only the first is unseen.
    """
    n_images = len(images) // views
    if n_images < 2:
        return MaskDecision(bpm_threshold=0.0, background_ratio=None)
    masked = images.masked(kernel=recipe.bpm_kernel, threshold=PAPER_BPM_THRESHOLD)
    rng = np.random.default_rng(recipe.seed)
    some = rng.permutation(n_images)[: 2 * IMAGES_PER_HALF].tolist()
    halves = some[::2], some[1::2]
    pairs = [
        pair
        for learned, unseen in (halves, halves[::-1])
        for pair in _distances(
            masked,
            [image * views + view for image in learned for view in range(views)],
            [image * views for image in unseen],
            levels=levels,
            rng=rng,
        )
    ]
    distances, foreground = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if foreground.all():
        return MaskDecision(bpm_threshold=0.0, background_ratio=None)
    highest = float(np.quantile(distances[foreground], QUANTILE))
    ratio = float(np.quantile(distances[~foreground], QUANTILE)) / max(highest, ROUNDING)
    return MaskDecision(
        bpm_threshold=PAPER_BPM_THRESHOLD if ratio >= MASKED_FROM_RATIO else 0.0, background_ratio=ratio
    )


def sentence_of(bpm_threshold: float, background_ratio: float | None) -> str:
    """The decision and its reason, for people."""
    if background_ratio is None:
        return "none: a mask would leave out nothing"
    found = f"the background of unseen good parts varies {background_ratio:.2f} times as much as the part"
    if bpm_threshold:
        return f"background left out: {found} ({MASKED_FROM_RATIO:g} or more)"
    return f"none: {found} (below {MASKED_FROM_RATIO:g}), so that a defect outside the mask would be lost for nothing"


def _distances(
    images: EmbeddingStore, learned: list[int], unseen: list[int], *, levels: int, rng: np.random.Generator
) -> list[tuple[Float32, Bool]]:
    """Of each unseen image the squared distances (N,) to the learned ones at the last level, and its mask (N,)."""
    per_image = -(-PATCHES_PER_HALF // len(learned))
    patches = []
    for image in learned:
        tokens = images[image].embedding.tokens
        patches.append(tokens[rng.permutation(len(tokens))[:per_image]])
    search = PatchSearch(split_levels(np.concatenate(patches), levels)[-1])
    return [
        (search.nearest(split_levels(image.embedding.tokens, levels)[-1])[0][:, 0], image.mask.foreground)
        for image in map(images.__getitem__, unseen)
    ]
