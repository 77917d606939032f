"""What a frame costs here at each input size and precision, and which of them a line's cycle leaves room for.

Everything that a lone frame goes through is timed: decoding, preprocessing, the backbone, the search in a bank as large
as the recipe allows, score and heatmap. The bank's patches are drawn: what an exact search costs does not depend on
them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bank_tools.bank.recipe import DEFAULT_MAX_PATCHES, Recipe, embedder_for
from bank_tools.bench.clock import Timing, seconds_of, timed_call
from edge_uad.errors import UsageError
from edge_uad.inference.scoring import heatmap, image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.progress import Progress
from edge_uad.records import (
    Float32,
    Frame,
    InferencePrecision,
    LowerPrecision,
    ModelCard,
    UInt8,
    UnreadableFrame,
)
from edge_uad.runtime.backbones import load_backbone

SIZES_PX = (448, 336, 224)
"""Sides of the square input, the finest first; a finer one than the default has not caught more (docs/results.md)."""
MARGIN_RATIO = 0.1
"""So much of the cycle stays free at the 99th percentile."""
N_PICTURES = 5
N_RUNS = 15
N_WARM_UP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """An input size and a precision, and what a frame alone takes in it."""

    input_px: int
    precision: InferencePrecision
    timing: Timing

    def fits(self, cycle_ms: float) -> bool:
        """Whether it leaves the margin free, in the slowest of a hundred frames."""
        return self.timing.p99_ms <= (1 - MARGIN_RATIO) * cycle_ms

    def __str__(self) -> str:
        return f"{self.input_px} px in {self.precision}"


@dataclass(frozen=True, slots=True)
class SamplePictures:
    """Some of the line's pictures, and how long they took to read."""

    images: tuple[UInt8, ...]
    read_s: tuple[float, ...]

    @classmethod
    def of(cls, read: Callable[[], Frame | UnreadableFrame | None]) -> "SamplePictures":
        """The first that can be read.

        Args:
            read: gives one after the other, decoded; None after the last.

        Raises:
            UsageError: none can be read.
        """
        images: list[UInt8] = []
        read_s: list[float] = []
        while len(images) < N_PICTURES:
            seconds, frame = timed_call(read)
            if frame is None:
                break
            if isinstance(frame, Frame):
                images.append(frame.image)
                read_s.append(seconds)
        if not images:
            raise UsageError("no picture can be read, so that no frame can be timed; name a folder of good images")
        return cls(tuple(images), tuple(read_s))


def measure_points(
    models: Mapping[int, Path],
    precisions: Sequence[LowerPrecision],
    pictures: SamplePictures,
    recipe_of: Callable[[ModelCard], Recipe],
    *,
    threads: int,
    progress: Progress,
) -> list[OperatingPoint]:
    """Time each size in fp32 and in lower precisions, those of a size in turn.

    Args:
        models: a model file for each input size in pixels.
        precisions: beside fp32.
        pictures: of the line.
        recipe_of: the recipe by which a bank of a model would be made.
        threads: of the CPU; 0 for one per core.
        progress: shows the step.

    Returns:
        In the order of the models.

    Raises:
        EdgeUadError: a model cannot be opened.
    """
    asked: tuple[InferencePrecision, ...] = ("fp32", *precisions)
    points = []
    with progress.step("timing", len(models), "input sizes") as done:
        for input_px, path in models.items():
            judges = {one: judge_of(path, one, recipe_of, threads=threads) for one in asked}
            for one, seconds in _in_turn(judges, pictures).items():
                points.append(OperatingPoint(input_px=input_px, precision=one, timing=Timing.of(seconds)))
            done(1)
    return points


def choose_points(points: Sequence[OperatingPoint], cycle_ms: float) -> list[OperatingPoint]:
    """For each input size that fits the cycle, the finest first, its fastest precision.

    Raises:
        UsageError: none fits.
    """
    fastest = fastest_by_size(points)
    fitting = [point for point in fastest if point.fits(cycle_ms)]
    if not fitting:
        best = min(fastest, key=lambda point: point.timing.p99_ms)
        least_ms = math.ceil(best.timing.p99_ms / (1 - MARGIN_RATIO))
        raise UsageError(
            f"no input size fits a cycle of {cycle_ms:g} ms on this machine: {best} takes {best.timing.p99_ms:.0f} ms "
            f"(99th percentile); give the line at least {least_ms} ms, or use a faster machine"
        )
    return fitting


def fastest_by_size(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """The fastest precision of each input size, the finest size first."""
    by_size: dict[int, OperatingPoint] = {}
    for point in points:
        held = by_size.get(point.input_px)
        if held is None or point.timing.median_ms < held.timing.median_ms:
            by_size[point.input_px] = point
    return [by_size[size] for size in sorted(by_size, reverse=True)]


def judge_of(
    model: Path, precision: InferencePrecision, recipe_of: Callable[[ModelCard], Recipe], *, threads: int
) -> Callable[[UInt8], object]:
    """All that a frame goes through after it is decoded."""
    backbone = load_backbone(model, precision=precision, threads=threads)
    recipe = recipe_of(backbone.card)
    embedder = embedder_for(backbone, recipe)
    input_hw = embedder.backbone.card.input_hw
    patches = _drawn_patches(recipe.max_patches or DEFAULT_MAX_PATCHES, backbone.card.dim, recipe.levels)
    search = PatchSearch(patches, threads=threads, levels=recipe.levels)

    def judge(image: UInt8) -> object:
        one = embedder.embed(image)
        distances = search.distances(one.embedding, one.mask, neighbours=recipe.neighbours)
        return image_score(distances, top_ratio=recipe.top_ratio), heatmap(distances, input_hw)

    return judge


def _in_turn(
    judges: Mapping[InferencePrecision, Callable[[UInt8], object]], pictures: SamplePictures
) -> dict[InferencePrecision, list[float]]:
    found: dict[InferencePrecision, list[float]] = {precision: [] for precision in judges}
    for run in range(N_WARM_UP + N_RUNS):
        place = run % len(pictures.images)
        for precision, judge in judges.items():
            seconds = seconds_of(partial(judge, pictures.images[place]))
            if run >= N_WARM_UP:
                found[precision].append(seconds + pictures.read_s[place])
    return found


def _drawn_patches(n: int, dim: int, levels: int) -> Float32:
    """(n, dim), each of its ``levels`` parts of the norm 1/√levels."""
    parts = np.random.default_rng(0).standard_normal((n, levels, dim // levels), np.float32)
    parts /= np.sqrt(levels) * np.linalg.norm(parts, axis=2, keepdims=True)
    return parts.reshape(n, dim).astype(np.float32, copy=False)
