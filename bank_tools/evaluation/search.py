"""Good images → what test images are compared with: coresets, searched by the bank's own search."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bank_tools.bank.calibrate import thin_out
from bank_tools.bank.deduplicate import without_copies
from bank_tools.evaluation.embedding import WeightedEmbedding
from bank_tools.evaluation.scales import at_scale
from bank_tools.evaluation.variant import Variant
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.search import PatchSearch
from edge_uad.records import Float32, Int, PatchDistances

SUPPORT = 9
"""Bank patches around the nearest one that a distance is weighed against; PatchCore's b."""


class ComparedWith:
    """Some good images as a bank, by a variant: call it with a test image.

    Args:
        seen: the good images.
        variant: coreset, neighbours, scales and weights.
        on_chosen: called with the number of patches chosen since its last call.
    """

    def __init__(
        self, seen: Sequence[ForegroundEmbedding], variant: Variant, on_chosen: Callable[[int], None] = lambda _: None
    ) -> None:
        self._searches = {side: _OneScale(seen, side, variant, on_chosen) for side in variant.scales}

    @property
    def n_patches(self) -> int:
        """In all banks of it together."""
        return sum(search.n_patches for search in self._searches.values())

    def __call__(self, seen: ForegroundEmbedding) -> PatchDistances:
        """The image's patch distances, averaged over the scales; the nearest rows are those of the first scale."""
        found = [search(at_scale(seen, side)) for side, search in self._searches.items()]
        mean: Float32 = np.mean([one.squared for one in found], axis=0, dtype=np.float32)
        return replace(found[0], squared=mean)


class _OneScale:
    def __init__(
        self, seen: Sequence[ForegroundEmbedding], side: int, variant: Variant, on_chosen: Callable[[int], None]
    ) -> None:
        recipe = variant.recipe
        scaled = [at_scale(one, side) for one in seen]
        if variant.apart:
            scaled = _apart(scaled, variant.apart)
        patches = thin_out(scaled, ratio=recipe.coreset_ratio, seed=recipe.seed, on_chosen=on_chosen).patches
        self.n_patches = len(patches)
        self._neighbours = recipe.neighbours
        self._search = PatchSearch(patches, device=recipe.search_device, threads=recipe.search_threads)
        self._patches = patches
        self._support = None
        if variant.reweighted:
            self._support = self._search.nearest(patches, SUPPORT)[1]

    def __call__(self, seen: ForegroundEmbedding) -> PatchDistances:
        found = self._search.distances(seen.embedding, seen.mask, neighbours=self._neighbours)
        if isinstance(seen, WeightedEmbedding):
            found = replace(found, squared=found.squared * seen.weight)
        if self._support is None:
            return found
        shown = found.nearest >= 0
        weights = support_weights(seen.embedding.tokens[shown], self._patches, self._support[found.nearest[shown]])
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


def _apart(seen: Sequence[ForegroundEmbedding], apart: float) -> list[ForegroundEmbedding]:
    """The same images, patches too near to one before them taken out of their foreground; empty images let go."""
    patches = np.concatenate([one.embedding.tokens[one.mask.foreground] for one in seen])
    keep = without_copies(patches, apart)
    found: list[ForegroundEmbedding] = []
    first = 0
    for one in seen:
        foreground = one.mask.foreground.copy()
        count = int(foreground.sum())
        foreground[foreground] = keep[first : first + count]
        first += count
        if foreground.any():
            found.append(replace(one, mask=replace(one.mask, foreground=foreground)))
    return found
