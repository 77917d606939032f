"""ReferenceSearch: good images → coresets that test images are searched in, by the bank's own search."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from bank_tools.bank.calibrate import choose_coreset
from bank_tools.bank.coreset import without_copies
from bank_tools.bank.embeddings import EmbeddingStore, ForegroundPatches
from bank_tools.evaluation.variant import Variant
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.masking import smoothed_attention
from edge_uad.inference.search import PatchSearch
from edge_uad.records import Float32, Int, PatchDistances

SUPPORT = 9
"""Bank patches around the nearest one that a distance is weighed against; PatchCore's b."""


class ReferenceSearch:
    """A bank of some good images, made by a variant: call it with a test image.

    Args:
        images: the good images.
        variant: coreset, neighbours, scales and weights.
        on_chosen: called with the number of patches chosen since its last call.
    """

    def __init__(
        self, images: EmbeddingStore, variant: Variant, on_chosen: Callable[[int], None] = lambda _: None
    ) -> None:
        self._searches = {side: _OneScale(images, side, variant, on_chosen) for side in variant.scales}

    @property
    def n_patches(self) -> int:
        """In the banks of all scales together."""
        return sum(search.n_patches for search in self._searches.values())

    def __call__(self, image: ForegroundEmbedding) -> PatchDistances:
        """The image's patch distances, averaged over the scales; the nearest rows are those of the first scale."""
        found = [search(at_scale(image, side)) for side, search in self._searches.items()]
        mean: Float32 = np.mean([one.squared for one in found], axis=0, dtype=np.float32)
        return replace(found[0], squared=mean)


class _OneScale:
    def __init__(self, images: EmbeddingStore, side: int, variant: Variant, on_chosen: Callable[[int], None]) -> None:
        recipe = variant.recipe
        scaled = images if side == 1 else images.changed(partial(at_scale, side=side))
        if variant.min_distance:
            scaled = _without_copies(scaled, variant.min_distance)
        patches = choose_coreset(
            scaled, ratio=recipe.coreset_ratio, seed=recipe.seed, most=recipe.max_patches, on_chosen=on_chosen
        ).patches
        self.n_patches = len(patches)
        self._variant = variant
        self._search = self._search_of(patches)
        self._patches = patches
        self._support = None
        if variant.reweighted:
            self._support = self._search.nearest(patches, SUPPORT)[1]

    def __getstate__(self) -> dict[str, object]:
        """Without the search, which is made anew of its patches."""
        return {name: value for name, value in vars(self).items() if name != "_search"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._search = self._search_of(self._patches)

    def _search_of(self, patches: Float32) -> PatchSearch:
        recipe = self._variant.recipe
        return PatchSearch(patches, device=recipe.search_device, threads=recipe.search_threads, levels=recipe.levels)

    def __call__(self, image: ForegroundEmbedding) -> PatchDistances:
        recipe = self._variant.recipe
        found = self._search.distances(image.embedding, image.mask, neighbours=recipe.neighbours)
        if self._variant.bpm_soft:
            weights = smoothed_attention(image.embedding.attention, image.embedding.grid_hw, kernel=recipe.bpm_kernel)
            found = replace(found, squared=found.squared * weights)
        if self._support is None:
            return found
        shown = found.nearest >= 0
        weights = support_weights(image.embedding.tokens[shown], self._patches, self._support[found.nearest[shown]])
        squared = found.squared.copy()
        squared[shown] *= weights
        return replace(found, squared=squared)


def support_weights(tokens: Float32, patches: Float32, support: Int) -> Float32:
    """PatchCore's weight of each distance: small where the nearest bank patch has neighbours as near to the token.

    ``1 − exp ‖t − m*‖ / Σ exp ‖t − m‖`` over the bank patches m around m*, the nearest of the bank; PatchCore gives
    it to an image's farthest patch alone, here every patch has its own, since the score is a mean of several.

    Args:
        tokens: float32 (n, D), unit norm.
        patches: float32 (M, D), unit norm.
        support: int64 (n, b), rows of the bank; the nearest first.

    Returns:
        float32 (n,), 0 to below 1; 1 where the support is the nearest patch alone.
    """
    if support.shape[1] == 1:
        return np.ones(len(tokens), np.float32)
    cosine = np.einsum("nd,nbd->nb", tokens, patches[support])
    exponentials = np.exp(np.sqrt(np.clip(2 - 2 * cosine, 0, 4)))
    weights: Float32 = (1 - exponentials[:, 0] / exponentials.sum(axis=1)).astype(np.float32)
    return weights


def _without_copies(images: EmbeddingStore, min_distance: float) -> EmbeddingStore:
    """The same images, patches too near to an earlier one dropped from their foreground; empty images dropped."""
    keep = without_copies(ForegroundPatches(images), min_distance)
    found = EmbeddingStore(images.folder)
    first = 0
    for image in images:
        foreground = image.mask.foreground.copy()
        count = int(foreground.sum())
        foreground[foreground] = keep[first : first + count]
        first += count
        if foreground.any():
            found.append(replace(image, mask=replace(image.mask, foreground=foreground)))
    return found


def at_scale(image: ForegroundEmbedding, side: int) -> ForegroundEmbedding:
    """Each token replaced by the mean of the ``side`` × ``side`` patches around it, at unit norm.

    At the grid's edge the mean is over the patches that are there. The mask stays.

    Args:
        image: tokens (N, D).
        side: in patches, odd; 1 changes nothing.
    """
    if side == 1:
        return image
    embedding = image.embedding
    grid = embedding.tokens.reshape(*embedding.grid_hw, -1)
    total = _summed(_summed(grid, side, axis=0), side, axis=1)  # the norm makes a mean of the sum
    tokens = total.reshape(embedding.tokens.shape)
    tokens /= np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return replace(image, embedding=replace(embedding, tokens=tokens))


def _summed(grid: Float32, side: int, *, axis: int) -> Float32:
    """Running sums of ``side`` neighbours along an axis; beyond the edge there is nothing."""
    length, reach = grid.shape[axis], side // 2
    total = np.zeros_like(grid)
    for shift in range(-min(reach, length - 1), min(reach, length - 1) + 1):
        to = [slice(None)] * grid.ndim
        of = [slice(None)] * grid.ndim
        to[axis] = slice(max(-shift, 0), length - max(shift, 0))
        of[axis] = slice(max(shift, 0), length - max(-shift, 0))
        total[tuple(to)] += grid[tuple(of)]
    return total
