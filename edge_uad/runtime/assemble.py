"""Settings → objects: the only place that names concrete classes."""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edge_uad.errors import BankError, ModelError, SettingsError
from edge_uad.inference.backbones import CPU_PROVIDERS
from edge_uad.inference.backbones.tiled import tiled
from edge_uad.inference.bank import PatchBank, read_manifest, short_id
from edge_uad.inference.index import describe_search
from edge_uad.inference.inspector import Embedder, Inspector
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.interfaces import Backbone, VerdictSink
from edge_uad.net.keys import ServerKeys, load_server_keys
from edge_uad.outputs.archive import Archive
from edge_uad.outputs.evidence import EvidenceStore
from edge_uad.outputs.fan_out import FanOut, Fault
from edge_uad.outputs.metrics import Metrics, MetricsServer
from edge_uad.outputs.plc.machine import MAX_UINT32, StationMachine
from edge_uad.outputs.plc.sink import PlcSink
from edge_uad.outputs.plc.station import PlcStation
from edge_uad.outputs.record_writer import RecordWriter
from edge_uad.outputs.store import Limits
from edge_uad.outputs.zmq import ZmqPublisher
from edge_uad.records import BankManifest, Box, Geometry, Provider, QueueMode, SearchDevice, WantedPrecision
from edge_uad.runtime.artefacts import opened_inside
from edge_uad.runtime.backbones import Backbones, BankBackbone
from edge_uad.runtime.cache import cached_model
from edge_uad.runtime.reload import BankReloader
from edge_uad.runtime.settings import Settings, StationSettings
from edge_uad.runtime.station import Station
from edge_uad.runtime.workers import available_cores
from edge_uad.sources import (
    EXCLUSIVE_KINDS,
    ON_DEMAND_KINDS,
    SourceAddress,
    make_source,
    parse_source,
    reduce_decoding,
    shown_source,
)
from edge_uad.sources.capture import Backoff
from edge_uad.sources.triggers.receiver import TriggerReceiver
from edge_uad.stages import StageTimer

log = logging.getLogger("edge_uad.runtime.assemble")


def backbones_for_many(
    model: Path,
    *,
    provider: Provider = "cpu",
    threads: int = 0,
    search_device: SearchDevice = "cpu",
    precision: WantedPrecision = "auto",
) -> tuple[Backbones, int]:
    """A model for many images at hand, and how many of them it should be given at a time.

    On the CPU each core has an image of its own: the same embeddings, more of them a second than with all cores at
    one image after the other.
    """
    if not _on_cpu(provider, search_device):
        return Backbones(model, provider=provider, threads=threads, precision=precision), 1
    workers = threads or available_cores()
    return Backbones(model, provider=provider, threads=1, at_once=workers, precision=precision), workers


def load_backbone_for_many(
    model: Path, *, provider: Provider = "cpu", threads: int = 0, search_device: SearchDevice = "cpu"
) -> tuple[Backbone, int]:
    """The same in fp32, in which banks are made.

    Raises:
        EdgeUadError: as :func:`edge_uad.runtime.backbones.load_backbone`.
    """
    backbones, workers = backbones_for_many(model, provider=provider, threads=threads, search_device=search_device)
    return backbones.in_fp32(), workers


def model_of_bank(bank: Path) -> Path | None:
    """The model in the cache that a bank was built with; None where there is none, or no such bank."""
    try:
        return cached_model(read_manifest(bank).model_id)
    except BankError:
        return None  # whoever loads the bank says why


def make_embedder(
    backbone: Backbone,
    *,
    geometry: Geometry,
    roi: Box | None,
    bpm_kernel: int,
    bpm_threshold: float,
    on_stage: StageTimer | None = None,
) -> Embedder:
    """The stages that bank building and inspection share."""
    card = backbone.card
    preprocessor = Preprocessor(geometry=geometry, roi=roi, input_hw=card.input_hw, mean=card.mean, std=card.std)
    return Embedder(
        backbone=backbone,
        preprocessor=preprocessor,
        bpm_kernel=bpm_kernel,
        bpm_threshold=bpm_threshold,
        on_stage=on_stage,
    )


def bank_embedder(backbone: Backbone, manifest: BankManifest, *, on_stage: StageTimer | None = None) -> Embedder:
    """The stages up to the mask, set as a bank demands."""
    return make_embedder(
        tiled(backbone, manifest.tiling),
        geometry=manifest.geometry,
        roi=manifest.roi,
        bpm_kernel=manifest.bpm_kernel,
        bpm_threshold=manifest.bpm_threshold,
        on_stage=on_stage,
    )


def load_inspector(
    backbones: Backbones | Backbone,
    bank_path: Path,
    *,
    search_device: SearchDevice = "cpu",
    search_threads: int = 0,
    within: Path | None = None,
    on_stage: StageTimer | None = None,
) -> Inspector:
    """An inspector for one bank, its stages set as the bank's manifest says.

    Args:
        backbones: the model that the bank was built with, in whatever precision it is certified for; or one that is
            open, and judges as it is.
        bank_path: the file.
        search_device: cpu or gpu.
        search_threads: of the CPU; 0 for one per core.
        within: the folder that the file must lie in; None for any.
        on_stage: called with each stage's name and duration.

    Raises:
        BankError: the bank cannot be used.
        ModelError: the bank was built with another model, or is not certified for the precision wanted.
        ProviderError: the GPU was requested and cannot be used.
    """
    with opened_inside(bank_path, within) as opened:
        bank = PatchBank.load(opened, search_device=search_device, search_threads=search_threads, name=bank_path)
    manifest = bank.manifest
    chosen = backbones.for_bank(manifest) if isinstance(backbones, Backbones) else BankBackbone(backbones)
    card = chosen.backbone.card
    if manifest.model_id != card.model_id:
        own = cached_model(manifest.model_id)
        raise ModelError(
            f"bank {short_id(manifest.bank_id)} was built with model {short_id(manifest.model_id)} "
            f"({manifest.backbone}), the backbone is {short_id(card.model_id)} ({card.backbone}); "
            f"name the bank's own model with --model {own or 'FILE'}, or rerun edge-uad build-bank"
        )
    if chosen.reason is not None:
        log.warning("bank %s is judged in fp32: %s", bank_path, chosen.reason)
    elif chosen.precision != "fp32":
        log.info("bank %s is judged in %s, for which it is certified", bank_path, chosen.precision)
    if (search := describe_search(manifest, search_device)) is not None:
        log.info("bank %s is %s", short_id(manifest.bank_id), search)
    embedder = bank_embedder(chosen.backbone, manifest, on_stage=on_stage)
    judging = partial(Inspector, precision=chosen.precision, precision_reason=chosen.reason)
    if chosen.on_one_core is None:
        return judging(embedder=embedder, bank=bank)
    one_core_embedder = embedder.run_by(tiled(chosen.on_one_core, manifest.tiling))
    alone = judging(embedder=one_core_embedder, bank=bank.searched_by(threads=1))
    return judging(embedder=embedder, bank=bank, on_one_core=alone)


def assemble_line(
    settings: Settings, model: Path, *, on_stage: StageTimer | None = None
) -> tuple[list[Station], FanOut, BankReloader]:
    """Everything that a daemon runs: stations that share one backbone, their banks, the outputs.

    Args:
        settings: of the line.
        model: the backbone's file.
        on_stage: called with each stage's name and duration, in addition to the metrics.

    Raises:
        UsageError: a source is not there or taken twice, or an endpoint is not allowed or in use.
        ArtefactError: the model or a bank cannot be used.
        ProviderError: the requested accelerator is not active.
    """
    addresses = [parse_source(station.source) for station in settings.stations]
    _refuse_shared(addresses)
    keys = _server_keys(settings)
    sources = [
        make_source(
            address,
            station=station.name,
            insecure=station.insecure,
            keys=keys,
            trust_sender_clock=station.trust_sender_clock,
            waits_for_pulses=station.trigger == "hardware",
        )
        for address, station in zip(addresses, settings.stations, strict=True)
    ]
    # the default model in the cache is ours; whatever is swapped in, a bank accepts one model alone, by its hash
    backbones = Backbones(
        model,
        provider=settings.provider,
        threads=settings.threads,
        precision=settings.precision,
        batched=settings.max_batch > 1,
        side_by_side=parallel_frame_count(settings),
        within=None if settings.model is None else settings.artefacts_dir,
    )
    metrics = None if settings.metrics.endpoint is None else Metrics()
    timer = _stage_timer(metrics, on_stage)
    load = partial(
        load_inspector,
        backbones,
        search_device=settings.search_device,
        search_threads=settings.threads,
        within=settings.artefacts_dir,
        on_stage=timer,
    )
    inspectors: dict[Path, Inspector] = {}
    # made before the banks are read: one that is replaced meanwhile counts as new
    banks = BankReloader(
        [one.bank for one in settings.stations],
        load=lambda bank: _decoded_alike(load(bank), inspectors[bank], bank),
    )
    inspectors |= {bank: load(bank) for bank in dict.fromkeys(one.bank for one in settings.stations)}
    for one, source in zip(settings.stations, sources, strict=True):
        reduce_decoding(source, inspectors[one.bank].least_side_px)
    backoff = Backoff(first_s=settings.reconnect.first_s, max_s=settings.reconnect.max_s)
    stations = [
        Station(
            name=one.name,
            source=source,
            inspector=inspectors[one.bank],
            mode=_mode(one, address),
            queue_frames=one.queue_frames,
            backoff=backoff,
            deadline_ms=one.deadline_ms,
            bank=one.bank,
            replace_after_s=settings.reconnect.replace_after_s,
            frozen_after_s=one.frozen_after_s if address.live else None,
            trigger_mode=one.trigger,
            trigger_delay_ms=one.trigger_delay_ms,
            on_demand=address.kind in ON_DEMAND_KINDS,
        )
        for one, address, source in zip(settings.stations, addresses, sources, strict=True)
    ]
    publisher = ZmqPublisher(
        settings.publish.endpoint,
        overlays={station.name: station.overlay for station in stations},
        heatmap=settings.publish.heatmap,
        insecure=settings.publish.insecure,
        keys=keys,
        queue_messages=settings.publish.queue_messages,
        on_stage=timer,
    )
    return stations, _fan_out(settings, publisher, stations, metrics), banks


def trigger_receiver(settings: Settings, stations: Sequence[Station]) -> TriggerReceiver | None:
    """The socket for triggers, bound; None where there is none.

    Raises:
        EndpointError: it is not allowed or in use.
    """
    if settings.triggers.endpoint is None:
        return None
    return TriggerReceiver(
        settings.triggers.endpoint,
        {station.name: station for station in stations if station.is_triggered},
        insecure=settings.triggers.insecure,
        keys=_server_keys(settings),
    )


def _decoded_alike(new: Inspector, first: Inspector, bank: Path) -> Inspector:
    """The sources decode for the bank that the daemon began with, and another one must be served by that.

    Raises:
        BankError: it is not.
    """
    if new.least_side_px == first.least_side_px:
        return new
    made = "reduced" if new.manifest.reduced_decode else "full"
    raise BankError(
        f"bank {bank} was built on pictures decoded at {made} size, this line's are decoded otherwise; "
        "restart the daemon to judge by it"
    )


def parallel_frame_count(settings: Settings) -> int:
    """How many frames are judged at a time where so many wait: one per core, or 1 where that would be no gain.

    Also 1 where any station has a deadline: judged on one core, a single frame takes longer.
    """
    in_time = any(station.deadline_ms is not None for station in settings.stations)
    wanted = settings.parallel_frames and settings.max_batch == 1
    if not wanted or in_time or not _on_cpu(settings.provider, settings.search_device):
        return 1
    return settings.threads or available_cores()


def _on_cpu(provider: Provider, search_device: SearchDevice) -> bool:
    """All of a frame's way: what works on it may be used by several threads at once."""
    return provider in CPU_PROVIDERS and search_device == "cpu"


def _stage_timer(metrics: Metrics | None, on_stage: StageTimer | None) -> StageTimer | None:
    """The callers that want durations as one; None where there is none, so that nothing is measured."""
    if metrics is None:
        return on_stage
    if on_stage is None:
        return metrics.observe_stage

    def observe_both(stage: str, seconds: float) -> None:
        metrics.observe_stage(stage, seconds)
        on_stage(stage, seconds)

    return observe_both


def _fan_out(
    settings: Settings, publisher: ZmqPublisher, stations: Sequence[Station], metrics: Metrics | None
) -> FanOut:
    """The line's answer first, then what is kept and counted of it."""
    sinks: list[VerdictSink] = [publisher]
    faults: list[Fault] = []
    try:
        archive = _archive(settings, stations)
        if archive is not None:
            sinks.append(archive)
            faults.append(lambda: archive.fault)
        plc = _plc(settings, stations, archive)
        if plc is not None:
            sinks.append(plc)
            faults.append(lambda: plc.fault)
        if metrics is not None and settings.metrics.endpoint is not None:
            _watch(metrics, publisher, stations, archive)
            sinks.append(MetricsServer(metrics, settings.metrics.endpoint, insecure=settings.metrics.insecure))
    except BaseException:
        FanOut(sinks).close()
        raise
    return FanOut(sinks, endpoint=publisher.endpoint, faults=faults)


def _plc(settings: Settings, stations: Sequence[Station], archive: Archive | None) -> PlcSink | None:
    """What PLCs see; None where no protocol is asked for.

    Raises:
        MissingExtraError: the protocol's extra is not installed.
        EndpointError: its endpoint is not allowed or in use.
    """
    modbus = settings.plc.modbus
    if modbus.endpoint is None:
        return None
    from edge_uad.outputs.plc.modbus import ModbusServer  # noqa: PLC0415  (pymodbus is an extra)

    shown = {
        one.name: plc_station(station, one, watchdog_ms=settings.plc.watchdog_ms)
        for station, one in zip(stations, settings.stations, strict=True)
    }
    units = settings.modbus_units()
    server = ModbusServer(
        {units[name]: station for name, station in shown.items()},
        modbus.endpoint,
        read_only=[units[one.name] for one in settings.stations if one.plc.control != "modbus"],
        insecure=modbus.insecure,
        allow=modbus.allow,
        max_connections=modbus.max_connections,
    )
    log.info("Modbus TCP on port %d: %s", server.port, ", ".join(f"{name} is unit {units[name]}" for name in shown))
    return PlcSink(shown, [server], archive_fault=lambda: None if archive is None else archive.fault)


def plc_station(station: Station, settings: StationSettings, *, watchdog_ms: float) -> PlcStation:
    """A station as PLCs see it, with its bank as its one recipe."""
    recipe_id = settings.plc.recipe_id

    def prepare(wanted: int) -> None:
        shown.report(lambda machine: machine.on_recipe(wanted, prepared=wanted == recipe_id))

    machine = StationMachine(
        first_sequence=1 + secrets.randbelow(MAX_UINT32),
        free_run=not station.is_triggered,
        take=partial(station.trigger, again=True),  # the machine knows what is a repetition
        prepare=prepare,
        resynchronise=station.resynchronise,
        deadline_ms=settings.deadline_ms,
        watchdog_ms=watchdog_ms,
    )
    machine.use_recipe(recipe_id)
    shown = PlcStation(settings.name, machine)
    station.on_acquired = shown.acquired
    return shown


def _watch(metrics: Metrics, publisher: ZmqPublisher, stations: Sequence[Station], archive: Archive | None) -> None:
    """Connect the metrics with what they read when they are requested."""
    for station in stations:
        metrics.watch_queue(station.name, _waiting_at(station))
    metrics.watch_overruns(publisher.overruns.copy)
    metrics.watch_skipped(publisher.skipped.copy)
    if archive is not None:
        metrics.watch_archive(archive)


def _waiting_at(station: Station) -> Callable[[], int]:
    return lambda: station.waiting


def _archive(settings: Settings, stations: Sequence[Station]) -> Archive | None:
    kept, evidence = settings.records_in_use(), settings.evidence
    if kept.file is None and evidence.folder is None:
        return None
    store = None
    if evidence.folder is not None:
        store = EvidenceStore(
            evidence.folder,
            decisions=evidence.decisions,
            max_files=evidence.max_files,
            max_bytes=evidence.max_bytes,
            max_age_days=evidence.max_age_days,
        )
    records = None
    if kept.file is not None:
        if settings.audit is not None:
            log.info(
                "audit.file is now records.file: %s; take an old log over with: edge-uad records import %s --into %s",
                *(kept.file, settings.audit.file, kept.file),
            )
        limits = Limits(max_rows=kept.max_rows, max_bytes=kept.max_bytes, max_age_days=kept.max_age_days)
        records = RecordWriter(kept.file, limits=limits, commit_s=kept.commit_s)
    by_name = {station.name: station for station in stations}
    return Archive(
        records, store, recipe=settings_recipe(settings), manifest_of=lambda name: by_name[name].inspector.manifest
    )


def settings_recipe(settings: Settings) -> dict[str, Any]:
    """The settings as they are recorded, with their digest; passwords in addresses left out."""
    content = settings.model_dump(mode="json")
    for station in content["stations"]:
        station["source"] = shown_source(station["source"])
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {"recipe_id": digest, "settings": content}


def _server_keys(settings: Settings) -> ServerKeys | None:
    curve = settings.curve
    if curve.server_key is None or curve.client_keys is None:
        return None
    return load_server_keys(curve.server_key, curve.client_keys)


def _mode(station: StationSettings, address: SourceAddress) -> QueueMode:
    if station.mode == "auto":
        return "latest" if address.live and station.trigger == "free_run" else "every"
    return station.mode


def _refuse_shared(addresses: Sequence[SourceAddress]) -> None:
    """Folders may be read twice; a camera or an endpoint belongs to one station."""
    exclusive = [one.address for one in addresses if one.kind in EXCLUSIVE_KINDS]
    for address in exclusive:
        if exclusive.count(address) > 1:
            raise SettingsError(f"two stations take their frames from {address}; give each its own source")
