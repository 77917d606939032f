"""Times measured again and again, and what is said of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timing:
    """One thing measured several times."""

    n: int
    median_ms: float
    p99_ms: float
    """Of few repetitions the slowest, or nearly so."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Of so many measurements, one at least."""
        ms = np.asarray(seconds, np.float64) * 1000
        return cls(len(ms), float(np.median(ms)), float(np.percentile(ms, 99)))


class StageClock:
    """Keeps what each stage took; a StageTimer that any thread may call."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def __call__(self, stage: str, seconds: float) -> None:
        """Note one time of one stage."""
        self._seconds.setdefault(stage, []).append(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long the block took, where it does not fail."""
        started_s = perf_counter()
        yield
        self(stage, perf_counter() - started_s)

    def clear(self) -> None:
        """Forget everything: what came before was the warm-up."""
        self._seconds.clear()

    @property
    def stages(self) -> dict[str, Timing]:
        """Every stage that told a time, in the order of their first."""
        return {stage: Timing.of(seconds) for stage, seconds in self._seconds.items()}


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call took."""
    return timed_call(work)[0]


def timed_call(work: Callable[[], Result]) -> tuple[float, Result]:
    """How long one call took, and what it gave."""
    started_s = perf_counter()
    result = work()
    return perf_counter() - started_s, result


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time, so that what slows the machine for a while slows both.

    Returns:
        NaN of nothing.
    """
    ratios = [one / other for one, other in zip(numerators, denominators, strict=True)]
    return float(np.median(ratios)) if ratios else math.nan
