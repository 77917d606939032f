"""Measurements of a bench: stages, a whole line, live stations, optional settings, and the machine's limit.

Whatever is compared is measured in turns, a little of each, so that other programs slow both.
"""

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from bank_tools.bench.clock import StageClock, Timing, median_ratio, seconds_of
from bank_tools.bench.frames import decoded
from bank_tools.bench.line import ServedLine, line_content
from bank_tools.bench.machine import MatrixProduct, arithmetic_of
from bank_tools.bench.results import (
    MIN_CHUNK_FRAMES,
    ROUNDS,
    BenchOptions,
    BenchResult,
    LineResult,
    LiveResult,
    Round,
    SettingResult,
    StageResult,
)
from edge_uad.inference.backbones import CPU_PROVIDERS
from edge_uad.inference.backbones.tiled import tiled
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import Decision, Float32, Frame
from edge_uad.runtime.assemble import assemble_line, load_inspector
from edge_uad.runtime.backbones import Backbones
from edge_uad.runtime.settings import make_settings
from edge_uad.stages import PUBLISHING_STAGES, STAGES

WARM_UP_FRAMES = 3
SETTING_ROUNDS = 4
MAX_TENSORS = 16
PRODUCTS = 2
"""In each round."""
MAX_LISTED_THREADS = 8
MAX_CAMERA_HZ = 60.0
MIN_LIVE_S = 3.0
STAGE_ORDER = ("decode", *STAGES, *PUBLISHING_STAGES)
HEATMAP_TIMEOUT_MS = 5000


@dataclass(frozen=True, slots=True)
class Setting:
    """One change to the default line."""

    name: str
    content: Mapping[str, Any]
    """Keys of the config."""
    n_stations: int = 1


def run_bench(options: BenchOptions, progress: Progress) -> BenchResult:
    """Measure everything.

    Raises:
        ArtefactError: the model or the bank cannot be used.
        EdgeUadError: the daemon that is measured fails.
    """
    backbone = bare_backbone(options)
    card = backbone.card
    stages = measure_stages(options, progress)
    line = measure_line(options, tiled(backbone, stages.tiling), progress)
    n_queries = stages.foreground_ratio * math.prod(stages.grid_hw)
    n_tiles = 1 if stages.tiling is None else math.prod(stages.tiling.tiles_hw)
    settings: Sequence[Setting] = ()
    if options.compare:
        settings = settings_to_compare(n_cores=os.cpu_count() or 1, batches=options.batches, folder=options.folder)
    return BenchResult(
        frames=options.frames.described,
        stages=stages,
        line=line,
        card=card,
        arithmetic=arithmetic_of(card, n_queries=n_queries, n_bank=stages.n_bank, n_tiles=n_tiles),
        live=[measure_live(options, n, line.line_hz, progress) for n in options.live],
        settings=measure_settings(options, settings, progress) if settings else [],
    )


def bare_backbone(options: BenchOptions) -> Backbone:
    """The model that the line will run, in the precision in which the bank is judged.

    Raises:
        ArtefactError: the model or the bank cannot be used.
    """
    backbones = Backbones(
        options.model, provider=options.provider, threads=options.threads, precision=options.precision
    )
    inspector = load_inspector(backbones, options.bank, search_device=options.search_device)
    return tiled(inspector.backbone, None)


def measure_stages(options: BenchOptions, progress: Progress) -> StageResult:
    """Frames through the objects that a daemon would run, one after the other; a heatmap of each is published."""
    clock = StageClock()
    content = line_content(options.model, options.bank, **options.settings)
    content["stations"][0]["source"] = f"ipc://{options.folder}/in"
    content["publish"] = {"endpoint": f"ipc://{options.folder}/out", "heatmap": "always"}
    settings = make_settings(content, name="edge-uad bench")
    (station,), sink, _ = assemble_line(settings, options.model, on_stage=clock)
    inspector = station.inspector
    heatmaps = _HeatmapSubscriber(sink.endpoint)
    whole: list[float] = []
    foreground: list[float] = []
    decisions: Counter[str] = Counter()
    with progress.step("stages", options.n_frames, "frames") as done:
        for index, message in enumerate(options.frames.first(WARM_UP_FRAMES + options.n_frames)):
            if index == WARM_UP_FRAMES:
                clock.clear()
            started_s = time.perf_counter()
            with clock.timed("decode"):
                frame = decoded(message, least_side_px=inspector.least_side_px)
            verdict = inspector.inspect(frame)
            with clock.timed("sink"):
                sink.publish(verdict, frame)
            elapsed_s = time.perf_counter() - started_s
            if verdict.heatmap is not None:
                heatmaps.await_next()
            if index >= WARM_UP_FRAMES:
                whole.append(elapsed_s)
                foreground.append(verdict.foreground_ratio or 0.0)
                decisions[str(verdict.decision)] += 1
                done(1)
    heatmaps.close()
    sink.close()
    return StageResult(
        stages=_in_order(clock.stages),
        whole=Timing.of(whole),
        foreground_ratio=float(np.mean(foreground)),
        decisions=dict(decisions),
        n_bank=inspector.manifest.n_patches,
        grid_hw=inspector.manifest.grid_hw,
        tiling=inspector.manifest.tiling,
    )


def measure_line(options: BenchOptions, backbone: Backbone, progress: Progress) -> LineResult:
    """A daemon over its sockets and the backbone alone, given the same frames in turns."""
    tensors = _tensors(options, backbone)
    bare: list[float] = []
    latencies: list[float] = []
    verdict_latencies: list[float] = []
    rounds: list[Round] = []
    content = line_content(options.model, options.bank, **options.settings)
    with ServedLine(content, options.folder / "d") as line, _limit(options) as product_hz:
        for message in options.frames.first(WARM_UP_FRAMES):
            backbone.embed(next(tensors))
            line.latency_s(message)
        product_hz()
        with progress.step("latency", options.n_frames, "frames") as done:
            for message in options.frames.first(options.n_frames):
                bare.append(_embedding_s(backbone, tensors))
                seconds, verdict = line.latency_s(message)
                latencies.append(seconds)
                verdict_latencies.append(verdict["latency_ms"] / 1000)
                done(1)
        with progress.step("throughput", ROUNDS, "rounds") as done:
            for _ in range(ROUNDS):
                alone_s = sum(_embedding_s(backbone, tensors) for _ in range(options.chunk))
                line_hz = line.rate_hz(options.frames.endless(), options.chunk)
                rounds.append(Round(bare_hz=options.chunk / alone_s, line_hz=line_hz, product_hz=product_hz()))
                done(1)
        peak = line.peak_rss_mib
    bare_hz, lines_hz = [one.bare_hz for one in rounds], [one.line_hz for one in rounds]
    products_hz = [one.product_hz for one in rounds if one.product_hz is not None]
    bare_timing, latency = Timing.of(bare), Timing.of(latencies)
    return LineResult(
        bare=bare_timing,
        latency=latency,
        verdict_latency=Timing.of(verdict_latencies),
        rounds=rounds,
        bare_hz=float(np.median(bare_hz)),
        line_hz=float(np.median(lines_hz)),
        throughput_ratio=median_ratio(lines_hz, bare_hz),
        latency_ratio=latency.median_ms / bare_timing.median_ms,
        peak_rss_mib=peak,
        product_hz=float(np.median(products_hz)) if products_hz else None,
    )


def measure_live(options: BenchOptions, n_stations: int, line_hz: float, progress: Progress) -> LiveResult:
    """Stations in ``mode: latest``, each sent as many frames per second as one station alone can judge.

    Args:
        options: of the bench.
        n_stations: at least 1.
        line_hz: the rate of one station with frames waiting.
        progress: shown meanwhile.
    """
    camera_hz = min(line_hz, MAX_CAMERA_HZ)
    content = line_content(options.model, options.bank, n_stations=n_stations, mode="latest", **options.settings)
    duration_s = max(options.n_frames / line_hz, MIN_LIVE_S)
    with (
        progress.step(f"{n_stations} live", 1, "runs") as done,
        ServedLine(content, options.folder / f"l{n_stations}") as line,
    ):
        for message in options.frames.first(WARM_UP_FRAMES * n_stations):
            line.latency_s(message)
        count = line.live(options.frames.endless(), camera_hz=camera_hz, duration_s=duration_s)
        done(1)
        return LiveResult(
            n_stations=n_stations,
            camera_hz=camera_hz,
            rate_hz=sum(count.n_verdicts.values()) / duration_s,
            slowest_hz=min(count.n_verdicts.values()) / duration_s,
            latency=Timing.of(count.latencies_s),
            peak_rss_mib=line.peak_rss_mib,
        )


def settings_to_compare(*, n_cores: int, batches: Sequence[int], folder: Path) -> list[Setting]:
    """Every optional setting that may cost or gain time.

    Args:
        n_cores: of this machine.
        batches: sizes of ``max_batch``; each is measured with as many stations.
        folder: for logs and evidence.
    """
    threads = [Setting(f"threads {n}", {"threads": n}) for n in thread_counts(n_cores)]
    batched = [Setting(f"max_batch {n}, {n} stations", {"max_batch": n}, n) for n in batches if n > 1]
    one_at_a_time = [Setting("parallel_frames false", {"parallel_frames": False})]
    heatmaps = [Setting(f"heatmap {policy}", {"publish": {"heatmap": policy}}) for policy in ("never", "always")]
    evidence = {"folder": str(folder / "evidence"), "decisions": [str(decision) for decision in Decision]}
    records = [
        Setting("audit log", {"audit": {"file": str(folder / "verdicts.jsonl")}}),
        Setting("evidence of every frame", {"evidence": evidence}),
        Setting("metrics", {"metrics": {"endpoint": f"127.0.0.1:{_free_port()}"}}),
    ]
    return [*threads, *one_at_a_time, *batched, *heatmaps, *records]


def thread_counts(n_cores: int) -> list[int]:
    """1 to all cores; where there are many the powers of two, and all of them."""
    if n_cores <= MAX_LISTED_THREADS:
        return list(range(1, n_cores + 1))
    powers = [2**exponent for exponent in range(n_cores.bit_length()) if 2**exponent < n_cores]
    return [*powers, n_cores]


def measure_settings(options: BenchOptions, settings: Sequence[Setting], progress: Progress) -> list[SettingResult]:
    """Each setting in a separate daemon, in turns with a daemon of the default settings."""
    results: list[SettingResult] = []
    with (
        _line(options, Setting("default", {}), "default") as default,
        progress.step("settings", len(settings), "settings") as done,
    ):
        for number, setting in enumerate(settings):
            with _line(options, setting, f"s{number}") as line:
                results.append(_compare(options, setting, line, default))
            done(1)
    return results


def _compare(options: BenchOptions, setting: Setting, line: ServedLine, default: ServedLine) -> SettingResult:
    batch = int(setting.content.get("max_batch", 1))
    chunk = -(-max(MIN_CHUNK_FRAMES, options.n_frames // (2 * ROUNDS)) // batch) * batch
    rates: dict[ServedLine, list[float]] = {line: [], default: []}
    latencies: dict[ServedLine, list[float]] = {line: [], default: []}
    for turn in range(SETTING_ROUNDS):
        for one in (line, default) if turn % 2 else (default, line):
            rates[one].append(one.rate_hz(options.frames.endless(), chunk))
    for message in options.frames.first(chunk):
        for one in (line, default):
            latencies[one].append(one.latency_s(message)[0])
    latency_ms = float(np.median(latencies[line])) * 1000
    return SettingResult(
        name=setting.name,
        rate_hz=float(np.median(rates[line])),
        rate_ratio=median_ratio(rates[line], rates[default]),
        latency_ms=latency_ms,
        latency_ratio=latency_ms / (float(np.median(latencies[default])) * 1000),
        peak_rss_mib=line.peak_rss_mib,
    )


@contextmanager
def _line(options: BenchOptions, setting: Setting, folder: str) -> Iterator[ServedLine]:
    content = line_content(
        options.model, options.bank, n_stations=setting.n_stations, **options.settings | dict(setting.content)
    )
    with ServedLine(content, options.folder / folder) as line:
        for message in options.frames.first(WARM_UP_FRAMES):
            line.latency_s(message)
        yield line


@contextmanager
def _limit(options: BenchOptions) -> Iterator[Callable[[], float | None]]:
    """A function that multiplies matrices and returns the rate; None for an accelerator, which is no CPU's BLAS."""
    if options.provider not in CPU_PROVIDERS:
        yield _nothing
        return
    with MatrixProduct(threads=options.threads) as product:
        yield lambda: float(np.median([product.rate_hz() for _ in range(PRODUCTS)]))


class _HeatmapSubscriber:
    """Receives heatmaps, so that the next frame is not timed while one is drawn."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.subscribe("heatmap/")
        self._socket.connect(endpoint)

    def await_next(self) -> None:
        """Return when one has come, or in vain: a new subscriber may miss the first."""
        if self._socket.poll(HEATMAP_TIMEOUT_MS):
            self._socket.recv_multipart()

    def close(self) -> None:
        """Unsubscribe."""
        self._socket.close(linger=0)
        self._context.term()


def _in_order(stages: dict[str, Timing]) -> dict[str, Timing]:
    """In the frame's order. The sink's whole time is kept only where its parts report none."""
    sink = stages.pop("sink")
    stages.setdefault("publish", sink)
    names = [name for name in STAGE_ORDER if name in stages]
    return {name: stages[name] for name in [*names, *(name for name in stages if name not in names)]}


def _tensors(options: BenchOptions, backbone: Backbone) -> Iterator[Float32]:
    """The frames as the daemon hands them to the backbone, (1, 3, h, w), repeated without end."""
    inspector = load_inspector(backbone, options.bank)
    messages = options.frames.messages[:MAX_TENSORS]
    frames: list[Frame] = [decoded(message, least_side_px=inspector.least_side_px) for message in messages]
    return cycle([inspector.pixels(frame)[None] for frame in frames])


def _embedding_s(backbone: Backbone, tensors: Iterator[Float32]) -> float:
    pixels = next(tensors)
    return seconds_of(lambda: backbone.embed(pixels))


def _free_port() -> int:
    """A TCP port that is free now; a metrics server must be given one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _nothing() -> None:
    pass
