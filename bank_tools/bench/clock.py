"""Repeated timings and their statistics."""

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
    """Median and 99th percentile of repeated measurements."""

    n: int
    median_ms: float
    p99_ms: float
    """With fewer than 100 measurements close to the slowest."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Statistics of one or more durations."""
        ms = np.asarray(seconds, np.float64) * 1000
        return cls(len(ms), float(np.median(ms)), float(np.percentile(ms, 99)))


class StageClock:
    """Collects the durations of each stage; a StageTimer that any thread may call."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def __call__(self, stage: str, seconds: float) -> None:
        """Add one duration of one stage."""
        self._seconds.setdefault(stage, []).append(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block, unless it raises."""
        started_s = perf_counter()
        yield
        self(stage, perf_counter() - started_s)

    def clear(self) -> None:
        """Drop what was collected so far, such as the warm-up."""
        self._seconds.clear()

    @property
    def stages(self) -> dict[str, Timing]:
        """Timing of every stage, in the order of the first durations."""
        return {stage: Timing.of(seconds) for stage, seconds in self._seconds.items()}


def seconds_of(work: Callable[[], object]) -> float:
    """Duration of one call."""
    return timed_call(work)[0]


def timed_call(work: Callable[[], Result]) -> tuple[float, Result]:
    """Duration and result of one call."""
    started_s = perf_counter()
    result = work()
    return perf_counter() - started_s, result


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of measurements taken in turns: what slows the machine for a while slows both.

    Returns:
        NaN if there are none.
    """
    ratios = [one / other for one, other in zip(numerators, denominators, strict=True)]
    return float(np.median(ratios)) if ratios else math.nan
