"""Search time against bank size: one frame's patches in banks of 10³ to 10⁷ by every method at hand.

    python -m benchmarks.search [--max-size 1000000] [--method edge-uad --method "edge-uad in lists"]

Exact: edge-uad's own search, faiss, one product in numpy, and a product over the leading principal components that
spares the patches which the Cauchy-Schwarz bound rules out. Approximate, with recall: edge-uad's search in lists, and
faiss IVF and HNSW. All search one level; a bank of several takes so many times as long, whatever searches it.
"""

import argparse
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, process_time, sleep

import faiss
import numpy as np

from bank_tools.bank.index import SAME_DISTANCE, build_index
from bank_tools.bench.clock import seconds_of
from bank_tools.bench.frames import DRAWN_FRAMES, bank_of, bank_of_size, decoded, packaged_frames
from bank_tools.report.charts import LineChart, Spread
from benchmarks.report import Report, Table, options_of, say
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.index import IndexedSearch
from edge_uad.inference.search import PatchSearch, split_levels
from edge_uad.progress import SilentProgress
from edge_uad.records import Float32, Geometry, Int
from edge_uad.runtime.assemble import make_embedder
from edge_uad.runtime.backbones import load_backbone
from export.default import provide_default_model

SIZES = tuple(10**power for power in range(3, 8))
WHOLE_MOST = 10**6
"""A larger bank is searched as parts of this size, one after the other: the same products, in less memory."""
BUDGET_S = 4.0
"""For one method at one size."""
REPETITIONS = (3, 25)
BUILD_MOST_S = 90.0
"""An index that would take longer to build is left out, judged by the size before."""
IVF_PROBES, IVF_LISTS_MOST, IVF_SAMPLES_PER_LIST, IVF_ROUNDS = 16, 4096, 40, 10
HNSW_LINKS, HNSW_BUILD_DEPTH, HNSW_SEARCH_DEPTH = 32, 80, 64
PREFIX_DIM, PREFIX_BLOCK_ROWS = 128, 8192
IDLE_RATIO, REST_STEP_S = 0.05, 0.01
OWN_SIZE = 10_000
"""The exact search of so many patches has its turn at every larger size, too: what an index is measured by."""

IN_LISTS = "edge-uad in lists"

Search = Callable[[Float32], Int]
"""From queries (n, D) to the rows of their nearest patches, (n,)."""


@dataclass(frozen=True)
class Method:
    """A way to search."""

    name: str
    build: Callable[[Float32], Search]
    exact: bool = True
    in_parts: bool = False
    """Whether banks above WHOLE_MOST are measured, part by part."""
    growth: float = 1.0
    """How much faster than the bank the time to build grows; for the guess whether to build at all."""


@dataclass(frozen=True)
class Measured:
    """One method at one size."""

    method: str
    size: int
    seconds: list[float]
    build_s: float
    recall: float
    """Share of the patches for which none nearer than the row found is in the bank."""
    excess_ratio: float
    """How much farther than the nearest ones the rows found are, in the mean of the squared distances."""
    build_bytes: int = 0
    """Memory beside the patches that building took at most."""
    kept_bytes: int = 0
    """And what the search keeps of it."""

    @property
    def median_ms(self) -> float:
        """Of a frame."""
        return float(np.median(self.seconds)) * 1000


@dataclass
class Comparison:
    """All methods, all sizes."""

    measured: list[Measured] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    own_ms: dict[int, float] = field(default_factory=dict)
    """Median of the exact search of OWN_SIZE patches, measured in turn with those of each larger size."""

    def of(self, method: str, size: int) -> Measured | None:
        """What was measured of a method at a size."""
        return next((one for one in self.measured if (one.method, one.size) == (method, size)), None)


def main() -> int:
    options = parsed()
    sizes = [size for size in SIZES if size <= (SIZES[1] if options.quick else options.max_size)]
    bank, queries = real_patches()
    report = Report(
        name="search",
        title="Search",
        about=f"One frame's {len(queries)} foreground patches of {queries.shape[1]} numbers, one of "
        f"{bank.manifest.levels} levels, searched in banks drawn around the {len(bank.patches):,} patches of "
        f"{DRAWN_FRAMES} other frames of the packaged picture. In each round every method has its turn, the first call "
        "of each turn unmeasured.",
    )
    comparison = Comparison()
    chosen = [method for method in METHODS if method.name in (options.method or names())]
    for size in sizes:
        compare_at(size, chosen, bank, queries, comparison, quick=options.quick)
    add_results(report, comparison, sizes)
    report.close(options)
    return 0


def parsed() -> argparse.Namespace:
    parser = options_of(__doc__)
    parser.add_argument("--max-size", type=int, default=SIZES[-1], metavar="M", help="of the largest bank")
    parser.add_argument(
        "--method", action="append", choices=names(), help="compare these alone; all where none is named"
    )
    return parser.parse_args()


def real_patches() -> tuple[PatchBank, Float32]:
    """A bank of the default backbone's patches, and the first level of those of a frame that it has not seen."""
    frames = packaged_frames(DRAWN_FRAMES + 1)
    backbone = load_backbone(Path(provide_default_model()))
    bank = bank_of(frames, backbone, SilentProgress(), max_patches=None)
    manifest = bank.manifest
    embedder = make_embedder(
        backbone,
        geometry=Geometry.STRETCH,
        roi=None,
        bpm_kernel=manifest.bpm_kernel,
        bpm_threshold=manifest.bpm_threshold,
    )
    seen = embedder.embed(decoded(frames.messages[-1]).image)
    return bank, split_levels(seen.embedding.tokens[seen.mask.foreground], manifest.levels)[0]


def compare_at(
    size: int, methods: Sequence[Method], bank: PatchBank, queries: Float32, comparison: Comparison, *, quick: bool
) -> None:
    """Measure every method that can be at this size."""
    part_size = min(size, WHOLE_MOST)
    patches = split_levels(bank_of_size(bank, part_size).patches, bank.manifest.levels)[0]
    truth = PatchSearch(patches).nearest(queries)[0][:, 0]
    ready: list[tuple[Method, Search, float, tuple[int, int]]] = []
    for method in methods:
        reason = why_not(method, size, patches.nbytes, comparison)
        if reason:
            comparison.left_out.append(f"{method.name} at {size:,}: {reason}")
            continue
        say(f"{size:,} patches: {method.name}")
        tracemalloc.start()
        started_s = perf_counter()
        search = method.build(patches)
        built_s = perf_counter() - started_s
        kept_bytes, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        ready.append((method, search, built_s, (most_bytes, kept_bytes)))
    searches = [search for _, search, _, _ in ready]
    if size > OWN_SIZE:
        searches.append(edge_uad_search(patches[:: len(patches) // OWN_SIZE][:OWN_SIZE]))
    n_parts = size // part_size
    seconds = rounds(searches, queries, [n_parts] * len(ready) + [1] * (len(searches) - len(ready)), quick=quick)
    if size > OWN_SIZE:
        comparison.own_ms[size] = float(np.median(seconds.pop())) * 1000
    for (method, search, build_s, (most_bytes, kept_bytes)), taken in zip(ready, seconds, strict=True):
        found = squared_distances(queries, patches[search(queries)])
        recall = float(np.mean(found <= truth + SAME_DISTANCE))
        excess_ratio = max(float(found.mean() / truth.mean()) - 1, 0)
        comparison.measured.append(
            Measured(method.name, size, taken, build_s, recall, excess_ratio, most_bytes, kept_bytes)
        )


def why_not(method: Method, size: int, patches_bytes: int, comparison: Comparison) -> str | None:
    """Why a method is left out at a size; None where it is not."""
    if size > WHOLE_MOST and not method.in_parts:
        return f"not searched in parts of {WHOLE_MOST:,}"
    before = comparison.of(method.name, size // 10)
    if before is None and size > 1000:
        return "left out at the size before"
    if before is not None and before.build_s * 10 * method.growth > BUILD_MOST_S:
        return f"building it would take some {before.build_s * 10 * method.growth:.0f} s"
    if 2 * patches_bytes > available_bytes():
        return "not enough memory for the patches once more"
    return None


def rounds(searches: Sequence[Search], queries: Float32, n_parts: Sequence[int], *, quick: bool) -> list[list[float]]:
    """Seconds of each search, taken in turn, each once the threads of the one before have come to rest."""
    first_s = [
        seconds_of(lambda search=search: search(queries)) * parts
        for search, parts in zip(searches, n_parts, strict=True)
    ]
    least, most = (1, 2) if quick else REPETITIONS
    n_rounds = [min(max(int(BUDGET_S / 2 / max(one, 1e-9)), least), most) for one in first_s]
    seconds: list[list[float]] = [[] for _ in searches]
    for turn in range(max(n_rounds)):
        for search, parts, wanted, taken in zip(searches, n_parts, n_rounds, seconds, strict=True):
            if turn < wanted:
                await_rest()
                search(queries)
                taken.append(sum(seconds_of(lambda search=search: search(queries)) for _ in range(parts)))
    return seconds


def await_rest() -> None:
    """Until this process is idle: the threads of a BLAS go on for up to 100 ms, looking for more to do."""
    busy_ratio = 1.0
    while busy_ratio > IDLE_RATIO:
        before_s, worked_s = perf_counter(), process_time()
        sleep(REST_STEP_S)
        busy_ratio = (process_time() - worked_s) / (perf_counter() - before_s)


def edge_uad_search(patches: Float32) -> Search:
    search = PatchSearch(patches)
    return lambda queries: search.nearest(queries)[1][:, 0]


def in_lists(patches: Float32) -> Search:
    search = IndexedSearch(PatchSearch(patches), build_index(patches, levels=1, seed=0))
    return lambda queries: search.nearest(queries)[1][:, 0]


def faiss_flat(patches: Float32) -> Search:
    def search(queries: Float32) -> Int:
        rows: Int = faiss.knn(queries, patches, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
        return rows

    return search


def numpy_product(patches: Float32) -> Search:
    def search(queries: Float32) -> Int:
        best, rows = np.full(len(queries), -2, np.float32), np.zeros(len(queries), np.int64)
        for start, block in blocks(patches):
            cosines = queries @ block.T
            found = cosines.argmax(axis=1)
            better = (highest := np.take_along_axis(cosines, found[:, None], axis=1)[:, 0]) > best
            best[better], rows[better] = highest[better], found[better] + start
        return rows

    return search


def pruned(patches: Float32) -> Search:
    """Cosine ≤ leading part + product of what the rest can be: only where that reaches the best is it computed."""
    sample = patches[:: max(1, len(patches) // 20000)]
    turned_to = np.linalg.eigh(sample.T @ sample)[1][:, ::-1].astype(np.float32)

    def shortened(vectors: Float32) -> Float32:
        turned = vectors @ turned_to
        rest = np.linalg.norm(turned[:, PREFIX_DIM:], axis=1, keepdims=True)
        return np.ascontiguousarray(np.concatenate([turned[:, :PREFIX_DIM], rest], axis=1))

    short = np.concatenate([shortened(block) for _, block in blocks(patches)])

    def search(queries: Float32) -> Int:
        best, rows = np.full(len(queries), -2, np.float32), np.zeros(len(queries), np.int64)
        short_queries = shortened(queries)
        for start, block in blocks(short):
            bounds = short_queries @ block.T
            everyone = np.arange(len(queries))
            keep_best(best, rows, queries, patches, asking=everyone, candidates=bounds.argmax(axis=1) + start)
            asking, candidates = np.nonzero(bounds >= (best - SAME_DISTANCE)[:, None])
            keep_best(best, rows, queries, patches, asking=asking, candidates=candidates + start)
        return rows

    return search


def keep_best(best: Float32, rows: Int, queries: Float32, patches: Float32, *, asking: Int, candidates: Int) -> None:
    """Compute the candidates' cosines; change ``best`` and ``rows`` in place where they are higher."""
    cosines = np.vecdot(queries[asking], patches[candidates])
    before = best.copy()
    np.maximum.at(best, asking, cosines)
    won = (cosines == best[asking]) & (cosines > before[asking])
    rows[asking[won]] = candidates[won]


def faiss_ivf(patches: Float32) -> Search:
    n_lists = min(int(4 * np.sqrt(len(patches))), IVF_LISTS_MOST)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(patches.shape[1]), patches.shape[1], n_lists, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid, index.cp.niter = 1, IVF_ROUNDS
    index.train(patches[:: max(1, len(patches) // (IVF_SAMPLES_PER_LIST * n_lists))])
    index.add(patches)
    index.nprobe = IVF_PROBES
    return nearest_by(index)


def faiss_hnsw(patches: Float32) -> Search:
    index = faiss.IndexHNSWFlat(patches.shape[1], HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = HNSW_BUILD_DEPTH, HNSW_SEARCH_DEPTH
    index.add(patches)
    return nearest_by(index)


def nearest_by(index: "faiss.Index") -> Search:
    def search(queries: Float32) -> Int:
        rows: Int = index.search(queries, 1)[1][:, 0]
        return rows

    return search


METHODS = (
    Method("edge-uad", edge_uad_search, in_parts=True),
    Method("faiss flat", faiss_flat, in_parts=True),
    Method("numpy product", numpy_product),
    Method("pruned by components", pruned),
    Method(IN_LISTS, in_lists, exact=False, growth=1.5),
    Method(f"faiss IVF, {IVF_PROBES} lists read", faiss_ivf, exact=False, growth=3.2),
    Method(f"faiss HNSW, {HNSW_LINKS} links", faiss_hnsw, exact=False, growth=1.5),
)


def blocks(patches: Float32) -> Iterator[tuple[int, Float32]]:
    for start in range(0, len(patches), PREFIX_BLOCK_ROWS):
        yield start, patches[start : start + PREFIX_BLOCK_ROWS]


def squared_distances(queries: Float32, patches: Float32) -> Float32:
    """Of pairs."""
    squared: Float32 = 2 - 2 * np.vecdot(queries, patches)
    return squared


def available_bytes() -> int:
    """Available memory as Linux reports it; unbounded where it reports none."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return sys.maxsize
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable")), 0)


def add_results(report: Report, comparison: Comparison, sizes: Sequence[int]) -> None:
    """Table, plot, facts."""
    rows = [
        [
            one.method,
            f"{one.size:,}",
            f"{one.median_ms:.1f}",
            f"{min(one.seconds) * 1000:.1f}",
            str(len(one.seconds)),
            f"{one.build_s:.1f}",
            f"{one.recall:.3f}",
            f"{100 * one.excess_ratio:.2f}",
        ]
        for one in sorted(comparison.measured, key=lambda one: (one.size, names().index(one.method)))
    ]
    columns = ("method", "patches", "median ms", "least ms", "times", "built in s", "recall", "farther by %")
    report.add(Table("one frame's search", columns, rows, note=note_of(comparison, sizes)))
    series = {
        method.name: [spread_of(comparison.of(method.name, size)) for size in sizes]
        for method in METHODS
        if any(comparison.of(method.name, size) for size in sizes)
    }
    chart = LineChart(
        x=list(sizes),
        series=series,
        x_label="patches in the bank",
        y_label="ms per frame",
        log_x=True,
        log_y=True,
        title="search time of a frame against bank size",
    )
    report.plot("search.svg", chart)
    report.facts |= {
        "measured": [asdict(one) | {"median_ms": one.median_ms} for one in comparison.measured],
        "left_out": comparison.left_out,
        "own_ms": comparison.own_ms,
    }


def names() -> list[str]:
    return [method.name for method in METHODS]


def spread_of(one: Measured | None) -> Spread | None:
    return None if one is None else Spread(one.median_ms, min(one.seconds) * 1000, max(one.seconds) * 1000)


def note_of(comparison: Comparison, sizes: Sequence[int]) -> str:
    """Where approximate methods become faster, and what was left out."""
    measured = [method for method in METHODS if any(comparison.of(method.name, size) for size in sizes)]
    sentences = [crossover(method, comparison, sizes) for method in measured if not method.exact]
    sentences += lists_against_own(comparison)
    if sizes[-1] > WHOLE_MOST:
        sentences.append(f"Above {WHOLE_MOST:,} a bank is searched as parts of that size, one after the other.")
    if comparison.left_out:
        sentences.append(f"Left out: {'; '.join(comparison.left_out)}.")
    return " ".join(sentences)


def lists_against_own(comparison: Comparison) -> Iterator[str]:
    """What searching in lists takes against the exact search of OWN_SIZE patches, in turn with it."""
    for size, own_ms in comparison.own_ms.items():
        one = comparison.of(IN_LISTS, size)
        if one is not None:
            yield (
                f"{IN_LISTS} takes {one.median_ms / own_ms:.2f} times as long at {size:,} as the exact search of "
                f"{OWN_SIZE:,} in turn with it ({one.median_ms:.1f} against {own_ms:.1f} ms), is built in "
                f"{one.build_s:.1f} s with at most {one.build_bytes / 2**20:.0f} MiB beside the patches, and keeps "
                f"{one.kept_bytes / 2**20:.0f} MiB."
            )
    if any(one.method == IN_LISTS for one in comparison.measured):
        yield (
            "Drawn patches scatter alike in all directions, which short vectors hardly see: their recall is below that "
            "of real parts, which build-bank measures."
        )


def crossover(method: Method, comparison: Comparison, sizes: Sequence[int]) -> str:
    """From which size on an approximate method is faster than the exact search."""
    own = METHODS[0].name
    for size in sizes:
        exact, approximate = comparison.of(own, size), comparison.of(method.name, size)
        if exact and approximate and approximate.median_ms < exact.median_ms:
            return (
                f"{method.name} is faster than {own} from {size:,} patches on ({approximate.median_ms:.1f} against "
                f"{exact.median_ms:.1f} ms), with recall {approximate.recall:.3f}."
            )
    return f"{method.name} was nowhere faster than {own}."


if __name__ == "__main__":
    sys.exit(main())
