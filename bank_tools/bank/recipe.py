"""Recipe: every choice that decides what a bank is."""

from dataclasses import dataclass
from typing import get_args

from edge_uad.errors import UsageError
from edge_uad.inference.backbones.tiled import tiled
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.masking import check_kernel, default_kernel, smoothed_attention
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.interfaces import Backbone
from edge_uad.records import (
    MAX_TILES,
    Box,
    Embedding,
    Geometry,
    IndexChoice,
    ModelCard,
    Rotations,
    SearchDevice,
    Tiling,
    reducible,
)
from edge_uad.runtime.assemble import make_embedder

DEFAULT_MAX_PATCHES = 10_000
PAPER_BPM_THRESHOLD = 0.1
"""τ of the mask (ALGORITHM §3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a bank is built and judges. Defaults are the paper's, but for the mask."""

    geometry: Geometry = Geometry.STRETCH
    roi: Box | None = None
    bpm_kernel: int
    bpm_threshold: float | None = None
    """None: the paper's where the good parts call for a mask, else 0 (:mod:`bank_tools.bank.mask_rule`)."""
    top_ratio: float = 0.05
    neighbours: int = 1
    coreset_ratio: float = 0.1
    max_patches: int | None = DEFAULT_MAX_PATCHES
    """The coreset is no larger, so that the time of a search has a bound; None for none, as in the paper."""
    false_alarm_rate: float = 0.01
    seed: int = 0
    levels: int = 1
    """Parts of each patch that find their nearest neighbours by themselves: the model's levels, or 1 for one search of
    all of them together."""
    tiling: Tiling | None = None
    """Pictures are seen as overlapping tiles, each at the model's input size; None as a whole."""
    rotations: Rotations = Rotations.NONE
    """In which orientations good images are learned (:mod:`bank_tools.bank.rotation`)."""
    reduced_decode: bool = False
    """Large JPEG pictures are decoded at a part of their size."""
    index: IndexChoice = "auto"
    """Whether the bank is searched in lists, where its good images allow it (:mod:`bank_tools.bank.index`)."""
    search_device: SearchDevice = "cpu"
    search_threads: int = 0
    """Where calibration searches, and with how many threads, 0 for all cores; not part of the manifest, because they
    change nothing but the time."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of its range."""
        check_kernel(self.bpm_kernel)
        if self.bpm_threshold is not None:
            _check(0 <= self.bpm_threshold < 1, "BPM threshold", self.bpm_threshold, "0 to below 1")
        _check(0 < self.top_ratio <= 1, "top ratio", self.top_ratio, "above 0 to 1")
        _check(0 < self.coreset_ratio <= 1, "coreset ratio", self.coreset_ratio, "above 0 to 1")
        if self.max_patches is not None:
            _check_count(self.max_patches, "largest number of patches", least=1)
        _check(0 < self.false_alarm_rate < 1, "false-alarm rate", self.false_alarm_rate, "between 0 and 1")
        _check_count(self.neighbours, "number of neighbours", least=1)
        _check_count(self.seed, "seed", least=0)
        if self.index not in get_args(IndexChoice):
            raise UsageError(f"the index is {self.index!r}; use {', '.join(get_args(IndexChoice))}")
        if self.roi is not None:
            _check_roi(self.roi)
        if self.reduced_decode and not reducible(self.geometry, self.roi):
            raise UsageError(
                "pictures cannot be decoded at a part of their size with a region of interest or a geometry other than "
                f"{Geometry.STRETCH}; leave one of the two out"
            )


def recipe_for(
    card: ModelCard,
    *,
    bpm_kernel: int | None = None,
    top_ratio: float | None = None,
    levels: int | None = None,
    tiling: Tiling | None = None,
) -> Recipe:
    """The default recipe of a model.

    Args:
        card: of the model.
        bpm_kernel: None for the default of its patch grid.
        top_ratio: None for the model's own.
        levels: None for the model's own.
        tiling: None to see pictures as a whole.

    Raises:
        UsageError: a value out of its range.
    """
    return Recipe(
        tiling=tiling,
        bpm_kernel=default_kernel(grid_of(card, tiling)) if bpm_kernel is None else bpm_kernel,
        top_ratio=card.top_ratio if top_ratio is None else top_ratio,
        levels=card.levels if levels is None else levels,
    )


def grid_of(card: ModelCard, tiling: Tiling | None) -> tuple[int, int]:
    """The patch grid of a whole picture.

    Raises:
        UsageError: such tiles cannot be.
    """
    if tiling is None:
        return card.grid_hw
    if not tiling.fits(card.grid_hw):
        (rows, columns), (down, across) = tiling.tiles_hw, tiling.overlap_hw
        raise UsageError(
            f"{rows}×{columns} tiles that overlap by {down} and {across} patches cannot be: use 1 to {MAX_TILES}, and "
            f"an overlap from 0 to below the {card.grid_hw[0]}×{card.grid_hw[1]} patches of one"
        )
    return tiling.grid_hw(card.grid_hw)


def check_levels(asked: int, of_model: int) -> None:
    """Raise UsageError unless patches of so many levels can be searched at those asked for."""
    if asked in (1, of_model):
        return
    if of_model == 1:
        raise UsageError(f"the model's patches have one level, {asked} were asked for; use levels=1, or leave it out")
    raise UsageError(
        f"the model's patches have {of_model} levels, {asked} were asked for; use {of_model}, or 1 for one search of "
        "all of them together"
    )


class EveryPatchEmbedder(Embedder):
    """Keeps every patch, and sees to it that the attention could mask them: for what is masked later, or weighted.

    Args:
        backbone: the frozen ViT.
        preprocessor: as the recipe demands.
        bpm_kernel: odd.
    """

    def __init__(self, *, backbone: Backbone, preprocessor: Preprocessor, bpm_kernel: int) -> None:
        super().__init__(backbone=backbone, preprocessor=preprocessor, bpm_kernel=bpm_kernel, bpm_threshold=0)
        self._kernel = bpm_kernel

    def mask(self, embedding: Embedding) -> ForegroundEmbedding:
        """Check one image's embedding; every patch is foreground.

        Raises:
            FrameError: the embedding holds NaN or infinity, or attention that cannot be a weight: zero everywhere.
        """
        checked = super().mask(embedding)
        smoothed_attention(embedding.attention, embedding.grid_hw, kernel=self._kernel)
        return checked


def embedder_for(backbone: Backbone, recipe: Recipe) -> Embedder:
    """The stages up to the mask, set as the recipe says; every patch is kept where the mask is still to be decided.

    Raises:
        UsageError: the recipe's levels are not the model's, or images that are not square would be turned.
    """
    check_levels(recipe.levels, backbone.card.levels)
    backbone = tiled(backbone, recipe.tiling)
    _check_square(backbone.card, recipe.rotations)
    embedder = make_embedder(
        backbone,
        geometry=recipe.geometry,
        roi=recipe.roi,
        bpm_kernel=recipe.bpm_kernel,
        bpm_threshold=recipe.bpm_threshold or 0,
    )
    if recipe.bpm_threshold is not None:
        return embedder
    return EveryPatchEmbedder(backbone=backbone, preprocessor=embedder.preprocessor, bpm_kernel=recipe.bpm_kernel)


def _check_square(card: ModelCard, rotations: Rotations) -> None:
    height, width = card.input_hw
    if rotations is not Rotations.NONE and height != width:
        raise UsageError(
            f"pictures of {height}×{width} px, which the model sees, have no quarter turns; learn them as they are "
            f"(rotations {Rotations.NONE}), or use as many rows as columns of tiles"
        )


def _check(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise UsageError(f"the {name} is {value:g}; use {allowed}")


def _check_count(value: int, name: str, *, least: int) -> None:
    _check(isinstance(value, int) and value >= least, name, value, f"a whole number of at least {least}")


def _check_roi(roi: Box) -> None:
    whole = len(roi) == 4 and all(isinstance(value, int) for value in roi)
    if not whole or min(roi[:2]) < 0 or min(roi[2:]) < 1:
        raise UsageError(
            f"the region of interest is {tuple(roi)}; use whole pixels x, y, w, h, x and y from 0, w and h at least 1"
        )
