"""``edge-uad serve``: the daemon."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edge_uad.cli.console import LogFormatter
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import ModelOption
from edge_uad.errors import UsageError
from edge_uad.net.wire import DEFAULT_STATION
from edge_uad.records import SearchDevice, WantedPrecision
from edge_uad.runtime.background import BackgroundCall

if TYPE_CHECKING:
    from edge_uad.outputs.fan_out import FanOut
    from edge_uad.runtime.reload import BankReloader
    from edge_uad.runtime.settings import Settings
    from edge_uad.runtime.signals import Signals
    from edge_uad.runtime.station import Station

LOAD_WAIT_S = 0.05
"""How often signals are checked while the model is loaded."""
LOAD_END_S = 1.0
"""How long loading may go on once a stop was requested."""

log = logging.getLogger("edge_uad.serve")


def serve(
    *,
    camera: Annotated[str | None, typer.Option("--camera", help="Camera: index or /dev path.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="rtsp://…, file.mp4, folder/, 'glob*.png', tcp://… (ZeroMQ PULL), sub+tcp://…"),
    ] = None,
    bank: Annotated[Path | None, typer.Option("--bank", help="Bank file of edge-uad build-bank.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML instead of the options above: several stations.")
    ] = None,
    station: Annotated[
        str | None, typer.Option("--station", help="The station's name in topics.", show_default=DEFAULT_STATION)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="latest: the newest frame wins, skipped ones are counted; every: none is lost, the source waits.",
            show_default="latest for live sources, every for the others",
        ),
    ] = None,
    publish: Annotated[
        str | None, typer.Option("--publish", help="Where verdicts go.", show_default="tcp://127.0.0.1:5570")
    ] = None,
    heatmap: Annotated[
        str | None,
        typer.Option("--heatmap", help="Send heatmaps: anomalous, always or never.", show_default="anomalous"),
    ] = None,
    server_key: Annotated[
        Path | None,
        typer.Option("--server-key", help="The daemon's secret key file, made by edge-uad keys."),
    ] = None,
    client_keys: Annotated[
        Path | None, typer.Option("--client-keys", help="Folder of the public key files that are let in.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow ZeroMQ addresses that the network can reach, without keys.")
    ] = False,
    model: ModelOption = None,
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider",
            help="cpu, cuda, tensorrt or openvino; one that is not active is an error.",
            show_default="cpu",
        ),
    ] = None,
    precision: Annotated[
        WantedPrecision | None,
        typer.Option(
            "--precision",
            help="Of the arithmetic on the processor; auto takes the fastest that the bank is certified for.",
            show_default="auto",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=0, help="CPU threads of model and search.", show_default="all cores")
    ] = None,
    search_device: Annotated[
        SearchDevice | None, typer.Option("--search-device", help="Where the bank is searched.", show_default="cpu")
    ] = None,
) -> None:
    """Judge the frames of a line until stopped, and publish every verdict.

    SIGTERM and SIGINT judge what is queued and exit 0; a second one leaves at once.
    A bank file that is replaced, or SIGHUP, brings the new bank in between two frames.
    A camera that is not there is waited for.

    Example: [bold]edge-uad serve --camera 0 --bank bank.safetensors[/bold]
    """
    from edge_uad.runtime.signals import Signals

    _start_log()
    stop = Signals()
    with stop.installed():
        single = {"camera": camera, "source": source, "bank": bank, "station": station, "mode": mode}
        shared = {"publish": publish, "heatmap": heatmap, "model": model, "provider": provider, "threads": threads}
        shared |= {"precision": precision, "search_device": search_device}
        shared |= {"server_key": server_key, "client_keys": client_keys}
        settings = _settings(config, single, shared, insecure=insecure)
        if stop.requested:
            raise typer.Exit(0)
        stations, sink, banks = _loaded(settings, stop)

        from edge_uad.runtime.assemble import parallel_frame_count, trigger_receiver
        from edge_uad.runtime.daemon import Daemon

        try:
            triggers = trigger_receiver(settings, stations)
        except BaseException:
            sink.close()
            raise
        _log_start(settings, stations, sink.endpoint)
        if triggers is not None:
            log.info("triggers on %s", triggers.endpoint)
        daemon = Daemon(
            stations=stations,
            sink=sink,
            stop=stop,
            banks=banks,
            triggers=triggers,
            max_batch=settings.max_batch,
            max_wait_ms=settings.max_wait_ms,
            parallel_frames=parallel_frame_count(settings),
            stop_timeout_s=settings.stop_timeout_s,
        )
        started_s = time.monotonic()
        code = daemon.run()
    _log_end(stations, time.monotonic() - started_s)
    if daemon.stuck_threads:
        _leave(code)
    raise typer.Exit(code)


def _leave(code: int) -> NoReturn:
    """A thread that is stuck inside a driver or a library must not hold up the interpreter's end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _loaded(settings: "Settings", stop: "Signals") -> "tuple[list[Station], FanOut, BankReloader]":
    """The line, assembled in a background thread: a stop must not wait until a model is loaded."""
    from edge_uad.runtime.systemd import Notifier

    def load() -> "tuple[list[Station], FanOut, BankReloader]":
        from edge_uad.runtime.assemble import assemble_line

        return assemble_line(settings, model_or_default(settings.model, settings.stations[0].bank))

    Notifier().status("loading the model and the banks")
    loading = BackgroundCall(load, name="load")
    while not stop.requested and not loading.ended(LOAD_WAIT_S):
        pass
    if stop.requested:
        _stop_loading(loading, stop)
    return loading.result()


def _stop_loading(loading: "BackgroundCall[Any]", stop: "Signals") -> None:
    """Wait a little for the loading to end; exit without it where it does not."""
    from edge_uad.runtime.systemd import Notifier

    Notifier().stopping()
    until_s = time.monotonic() + LOAD_END_S
    while not loading.ended(LOAD_WAIT_S) and not stop.forced and time.monotonic() < until_s:
        pass
    if not loading.ended():
        log.info("stopped while the model was loading")
        _leave(0)


def _settings(config: Path | None, single: dict[str, Any], shared: dict[str, Any], *, insecure: bool) -> "Settings":
    from edge_uad.runtime.settings import load_settings, make_settings

    if config is None:
        return make_settings(_content(single, shared, insecure=insecure), name="edge-uad serve")
    given = [f"--{name}" for name, value in single.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} and --config cannot be combined; write it into {config}")
    settings = load_settings(config)
    publish = {"endpoint": shared["publish"], "heatmap": shared["heatmap"], "insecure": insecure or None}
    own = {name: shared[name] for name in ("model", "provider", "precision", "threads", "search_device")}
    content = settings.model_dump() | _given(own)
    content["publish"] |= _given(publish)
    content["curve"] |= _curve(shared)
    return make_settings(content, name=str(config))


def _content(single: dict[str, Any], shared: dict[str, Any], *, insecure: bool) -> dict[str, Any]:
    if (single["camera"] is None) == (single["source"] is None):
        raise UsageError("name one source of frames: --camera 0, --source …, or --config line.yaml")
    if single["bank"] is None:
        raise UsageError("--bank is missing; build one from good parts with edge-uad build-bank")
    station = {
        "name": single["station"] or DEFAULT_STATION,
        "source": single["source"] if single["camera"] is None else single["camera"],
        "bank": single["bank"],
        "mode": single["mode"],
        "insecure": insecure,
    }
    publish = {"endpoint": shared["publish"], "heatmap": shared["heatmap"], "insecure": insecure}
    own = {name: shared[name] for name in ("model", "provider", "precision", "threads", "search_device")}
    return {"stations": [_given(station)], "publish": _given(publish), "curve": _curve(shared), **_given(own)}


def _curve(shared: dict[str, Any]) -> dict[str, Any]:
    return _given({name: shared[name] for name in ("server_key", "client_keys")})


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _start_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    root = logging.getLogger("edge_uad")
    root.setLevel(logging.INFO)
    root.handlers = [handler]


def _log_start(settings: "Settings", stations: Sequence["Station"], endpoint: str) -> None:
    from edge_uad.sources import shown_source

    width = max(len(station.name) for station in stations)
    for station, configured in zip(stations, settings.stations, strict=True):
        manifest = station.inspector.manifest
        log.info(
            "%-*s  %s, %s, bank %s (%d patches, threshold %.6f), model %s",
            width,
            station.name,
            shown_source(configured.source),
            station.mode,
            manifest.bank_id[:12],
            manifest.n_patches,
            manifest.threshold,
            manifest.model_id[:12],
        )
    log.info("verdicts on %s", endpoint)


def _log_end(stations: Sequence["Station"], elapsed_s: float) -> None:
    from edge_uad.records import Decision

    width = max(len(station.name) for station in stations)
    for station in stations:
        status = station.status()
        decisions = ", ".join(f"{station.decisions[decision]} {decision}" for decision in Decision)
        log.info(
            "%-*s  %d frames judged: %s; %d dropped; %.1f frames/s",
            width,
            station.name,
            status.judged,
            decisions,
            status.dropped,
            status.judged / max(elapsed_s, 1e-9),
        )
