"""The options of a bench, its results, and these as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bank_tools.bench.clock import Timing, median_ratio
from bank_tools.bench.frames import EncodedFrames
from bank_tools.bench.machine import Arithmetic
from bank_tools.evaluation.results import ResultTable
from edge_uad.records import ModelCard, Provider, SearchDevice, Tiling, WantedPrecision
from edge_uad.stages import PUBLISHING_STAGES

ROUNDS = 12
MIN_CHUNK_FRAMES = 6
BACKGROUND_STAGES = frozenset(PUBLISHING_STAGES) - {"publish"}
"""Drawing and encoding of heatmaps, in a thread that no verdict waits for."""
THROUGHPUT_GOAL = 0.95
LATENCY_GOAL = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure."""

    model: Path
    bank: Path
    frames: EncodedFrames
    n_frames: int
    """Of each measurement."""
    provider: Provider = "cpu"
    precision: WantedPrecision = "auto"
    threads: int = 0
    search_device: SearchDevice = "cpu"
    batches: Sequence[int] = ()
    """Values of ``max_batch`` to compare."""
    compare: bool = True
    """Measure each optional setting against the default, too."""
    live: Sequence[int] = ()
    """Numbers of live stations to measure."""
    folder: Path
    """For sockets and logs; its path must be short enough for a socket's name."""

    @property
    def settings(self) -> dict[str, Any]:
        """Config keys of every line."""
        return {
            "provider": self.provider,
            "precision": self.precision,
            "threads": self.threads,
            "search_device": self.search_device,
        }

    @property
    def chunk(self) -> int:
        """Frames of one round."""
        return max(MIN_CHUNK_FRAMES, self.n_frames // ROUNDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One frame after the other through the stages, in one thread."""

    stages: dict[str, Timing]
    whole: Timing
    """From the encoded frame to the published verdict; its heatmap is drawn in a background thread."""
    foreground_ratio: float
    """Mean over the frames."""
    decisions: dict[str, int]
    n_bank: int
    grid_hw: tuple[int, int]
    """Of a whole picture."""
    tiling: Tiling | None
    """The bank's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Rates measured one after the other."""

    bare_hz: float
    """Of the backbone alone, in frames per second."""
    line_hz: float
    """Of the daemon with frames always waiting, in verdicts per second."""
    product_hz: float | None
    """Of a large matrix product, in floating-point operations per second. None for an accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """A daemon and the backbone alone, measured in turns."""

    bare: Timing
    latency: Timing
    """From capture to the verdict's arrival at a subscriber, one frame at a time."""
    verdict_latency: Timing
    """From capture to verdict, as the verdict states it."""
    rounds: list[Round]
    bare_hz: float
    """Median over the rounds, as ``line_hz`` and ``product_hz``."""
    line_hz: float
    throughput_ratio: float
    """Rate of the line over the rate of the backbone: median over the rounds."""
    latency_ratio: float
    """Median latency of the line over that of the backbone."""
    peak_rss_mib: float | None
    product_hz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveResult:
    """Stations in ``mode: latest`` whose cameras send more than the line can judge."""

    n_stations: int
    camera_hz: float
    """Frames per second that each station is sent."""
    rate_hz: float
    """Verdicts per second of all stations together."""
    slowest_hz: float
    """Of the station with the fewest verdicts."""
    latency: Timing
    """From capture to the verdict's arrival at a subscriber."""
    peak_rss_mib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResult:
    """One setting against the default, in turns."""

    name: str
    rate_hz: float
    rate_ratio: float
    """Over the default's rate: median over the rounds."""
    latency_ms: float
    latency_ratio: float
    peak_rss_mib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Everything that was measured."""

    frames: str
    card: ModelCard
    stages: StageResult
    line: LineResult
    arithmetic: Arithmetic
    live: list[LiveResult] = field(default_factory=list)
    settings: list[SettingResult] = field(default_factory=list)

    @property
    def backbone_of_limit(self) -> float | None:
        """The backbone's arithmetic per second over that of the matrix product: median over the rounds."""
        return self._of_limit(self.arithmetic.backbone, [one.bare_hz for one in self.line.rounds])

    @property
    def line_of_limit(self) -> float | None:
        """The whole line's arithmetic per second over that of the matrix product."""
        return self._of_limit(self.arithmetic.total, [one.line_hz for one in self.line.rounds])

    def _of_limit(self, flop: float, rates_hz: Sequence[float]) -> float | None:
        limits = [one.product_hz for one in self.line.rounds if one.product_hz is not None]
        return median_ratio([flop * rate_hz for rate_hz in rates_hz], limits) if limits else None


def tables_of(result: BenchResult) -> list[ResultTable]:
    """The result as tables, in reading order."""
    tables = [_stage_table(result), _line_table(result), _limit_table(result)]
    if result.live:
        tables.append(_live_table(result.live))
    return [*tables, _setting_table(result)] if result.settings else tables


def _stage_table(result: BenchResult) -> ResultTable:
    whole = result.stages.whole
    rows = [
        (name, *_milliseconds(one), _share(name, one.median_ms / whole.median_ms))
        for name, one in result.stages.stages.items()
    ]
    rows.append(("all, in turn", *_milliseconds(whole), "100.0%"))
    return ResultTable(
        "stages, one frame at a time, a heatmap drawn and sent of each",
        ("stage", "median ms", "p99 ms", "share"),
        tuple(rows),
    )


def _share(name: str, ratio: float) -> str:
    return "background" if name in BACKGROUND_STAGES else f"{ratio:.1%}"


def _milliseconds(timing: Timing) -> tuple[str, str]:
    return f"{timing.median_ms:.2f}", f"{timing.p99_ms:.2f}"


def _line_table(result: BenchResult) -> ResultTable:
    line = result.line
    latencies = {
        "capture to verdict received": line.latency,
        "capture to verdict": line.verdict_latency,
        "backbone alone": line.bare,
    }
    rows = [(name, *(f"{ms} ms" for ms in _milliseconds(one)), "") for name, one in latencies.items()]
    latency = f"{line.latency_ratio:.3f} (goal {LATENCY_GOAL:.2f} at most)"
    rate = f"{line.throughput_ratio:.3f} (goal {THROUGHPUT_GOAL:.2f} at least)"
    return ResultTable(
        "a daemon over its sockets, and the backbone alone, in turn",
        ("", "median", "p99", "line over backbone"),
        (
            (*rows[0][:3], latency),
            *rows[1:],
            ("rate, frames waiting", f"{line.line_hz:.2f} frames/s", "", rate),
            ("rate of the backbone alone", f"{line.bare_hz:.2f} frames/s", "", ""),
            ("peak memory of the daemon", _mib(line.peak_rss_mib, " MiB"), "", ""),
        ),
    )


def _limit_table(result: BenchResult) -> ResultTable:
    line, work = result.line, result.arithmetic
    rows = [
        _work("backbone alone", work.backbone, line.bare_hz, result.backbone_of_limit),
        _work("whole line", work.total, line.line_hz, result.line_of_limit),
        ("search, part of it", f"{work.search / 1e9:.2f}", "", ""),
    ]
    if line.product_hz is not None:
        rows.append(("matrix product", "", f"{line.product_hz / 1e9:.1f}", "100.0%"))
    return ResultTable(
        "arithmetic at full rate, and a large float32 matrix product of numpy with the same threads, in turn",
        ("", "GFLOP a frame", "GFLOP/s", "of the product"),
        tuple(rows),
    )


def _work(name: str, flop: float, rate_hz: float, of_limit: float | None) -> tuple[str, str, str, str]:
    share = "-" if of_limit is None else f"{of_limit:.1%}"
    return name, f"{flop / 1e9:.2f}", f"{flop * rate_hz / 1e9:.1f}", share


def _live_table(results: Sequence[LiveResult]) -> ResultTable:
    rows = tuple(
        (
            f"{one.n_stations} stations live" if one.n_stations > 1 else "1 station live",
            f"{one.camera_hz:.1f}",
            f"{one.rate_hz:.2f}",
            f"{one.slowest_hz:.2f}",
            f"{one.latency.median_ms:.1f}",
            f"{one.latency.p99_ms:.1f}",
            _mib(one.peak_rss_mib),
        )
        for one in results
    )
    columns = ("stations", "sent/s each", "verdicts/s", "slowest station", "median ms", "p99 ms", "peak MiB")
    return ResultTable("live stations (mode latest), capture to verdict received", columns, rows)


def _setting_table(result: BenchResult) -> ResultTable:
    rows = tuple(
        (
            one.name,
            f"{one.rate_hz:.2f}",
            f"{one.rate_ratio:.3f}",
            f"{one.latency_ms:.1f}",
            f"{one.latency_ratio:.3f}",
            _mib(one.peak_rss_mib),
        )
        for one in result.settings
    )
    columns = ("setting", "frames/s", "over default", "latency ms", "over default", "peak MiB")
    return ResultTable("each optional setting in turn with the default", columns, rows)


def _mib(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.0f}{unit}"
