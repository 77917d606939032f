"""How build-bank makes a bank: with one model, or with the finest that fits the line's time."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.built_bank import print_skipped
from edge_uad.cli.console import TerminalProgress, note, warn
from edge_uad.cli.frontier import measured_points
from edge_uad.cli.model import model_or_default, open_for_many, spread_for
from edge_uad.cli.options import MachineOptions, RecipeOptions, recipe_of
from edge_uad.errors import UsageError
from edge_uad.records import IndexChoice, WantedPrecision

if TYPE_CHECKING:
    from bank_tools.bank.build import BuiltBank
    from bank_tools.bank.precision_trial import RefusedPrecision
    from bank_tools.bench.operating_points import OperatingPoint
    from edge_uad.inference.inspector import Embedder


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command was asked for."""

    normals: str
    out: Path
    recipe: RecipeOptions
    machine: MachineOptions
    index: IndexChoice
    reduced_decode: bool
    accept_damaged: bool
    exclude_outliers: bool
    precision: WantedPrecision
    cycle_ms: float | None
    """The line's time for one part; None where it was not said."""


@dataclass(frozen=True, slots=True)
class MadeBank:
    """A bank, not saved yet, and how it came about."""

    built: "BuiltBank"
    embedder: "Embedder"
    slow: "tuple[RefusedPrecision, ...]"
    """Precisions that win no time here."""


def cycle_of(cycle_ms: float | None, rate_hz: float | None) -> float | None:
    """The line's time for one part in milliseconds; None where neither was given.

    Raises:
        UsageError: both were, or one that is not above 0.
    """
    if cycle_ms is not None and rate_hz is not None:
        raise UsageError("--cycle-ms and --rate-hz say the same; give one of them")
    for name, value in (("--cycle-ms", cycle_ms), ("--rate-hz", rate_hz)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} is {value:g}; give a number above 0")
    return 1000 / rate_hz if rate_hz is not None else cycle_ms


def made_bank(wishes: Wishes, model: Path) -> MadeBank:
    """Make a bank with one model.

    Raises:
        EdgeUadError: the good images, the model or an option cannot be used.
    """
    from bank_tools.bank.build import build_bank
    from bank_tools.bank.embeddings import scratch_folder
    from bank_tools.bank.good_images import embed_for_bank
    from bank_tools.bank.precision_trial import possible_precisions, would_gain_from_openvino
    from bank_tools.bank.recipe import embedder_for
    from edge_uad.sources import recorded_source, reduce_decoding
    from edge_uad.sources.recorded import frames_of, shortfall_of

    machine = wishes.machine
    source, total = recorded_source(wishes.normals)
    backbone, workers = open_for_many(model, machine)
    recipe = recipe_of(backbone.card, wishes.recipe, machine, reduced_decode=wishes.reduced_decode)
    recipe = replace(recipe, index=wishes.index)
    embedder = embedder_for(backbone, recipe)
    reduce_decoding(source, embedder.preprocessor.least_side_px if wishes.reduced_decode else None)
    progress = TerminalProgress()
    folder = scratch_folder(wishes.out.parent)
    if would_gain_from_openvino(backbone.card, wishes.precision, machine.provider):
        note(
            "this processor multiplies in lower precision, which takes about half of the time: after pip install "
            "'edge-uad[openvino]' build-bank tries it, and certifies what keeps the verdicts"
        )
    # lower precisions are tried on this machine: what they are worth is measured, and waiting for a cluster is no time
    alone = None
    if machine.cluster is not None:
        backbone_here, workers_here = open_for_many(model, replace(machine, cluster=None))
        alone = embedder_for(backbone_here, recipe), workers_here
    images, slow = embed_for_bank(
        frames_of(source),
        embedder,
        recipe,
        progress,
        model=model,
        precisions=possible_precisions(backbone.card, wishes.precision, machine.provider),
        total=total,
        workers=workers,
        folder=folder,
        alone=alone,
    )
    print_skipped(images)
    if (shortfall := shortfall_of(source)) is not None:
        if not wishes.accept_damaged:
            raise UsageError(f"{shortfall}; copy the video again, or learn from what is there with --accept-damaged")
        warn(f"{shortfall}; the bank is built from the other frames")
    built = build_bank(
        images,
        recipe=recipe,
        embedder=embedder,
        progress=progress,
        exclude_outliers=wishes.exclude_outliers,
        cycle_ms=wishes.cycle_ms,
        spread=spread_for(machine),
    )
    return MadeBank(built, embedder, slow)


def made_in_time(wishes: Wishes, model: Path | None) -> MadeBank:
    """Make a bank with the finest input that fits the line's time here.

    Where the precision that made an input fit does not keep the verdicts of this bank, the next coarser one is taken.

    Args:
        wishes: with a cycle.
        model: whose weights are meant; None for the default backbone.

    Raises:
        EdgeUadError: nothing fits, or as :func:`made_bank`.
    """
    from bank_tools.bench.operating_points import choose_points
    from edge_uad.sources import recorded_source
    from edge_uad.sources.recorded import frames_of

    if wishes.cycle_ms is None:
        raise ValueError("no cycle was given")
    if wishes.machine.provider != "cpu":
        raise UsageError("--cycle-ms is for the processor; leave --provider out")
    source, _ = recorded_source(wishes.normals)
    frames = frames_of(source)
    models, points = measured_points(
        model_or_default(model),
        lambda: next(frames, None),
        partial(recipe_of, options=wishes.recipe, machine=wishes.machine),
        provider=wishes.machine.provider,
        precision=wishes.precision,
        threads=wishes.machine.threads,
    )
    _show_points(points, wishes.cycle_ms)
    for point in choose_points(points, wishes.cycle_ms):
        made = made_bank(wishes, models[point.input_px])
        precisions = {"fp32", *(one.precision for one in made.built.bank.manifest.precisions)}
        alike = [one for one in points if one.input_px == point.input_px and one.precision in precisions]
        if any(one.fits(wishes.cycle_ms) for one in alike):
            note(_choice_of(point, points, wishes.cycle_ms))
            return made
        warn(f"{point} fits the time, but does not keep this bank's verdicts; the next coarser input is taken")
    raise UsageError(
        f"no input size keeps this bank's verdicts within a cycle of {wishes.cycle_ms:g} ms on this machine; give the "
        "line more time, or use a faster machine"
    )


def _show_points(points: "list[OperatingPoint]", cycle_ms: float) -> None:
    width = max(len(str(point)) for point in points)
    for point in points:
        fits = "fits" if point.fits(cycle_ms) else "does not fit"
        timing = point.timing
        note(f"{point!s:<{width}}  {timing.median_ms:7.1f} ms, 99th percentile {timing.p99_ms:7.1f} ms  {fits}")


def _choice_of(chosen: "OperatingPoint", points: "list[OperatingPoint]", cycle_ms: float) -> str:
    from bank_tools.bench.operating_points import fastest_by_size

    sizes = fastest_by_size(points)
    place = [point.input_px for point in sizes].index(chosen.input_px)
    beside = [("finer", sizes[place - 1] if place else None), ("coarser", (*sizes, None)[place + 1])]
    others = "; ".join(
        f"there is nothing {name}" if one is None else f"the next {name}, {one}, takes {one.timing.median_ms:.0f} ms"
        for name, one in beside
    )
    return (
        f"for {cycle_ms:g} ms: {chosen}, {chosen.timing.median_ms:.0f} ms a frame "
        f"({chosen.timing.p99_ms:.0f} ms at the 99th percentile); {others}"
    )
