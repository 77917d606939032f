"""Recipe: every choice that decides what a bank is."""

from dataclasses import dataclass

from edge_uad.errors import UsageError
from edge_uad.inference.inspector import Embedder
from edge_uad.inference.masking import check_kernel, default_kernel
from edge_uad.interfaces import Backbone
from edge_uad.records import Box, Geometry, ModelCard, SearchDevice, reducible
from edge_uad.runtime.assemble import make_embedder


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a bank is built and judges. Defaults are the paper's."""

    geometry: Geometry = Geometry.STRETCH
    roi: Box | None = None
    bpm_kernel: int
    bpm_threshold: float = 0.1
    top_ratio: float = 0.05
    neighbours: int = 1
    coreset_ratio: float = 0.1
    false_alarm_rate: float = 0.01
    seed: int = 0
    levels: int = 1
    """Parts of each patch that find their nearest neighbours by themselves: the model's levels, or 1 for one search of
    all of them together."""
    reduced_decode: bool = False
    """Large JPEG pictures are decoded at a part of their size."""
    search_device: SearchDevice = "cpu"
    search_threads: int = 0
    """Where calibration searches, and with how many threads, 0 for all cores; not part of the manifest, because they
    change nothing but the time."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of its range."""
        check_kernel(self.bpm_kernel)
        _check(0 <= self.bpm_threshold < 1, "BPM threshold", self.bpm_threshold, "0 to below 1")
        _check(0 < self.top_ratio <= 1, "top ratio", self.top_ratio, "above 0 to 1")
        _check(0 < self.coreset_ratio <= 1, "coreset ratio", self.coreset_ratio, "above 0 to 1")
        _check(0 < self.false_alarm_rate < 1, "false-alarm rate", self.false_alarm_rate, "between 0 and 1")
        _check(self.neighbours >= 1, "number of neighbours", self.neighbours, "at least 1")
        if self.reduced_decode and not reducible(self.geometry, self.roi):
            raise UsageError(
                "pictures cannot be decoded at a part of their size with a region of interest or a geometry other than "
                f"{Geometry.STRETCH}; leave one of the two out"
            )


def recipe_for(card: ModelCard, *, bpm_kernel: int | None = None, top_ratio: float | None = None) -> Recipe:
    """The default recipe of a model.

    Args:
        card: of the model.
        bpm_kernel: None for the default of its patch grid.
        top_ratio: None for the model's own.
    """
    return Recipe(
        bpm_kernel=default_kernel(card.grid_hw) if bpm_kernel is None else bpm_kernel,
        top_ratio=card.top_ratio if top_ratio is None else top_ratio,
        levels=card.levels,
    )


def embedder_for(backbone: Backbone, recipe: Recipe) -> Embedder:
    """The stages up to the mask, set as the recipe says.

    Raises:
        UsageError: the recipe's levels are not the model's.
    """
    if recipe.levels not in (1, backbone.card.levels):
        raise UsageError(
            f"the model's patches have {backbone.card.levels} levels, {recipe.levels} were asked for; use "
            f"{backbone.card.levels}, or 1 for one search of all of them together"
        )
    return make_embedder(
        backbone,
        geometry=recipe.geometry,
        roi=recipe.roi,
        bpm_kernel=recipe.bpm_kernel,
        bpm_threshold=recipe.bpm_threshold,
    )


def _check(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise UsageError(f"the {name} is {value:g}; use {allowed}")
