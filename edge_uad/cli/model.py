"""Which model a command runs: the one named, or the default backbone, fetched and exported where it is missing."""

from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.console import stderr
from edge_uad.cli.options import MachineOptions
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path

if TYPE_CHECKING:
    from bank_tools.cluster.ray_cluster import RayCluster
    from bank_tools.spread import Spread
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

    On a cluster, it is run by the workers.

    Raises:
        EdgeUadError: as :func:`model_or_default` and :func:`edge_uad.runtime.assemble.load_backbone_for_many`, and as
            :func:`bank_tools.cluster.connect.connect` where a cluster is named.
    """
    from edge_uad.runtime.assemble import load_backbone_for_many

    cluster = _cluster_of(machine)
    path = model_or_default(model)
    backbone, workers = load_backbone_for_many(
        path, provider=machine.provider, threads=machine.threads, search_device=machine.search_device
    )
    if cluster is None:
        return backbone, workers
    from bank_tools.cluster.backbone import on_cluster

    return on_cluster(backbone, path, machine.provider, cluster.on_workers), cluster.n_at_a_time


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


def spread_for(machine: MachineOptions) -> "Spread":
    """How work other than embedding is carried out: on the cluster named, or here."""
    from bank_tools.spread import one_by_one

    cluster = _cluster_of(machine)
    return one_by_one if cluster is None else cluster.spread


def _cluster_of(machine: MachineOptions) -> "RayCluster | None":
    if machine.cluster is None:
        return None
    from bank_tools.cluster.connect import connect

    return connect(machine.cluster)
