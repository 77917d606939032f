"""What a frame costs, stage by stage and from end to end, beside what the machine could do at best.

Whatever is compared is measured in turn, a little of each, so that a machine that is busy for a while with something
else slows both.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import numpy as np

from bank_tools.bench.arithmetic import MatrixProduct, arithmetic_of
from bank_tools.bench.clock import Timing, median_ratio, seconds_of
from bank_tools.bench.frames import decoded
from bank_tools.bench.line import ServedLine, line_content
from bank_tools.bench.results import (
    LEAST_CHUNK,
    ROUNDS,
    WARM_UP_FRAMES,
    Asked,
    BenchResult,
    LineResult,
    Round,
    SettingResult,
)
from bank_tools.bench.settings import Setting, settings_to_compare
from bank_tools.bench.stages import measure_stages
from edge_uad.inference.backbones import CPU_PROVIDERS
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import Float32, Frame
from edge_uad.runtime.assemble import load_backbone, load_inspector

SETTING_ROUNDS = 4
MAX_TENSORS = 16
PRODUCTS = 2
"""In each round."""


def run_bench(asked: Asked, progress: Progress) -> BenchResult:
    """Measure everything.

    Raises:
        ArtefactError: the model or the bank cannot be used.
        EdgeUadError: the daemon that is measured fails.
    """
    backbone = load_backbone(asked.model, provider=asked.provider, threads=asked.threads)
    card = backbone.card
    stages = measure_stages(asked, progress)
    line = measure_line(asked, backbone, progress)
    n_queries = stages.foreground_ratio * card.grid_hw[0] * card.grid_hw[1]
    return BenchResult(
        frames=asked.frames.described,
        stages=stages,
        line=line,
        card=card,
        arithmetic=arithmetic_of(card, n_queries=n_queries, n_bank=stages.n_bank),
        settings=measure_settings(asked, progress) if asked.compare else [],
    )


def measure_line(asked: Asked, backbone: Backbone, progress: Progress) -> LineResult:
    """A daemon over its sockets and the backbone alone, fed the same frames in turn."""
    tensors = _tensors(asked, backbone)
    bare: list[float] = []
    heard: list[float] = []
    decided: list[float] = []
    rounds: list[Round] = []
    content = line_content(asked.model, asked.bank, **asked.settings)
    with ServedLine(content, asked.folder / "d") as line, _limit(asked) as product_hz:
        for message in asked.frames.first(WARM_UP_FRAMES):
            backbone.embed(next(tensors))
            line.latency_s(message)
        product_hz()
        with progress.step("latency", asked.n_frames, "frames") as done:
            for message in asked.frames.first(asked.n_frames):
                bare.append(_embedding_s(backbone, tensors))
                seconds, verdict = line.latency_s(message)
                heard.append(seconds)
                decided.append(verdict["latency_ms"] / 1000)
                done(1)
        with progress.step("throughput", ROUNDS, "rounds") as done:
            for _ in range(ROUNDS):
                alone_s = sum(_embedding_s(backbone, tensors) for _ in range(asked.chunk))
                line_hz = line.rate_hz(asked.frames.endless(), asked.chunk)
                rounds.append(Round(bare_hz=asked.chunk / alone_s, line_hz=line_hz, product_hz=product_hz()))
                done(1)
        peak = line.peak_rss_mib
    bare_hz, lines_hz = [one.bare_hz for one in rounds], [one.line_hz for one in rounds]
    products_hz = [one.product_hz for one in rounds if one.product_hz is not None]
    timed = Timing.of(bare), Timing.of(heard), Timing.of(decided)
    return LineResult(
        bare=timed[0],
        latency=timed[1],
        verdict_latency=timed[2],
        rounds=rounds,
        bare_hz=float(np.median(bare_hz)),
        line_hz=float(np.median(lines_hz)),
        throughput_ratio=median_ratio(lines_hz, bare_hz),
        latency_ratio=timed[1].median_ms / timed[0].median_ms,
        peak_rss_mib=peak,
        product_hz=float(np.median(products_hz)) if products_hz else None,
    )


def measure_settings(asked: Asked, progress: Progress) -> list[SettingResult]:
    """Each optional setting in a daemon of its own, in turn with one of the default."""
    settings = settings_to_compare(n_cores=os.cpu_count() or 1, batches=asked.batches, folder=asked.folder)
    results: list[SettingResult] = []
    with (
        _line(asked, Setting("default", {}), "default") as default,
        progress.step("settings", len(settings), "settings") as done,
    ):
        for number, setting in enumerate(settings):
            with _line(asked, setting, f"s{number}") as line:
                results.append(_compare(asked, setting, line, default))
            done(1)
    return results


def _compare(asked: Asked, setting: Setting, line: ServedLine, default: ServedLine) -> SettingResult:
    batch = int(setting.content.get("max_batch", 1))
    chunk = -(-max(LEAST_CHUNK, asked.n_frames // (2 * ROUNDS)) // batch) * batch
    rates: dict[ServedLine, list[float]] = {line: [], default: []}
    latencies: dict[ServedLine, list[float]] = {line: [], default: []}
    for turn in range(SETTING_ROUNDS):
        for one in (line, default) if turn % 2 else (default, line):
            rates[one].append(one.rate_hz(asked.frames.endless(), chunk))
    for message in asked.frames.first(chunk):
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
def _limit(asked: Asked) -> Iterator[Callable[[], float | None]]:
    """Multiplies matrices and gives the rate; beside an accelerator it would say nothing, and does not."""
    if asked.provider not in CPU_PROVIDERS:
        yield _no_rate
        return
    with MatrixProduct(threads=asked.threads) as product:
        yield lambda: float(np.median([product.rate_hz() for _ in range(PRODUCTS)]))


def _no_rate() -> None:
    pass


@contextmanager
def _line(asked: Asked, setting: Setting, folder: str) -> Iterator[ServedLine]:
    content = line_content(
        asked.model, asked.bank, n_stations=setting.n_stations, **asked.settings | dict(setting.content)
    )
    with ServedLine(content, asked.folder / folder) as line:
        for message in asked.frames.first(WARM_UP_FRAMES):
            line.latency_s(message)
        yield line


def _tensors(asked: Asked, backbone: Backbone) -> Iterator[Float32]:
    """The frames as the pipeline itself hands them to the backbone, (1, 3, h, w), again and again."""
    inspector = load_inspector(backbone, asked.bank)
    asked_for = asked.frames.messages[:MAX_TENSORS]
    frames: list[Frame] = [decoded(message, least_side_px=inspector.least_side_px) for message in asked_for]
    return cycle([inspector.pixels(frame)[None] for frame in frames])


def _embedding_s(backbone: Backbone, tensors: Iterator[Float32]) -> float:
    pixels = next(tensors)
    return seconds_of(lambda: backbone.embed(pixels))
