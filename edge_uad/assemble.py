"""Settings → objects: the only place that names concrete classes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from edge_uad.backbones import open_backbone
from edge_uad.bank import PatchBank, short_id
from edge_uad.errors import ModelError, SettingsError
from edge_uad.interfaces import Backbone
from edge_uad.pipeline import Embedder, Inspector
from edge_uad.preprocess import Preprocessor
from edge_uad.publish import ZmqPublisher
from edge_uad.records import Box, Geometry
from edge_uad.settings import Settings, StationSettings
from edge_uad.sources import EXCLUSIVE_KINDS, SourceAddress, make_source, parse_source
from edge_uad.sources.capture import Backoff
from edge_uad.station import Mode, Station


def load_backbone(model: Path, *, provider: str = "cpu", threads: int = 0) -> Backbone:
    """Open a model file.

    Raises:
        ModelError: not a model of edge-uad.
        ProviderError: the accelerator asked for is not active.
    """
    return open_backbone(model, provider=provider, threads=threads)


def make_embedder(
    backbone: Backbone, *, geometry: Geometry, roi: Box | None, bpm_kernel: int, bpm_threshold: float
) -> Embedder:
    """The stages that bank building and inspection share."""
    card = backbone.card
    preprocessor = Preprocessor(geometry=geometry, roi=roi, input_hw=card.input_hw, mean=card.mean, std=card.std)
    return Embedder(backbone=backbone, preprocessor=preprocessor, bpm_kernel=bpm_kernel, bpm_threshold=bpm_threshold)


def load_inspector(backbone: Backbone, bank_path: Path) -> Inspector:
    """An inspector for one bank, its stages set as the bank's manifest says.

    Raises:
        BankError: the bank cannot be used.
        ModelError: the bank was built with another model.
    """
    bank = PatchBank.load(bank_path)
    manifest = bank.manifest
    if manifest.model_id != backbone.card.model_id:
        raise ModelError(
            f"bank {short_id(manifest.bank_id)} was built with model {short_id(manifest.model_id)} "
            f"({manifest.backbone}), the backbone is {short_id(backbone.card.model_id)} ({backbone.card.backbone}); "
            "name the bank's own model with --model, or rerun edge-uad build-bank"
        )
    embedder = make_embedder(
        backbone,
        geometry=manifest.geometry,
        roi=manifest.roi,
        bpm_kernel=manifest.bpm_kernel,
        bpm_threshold=manifest.bpm_threshold,
    )
    return Inspector(embedder=embedder, bank=bank)


def assemble_line(settings: Settings, model: Path, *, wake: Callable[[], None]) -> tuple[list[Station], ZmqPublisher]:
    """Everything that a daemon runs: stations that share one backbone, and the socket that tells their verdicts.

    Args:
        settings: of the line.
        model: the backbone's file.
        wake: called, from capture threads, when a station has something to do.

    Raises:
        UsageError: a source is not there or taken twice, or an endpoint is not allowed or in use.
        ArtefactError: the model or a bank cannot be used.
        ProviderError: the accelerator asked for is not active.
    """
    addresses = [parse_source(station.source) for station in settings.stations]
    _refuse_shared(addresses)
    sources = [
        make_source(address, station=station.name, insecure=station.insecure)
        for address, station in zip(addresses, settings.stations, strict=True)
    ]
    backbone = load_backbone(model, provider=settings.provider, threads=settings.threads)
    inspectors = {bank: load_inspector(backbone, bank) for bank in dict.fromkeys(one.bank for one in settings.stations)}
    backoff = Backoff(first_s=settings.reconnect.first_s, max_s=settings.reconnect.max_s)
    stations = [
        Station(
            name=one.name,
            source=source,
            inspector=inspectors[one.bank],
            mode=_mode(one, address),
            wake=wake,
            queue_frames=one.queue_frames,
            backoff=backoff,
        )
        for one, address, source in zip(settings.stations, addresses, sources, strict=True)
    ]
    publisher = ZmqPublisher(
        settings.publish.endpoint,
        overlays={station.name: station.inspector.overlay for station in stations},
        heatmap=settings.publish.heatmap,
        insecure=settings.publish.insecure,
        queue_messages=settings.publish.queue_messages,
    )
    return stations, publisher


def _mode(station: StationSettings, address: SourceAddress) -> Mode:
    if station.mode == "auto":
        return "latest" if address.live else "every"
    return station.mode


def _refuse_shared(addresses: Sequence[SourceAddress]) -> None:
    """Folders may be read twice; a camera or an endpoint belongs to one station."""
    exclusive = [one.address for one in addresses if one.kind in EXCLUSIVE_KINDS]
    for address in exclusive:
        if exclusive.count(address) > 1:
            raise SettingsError(f"two stations take their frames from {address}; give each its own source")
