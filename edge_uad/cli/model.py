"""Which model a command runs: the one named, or the default backbone, fetched and exported where it is missing."""

from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.console import stderr
from edge_uad.cli.options import MachineOptions
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path

if TYPE_CHECKING:
    from edge_uad.interfaces import Backbone
    from edge_uad.records import ModelCard


def model_or_default(model: Path | None, bank: Path | None = None) -> Path:
    """The path of the model file that a command runs.

    Args:
        model: the one named; it wins.
        bank: one whose own model is taken from the cache, if it is there.

    Returns:
        Else that of the default backbone.

    Raises:
        WeightsError: the default backbone is not in the cache, and its weights cannot be fetched.
        ModelError: it cannot be written into the cache.
    """
    if model is not None:
        return model
    if bank is not None:
        from edge_uad.runtime.assemble import model_of_bank

        if (own := model_of_bank(bank)) is not None:
            return own
    path = default_model_path()
    if path.is_file():
        return path
    from export.default import provide_default_model

    stderr.print(f"the default backbone {DEFAULT_BACKBONE} is not in the cache yet: fetching and exporting it")
    return provide_default_model()


def open_for_many(model: Path | None, machine: MachineOptions) -> "tuple[Backbone, int]":
    """The model named, or the default backbone, opened for many images, and how many it is given at a time.

    Raises:
        EdgeUadError: as :func:`model_or_default` and :func:`edge_uad.runtime.assemble.load_backbone_for_many`.
    """
    from edge_uad.runtime.assemble import load_backbone_for_many

    return load_backbone_for_many(
        model_or_default(model),
        provider=machine.provider,
        threads=machine.threads,
        search_device=machine.search_device,
    )


def models_by_size(model: Path, card: "ModelCard") -> dict[int, Path]:
    """A file of the same weights for each input size that a line's time may decide on, exported where it is missing.

    Args:
        model: the file; it is that of its own size.
        card: of it.

    Raises:
        EdgeUadError: the weights cannot be found by the backbone's name, or are not those of the model.
    """
    from bank_tools.bench.operating_points import SIZES_PX
    from export.variants import provide_variant

    return {
        size: model if card.input_hw == (size, size) else provide_variant(card, input_px=size, console=stderr)
        for size in (size - size % card.patch_px for size in SIZES_PX)
    }
