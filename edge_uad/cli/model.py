"""Which model a command runs: the one named, or the default backbone, fetched and exported where it is missing."""

from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.console import stderr
from edge_uad.cli.options import MachineOptions
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path

if TYPE_CHECKING:
    from edge_uad.interfaces import Backbone


def model_or_default(model: Path | None) -> Path:
    """The path of the model file named, or of the default backbone's.

    Raises:
        WeightsError: the default backbone is not in the cache, and its weights cannot be fetched.
        ModelError: it cannot be written into the cache.
    """
    if model is not None:
        return model
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
