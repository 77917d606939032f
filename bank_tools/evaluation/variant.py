"""Variant: a recipe plus the options that only evaluations and ablations know, and the embedder that it needs."""

from dataclasses import dataclass

from bank_tools.bank.recipe import EveryPatchEmbedder, Recipe, embedder_for
from edge_uad.errors import UsageError
from edge_uad.inference.inspector import Embedder
from edge_uad.interfaces import Backbone

ONE_SCALE = (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A recipe, and options for comparison only: no bank file records them."""

    recipe: Recipe
    bpm_soft: bool = False
    """Weight patches by their attention instead of masking them."""
    scales: tuple[int, ...] = ONE_SCALE
    """Sides, in patches, of the neighbourhoods compared; odd. Their distances are averaged."""
    reweighted: bool = False
    """Whether each distance is weighted by how isolated its nearest bank patch is (PatchCore, equation 7)."""
    min_distance: float = 0.0
    """Squared; of patches nearer to each other than this only the first is kept, before the coreset; 0 keeps all."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of its range."""
        if not self.scales or any(side < 1 or side % 2 == 0 for side in self.scales):
            raise UsageError(f"the scales are {self.scales}; use odd numbers of patches, such as 1+3")
        if self.recipe.levels > 1 and (self.reweighted or self.scales != ONE_SCALE):
            raise UsageError("scales and weights are for patches of one level; add levels=1, or leave them out")
        if not 0 <= self.min_distance < 4:
            raise UsageError(f"the setting apart is {self.min_distance:g}; use a squared distance from 0 to below 4")


def parse_scales(text: str) -> tuple[int, ...]:
    """``1+3`` → (1, 3).

    Raises:
        UsageError: something else.
    """
    try:
        return tuple(int(part) for part in text.split("+"))
    except ValueError:
        raise UsageError(f"the scales are {text!r}; give odd numbers of patches, such as 1+3") from None


def embedder_of(backbone: Backbone, variant: Variant) -> Embedder:
    """The stages up to the mask, set as the variant says."""
    embedder = embedder_for(backbone, variant.recipe)
    if not variant.bpm_soft:
        return embedder
    return EveryPatchEmbedder(
        backbone=embedder.backbone, preprocessor=embedder.preprocessor, bpm_kernel=variant.recipe.bpm_kernel
    )
