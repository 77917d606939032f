"""A tenth of so many patches chosen: edge-uad's coreset, the published sampler's way, and the naive one.

    python -m benchmarks.coreset [--max-size 100000]

*published*: ten anchors, distances in a projection to 128 dimensions, and for each choice one pass over all patches.
*naive*: the same with all distances between all patches computed beforehand. Both written anew in numpy. A method that
would take long is stopped after some hundred choices, each of which costs the same, and its time for all is reckoned.
"""

import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from time import perf_counter

import numpy as np

from bank_tools.bank import coreset
from bank_tools.bank.coreset import coreset_size, greedy_coreset
from bank_tools.bench.clock import timed_call
from bank_tools.bench.frames import bank_of_size
from benchmarks.report import Report, Table, options_of, say
from benchmarks.search import available_bytes, real_patches
from edge_uad.records import Float32, Int

SIZES = (10_000, 100_000, 1_000_000)
RATIO = 0.1
CHOSEN_MOST = 10_000
BUDGET_S = 10.0
"""For the methods that cost the same for every choice."""
SEED = 0


@dataclass(frozen=True)
class Measured:
    """One method at one size."""

    method: str
    size: int
    chosen: int
    seconds: float
    """For all choices."""
    timed: int
    """Choices that were made; fewer than chosen where the time is reckoned from them."""
    radius: float | None
    """Distance, in the projection, of the patch farthest from its nearest choice; None where not all were made."""
    same: float | None
    """Share of the choices that edge-uad makes too; less than all where a last bit decided between two patches."""


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--max-size", type=int, default=SIZES[-1], metavar="M", help="of patches to choose from")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= (SIZES[0] if options.quick else options.max_size)]
    bank, _ = real_patches()
    report = Report(
        name="coreset",
        title="Coreset",
        about=f"Patches drawn around {len(bank.patches):,} real ones, a tenth chosen, {CHOSEN_MOST:,} at most. "
        "All three ways choose greedily from the same first distances in the same projection.",
    )
    measured: list[Measured] = []
    for size in sizes:
        measured += measured_at(bank_of_size(bank, size).patches)
    add_table(report, measured)
    report.close(options)
    return 0


def measured_at(patches: Float32) -> Iterator[Measured]:
    """Each method that memory allows."""
    ratio = min(RATIO, CHOSEN_MOST / len(patches))
    wanted = coreset_size(len(patches), ratio)
    say(f"{wanted:,} of {len(patches):,}: edge-uad")
    seconds, rows = timed_call(lambda: greedy_coreset(patches, ratio=ratio, seed=SEED))
    rng = np.random.default_rng(SEED)
    points = projected(patches, rng)
    anchors = rng.choice(len(points), coreset.N_ANCHORS, replace=False)
    yield Measured("edge-uad", len(patches), wanted, seconds, wanted, radius(points, rows), 1.0)
    choosing = {"published": one_pass_each(points, anchors)}
    if 2 * 4 * len(patches) ** 2 < available_bytes():
        choosing["naive"] = all_pairs_first(points, anchors)
    for method, choices in choosing.items():
        say(f"{wanted:,} of {len(patches):,}: {method}")
        yield timed_choices(method, choices, points, rows)


def timed_choices(method: str, choices: Iterator[int], points: Float32, own: Int) -> Measured:
    """Choose as many as edge-uad's own rows, or until the time is spent."""
    wanted = len(own)
    started_s = perf_counter()
    rows = [next(choices)]  # what is computed beforehand goes into the first
    first_s = perf_counter() - started_s
    for row in islice(choices, wanted - 1):
        rows.append(row)
        if perf_counter() - started_s > first_s + BUDGET_S:
            break
    later_s = perf_counter() - started_s - first_s
    seconds = first_s + later_s * (wanted - 1) / max(len(rows) - 1, 1)
    if len(rows) < wanted:
        return Measured(method, len(points), wanted, seconds, len(rows), None, None)
    same = len(np.intersect1d(rows, own)) / wanted
    return Measured(method, len(points), wanted, seconds, wanted, radius(points, np.asarray(rows)), same)


def projected(patches: Float32, rng: np.random.Generator) -> Float32:
    """The random projection that greedy_coreset uses."""
    projection = rng.standard_normal((patches.shape[1], coreset.PROJECTION_DIM), np.float32)
    points: Float32 = patches @ (projection / np.float32(np.sqrt(coreset.PROJECTION_DIM)))
    return points


def mean_distance_to(anchors: Int, points: Float32) -> Float32:
    distances = [np.linalg.norm(points - points[anchor], axis=1) for anchor in anchors]
    return np.asarray(np.mean(distances, axis=0), np.float32)


def one_pass_each(points: Float32, anchors: Int) -> Iterator[int]:
    """The published sampler: after each choice every patch's distance to it."""
    norms = np.einsum("md,md->m", points, points)
    nearest = mean_distance_to(anchors, points)
    while True:
        row = int(nearest.argmax())
        yield row
        squared = norms + norms[row] - 2 * (points @ points[row])
        nearest = np.minimum(nearest, np.sqrt(np.maximum(squared, 0)))
        nearest[row] = -1


def all_pairs_first(points: Float32, anchors: Int) -> Iterator[int]:
    """The naive way: the whole matrix of distances, then its rows."""
    norms = np.einsum("md,md->m", points, points)
    distances = points @ (-2 * points.T)
    distances += norms
    distances += norms[:, None]
    np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
    nearest = mean_distance_to(anchors, points)
    while True:
        row = int(nearest.argmax())
        yield row
        np.minimum(nearest, distances[row], out=nearest)
        nearest[row] = -1


def radius(points: Float32, rows: Int) -> float:
    """Largest distance of a point to the nearest of the rows."""
    norms = np.einsum("md,md->m", points, points)
    farthest = 0.0
    for some in np.array_split(np.arange(len(points)), max(1, len(points) // 2048)):
        squared = points[some] @ (-2 * points[rows].T)
        squared += norms[rows]
        farthest = max(farthest, float((squared.min(axis=1) + norms[some]).max()))
    return float(np.sqrt(max(farthest, 0)))


def add_table(report: Report, measured: list[Measured]) -> None:
    rows = [
        [
            one.method,
            f"{one.size:,}",
            f"{one.chosen:,}",
            f"{one.seconds:.1f}",
            "all" if one.timed == one.chosen else f"{one.timed:,}",
            "-" if one.radius is None else f"{one.radius:.4f}",
            "-" if one.same is None else f"{one.same:.4f}",
        ]
        for one in measured
    ]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = f"Peak memory of the whole run, patches included: {peak_gib:.1f} GiB."
    columns = ("method", "patches", "chosen", "seconds", "choices timed", "radius", "same choices")
    report.add(Table("choosing a coreset", columns, rows, note=note))
    report.facts |= {"measured": [asdict(one) for one in measured], "peak_gib": peak_gib}


if __name__ == "__main__":
    sys.exit(main())
