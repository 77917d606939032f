"""What a bench is asked, and what it measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bank_tools.bench.arithmetic import Arithmetic
from bank_tools.bench.clock import Timing, median_ratio
from bank_tools.bench.frames import EncodedFrames
from edge_uad.records import ModelCard

WARM_UP_FRAMES = 3
ROUNDS = 12
LEAST_CHUNK = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to bench."""

    model: Path
    bank: Path
    frames: EncodedFrames
    n_frames: int
    """Measured of each kind."""
    provider: str = "cpu"
    threads: int = 0
    search_device: str = "cpu"
    batches: Sequence[int] = ()
    compare: bool = True
    """Each optional setting against the default, too."""
    folder: Path
    """For sockets and logs; short."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of every line."""
        return {"provider": self.provider, "threads": self.threads, "search_device": self.search_device}

    @property
    def chunk(self) -> int:
        """Frames of one round."""
        return max(LEAST_CHUNK, self.n_frames // ROUNDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """One frame after the other through the stages, in one thread."""

    stages: dict[str, Timing]
    whole: Timing
    """From the encoded frame to the published verdict; its picture is drawn in a background thread."""
    foreground_ratio: float
    """On average."""
    decisions: dict[str, int]
    n_bank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Rates measured one after the other."""

    bare_hz: float
    """Of the backbone alone, in frames."""
    line_hz: float
    """Of the daemon, in frames waiting all the while."""
    product_hz: float | None
    """Of a large matrix product, in floating-point operations. None for an accelerator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineResult:
    """A daemon and the bare backbone, in turn."""

    bare: Timing
    latency: Timing
    """From capture to the verdict's arrival at a subscriber, nothing else under way."""
    verdict_latency: Timing
    """From capture to verdict, as the verdict itself says."""
    rounds: list[Round]
    bare_hz: float
    """Median over the rounds, as the two below."""
    line_hz: float
    throughput_ratio: float
    """Rate of the line over the rate of the backbone: median over the rounds."""
    latency_ratio: float
    """Median latency of the line over that of the backbone."""
    peak_rss_mib: float | None
    product_hz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingResult:
    """One setting against the default, in turn."""

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
    settings: list[SettingResult] = field(default_factory=list)

    @property
    def backbone_of_limit(self) -> float | None:
        """The bare backbone's arithmetic per second over that of the matrix product: median over the rounds."""
        return self._of_limit(self.arithmetic.backbone, [one.bare_hz for one in self.line.rounds])

    @property
    def line_of_limit(self) -> float | None:
        """The whole line's."""
        return self._of_limit(self.arithmetic.total, [one.line_hz for one in self.line.rounds])

    def _of_limit(self, flop: float, rates_hz: Sequence[float]) -> float | None:
        limits = [one.product_hz for one in self.line.rounds if one.product_hz is not None]
        return median_ratio([flop * rate_hz for rate_hz in rates_hz], limits) if limits else None
