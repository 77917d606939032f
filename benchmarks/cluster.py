"""How building a bank gets faster with the workers of a Ray cluster, and which part stays serial.

    python -m benchmarks.cluster [--images 48] [--quick]

What a task costs, and what stays on the machine that asks, is measured on this machine. The number of workers is
simulated: each is a process of Ray's own that is sent the real pictures and embeddings and sends real ones back, but
waits as long as an inference, or a fold of the calibration, takes on one core, instead of computing. So more workers
than cores can be shown; what they would do to each other's caches and memory on one machine cannot.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that `python benchmarks/cluster.py` works anywhere
from bank_tools.bank.build import build_bank
from bank_tools.bank.calibrate import cross_distances, fold_count
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.recipe import embedder_for, recipe_for
from bank_tools.bench.clock import seconds_of
from bank_tools.bench.frames import decoded, packaged_frames
from bank_tools.bench.machine import machine
from bank_tools.cluster.backbone import ClusterBackbone
from bank_tools.cluster.connect import prepare_local_cluster
from bank_tools.cluster.ray_cluster import RayCluster
from bank_tools.report.charts import LineChart, Spread
from benchmarks.report import Report, Table, options_of, say
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.net.wire import FrameMessage
from edge_uad.progress import SilentProgress
from edge_uad.records import AnyFrame, Embedding, Float32, ModelCard, PatchDistances
from edge_uad.runtime.assemble import load_backbone_for_many
from export.default import provide_default_model

WORKERS = (1, 2, 4, 8, 16)
N_IMAGES = 48
N_DIFFERENT = 16
N_TIMED = 5
STORE_BYTES = 2 * 2**30
TIMEOUT_S = 1200


@dataclass(frozen=True)
class Costs:
    """Of the parts of one bank, in seconds on this machine."""

    n_images: int
    decode_s: float
    """Of a picture, on the machine that asks."""
    preprocess_s: float
    """The same."""
    inference_s: float
    """Of a picture, a task on one core."""
    fold_s: float
    """Of a fold of the calibration, a task on one core."""
    serial_s: float
    """Of the mask's decision and the choice of the bank's own coreset, on the machine that asks."""


@dataclass(frozen=True)
class WaitingModel:
    """Waits as long as an inference takes, and gives an embedding of the right size."""

    seconds: float
    card: ModelCard

    def __call__(self, image: Float32) -> Embedding:
        """One picture's."""
        begun_s = time.monotonic()
        found = drawn_embedding(self.card, seed=int(image[0, 0, 0] > 0))
        time.sleep(max(0.0, self.seconds - (time.monotonic() - begun_s)))
        return found


@dataclass(frozen=True)
class WaitingFold:
    """Waits as long as a fold takes, and gives distances of the right size."""

    seconds: float
    card: ModelCard

    def __call__(self, others: EmbeddingStore) -> Callable[[ForegroundEmbedding], PatchDistances]:
        """A bank of some images, to be searched."""
        time.sleep(self.seconds)
        n = len(others.mask(0).foreground)
        zeros = PatchDistances(
            squared=np.zeros(n, np.float32), nearest=np.zeros(n, np.int64), grid_hw=self.card.grid_hw
        )
        return lambda _: zeros


def drawn_embedding(card: ModelCard, *, seed: int) -> Embedding:
    n = card.grid_hw[0] * card.grid_hw[1]
    tokens = np.random.default_rng(seed).random((n, card.dim), np.float32)
    return Embedding(tokens=tokens, attention=np.ones(n, np.float32), grid_hw=card.grid_hw)


def decoded_all(messages: Iterable[FrameMessage]) -> Iterator[AnyFrame]:
    return (decoded(message) for message in messages)


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--images", type=int, default=N_IMAGES, help="good pictures of the bank")
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--costs", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.workers:
        print(json.dumps(simulated(options.workers, Costs(**json.loads(options.costs)))))
        return 0
    begun_s = time.monotonic()
    n_images, numbers = (8, WORKERS[:2]) if options.quick else (options.images, WORKERS)
    say(f"what a bank of {n_images} pictures costs here")
    costs = measured(n_images)
    found = {}
    for n in numbers:
        say(f"{n} simulated workers")
        command = [
            sys.executable,
            "-m",
            "benchmarks.cluster",
            "--workers",
            str(n),
            "--costs",
            json.dumps(asdict(costs)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            say(done.stderr)
            return 1
        found[n] = json.loads(done.stdout.splitlines()[-1])
    show(options, costs, found, begun_s=begun_s)
    return 0


class TimedOneByOne:
    """Implements Spread: here, one after the other, with the seconds that each item took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """The results."""
        for item in items:
            begun_s = time.perf_counter()
            with threadpool_limits(1):  # as a worker has one core
                found = list(work(item))
            self.seconds.append(time.perf_counter() - begun_s)
            yield found


def measured(n_images: int) -> Costs:
    """Every part, by the code that build-bank runs."""
    backbone, workers = load_backbone_for_many(provide_default_model())
    recipe = replace(recipe_for(backbone.card), search_threads=1)
    embedder = embedder_for(backbone, recipe)
    encoded = packaged_frames(N_DIFFERENT)
    messages = encoded.first(N_TIMED)
    frames = [decoded(message) for message in messages]
    pixels = [embedder.pixels(frame.image) for frame in frames]
    decode_s = [seconds_of(partial(decoded, message)) for message in messages]
    preprocess_s = [seconds_of(partial(embedder.pixels, frame.image)) for frame in frames]
    inference_s = [seconds_of(partial(backbone.embed, one[None])) for one in pixels]
    images = embed_all(decoded_all(encoded.first(n_images)), embedder, n_images, SilentProgress(), workers=workers)
    folds = TimedOneByOne()
    built_s = seconds_of(
        partial(build_bank, images, recipe=recipe, embedder=embedder, progress=SilentProgress(), spread=folds)
    )
    return Costs(
        n_images=n_images,
        decode_s=min(decode_s),
        preprocess_s=min(preprocess_s),
        inference_s=min(inference_s),
        fold_s=min(folds.seconds),
        serial_s=built_s - sum(folds.seconds),
    )


def simulated(n_workers: int, costs: Costs) -> dict[str, float]:
    """Seconds of embedding and of calibrating with so many workers that wait."""
    folder = prepare_local_cluster()
    import ray  # noqa: PLC0415  # reads at its import what was just prepared

    quiet = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    ray.init(num_cpus=n_workers, object_store_memory=STORE_BYTES, _temp_dir=folder, **quiet)
    cluster = RayCluster(ray, f"of {n_workers} that wait")
    backbone, _ = load_backbone_for_many(provide_default_model())
    card = backbone.card
    del backbone
    waiting = ClusterBackbone(card, cluster.on_workers(WaitingModel(costs.inference_s, card)))
    embedder = embedder_for(waiting, recipe_for(card))
    n_at_a_time = cluster.n_at_a_time
    encoded = packaged_frames(N_DIFFERENT)
    # every worker is started and has imported what it needs
    embed_all(decoded_all(encoded.first(3 * n_workers)), embedder, None, SilentProgress(), workers=n_at_a_time)
    begun_s = time.perf_counter()
    images = embed_all(
        decoded_all(encoded.first(costs.n_images)), embedder, None, SilentProgress(), workers=n_at_a_time
    )
    embedded_s = time.perf_counter()
    search_among = WaitingFold(costs.fold_s, card)
    n_scored = sum(1 for _ in cross_distances(images.embeddings, search_among, seed=0, spread=cluster.spread))
    calibrated_s = time.perf_counter()
    assert n_scored == len(images.embeddings) == costs.n_images  # noqa: S101  # a rate of nothing would look good
    return {"embedding": embedded_s - begun_s, "calibrating": calibrated_s - embedded_s}


def show(options: argparse.Namespace, costs: Costs, found: dict[int, dict[str, float]], *, begun_s: float) -> None:
    n_folds = fold_count(costs.n_images)
    tasks_s = costs.n_images * costs.inference_s + n_folds * costs.fold_s
    report = Report(
        name="cluster",
        title="Beyond one machine",
        started_s=begun_s,
        about=(
            f"A bank of {costs.n_images} pictures of 1280×960 px by the default model, on {machine()['CPU']}. "
            "What a task costs was measured, the least of several times; the workers are simulated: they get and send "
            "real pictures and embeddings through Ray, and wait as long as the inference or the fold takes instead of "
            "computing. The serial part, deciding on the mask and choosing the bank's own coreset, was measured once "
            "and is the same in every row."
        ),
    )
    report.add(
        Table(
            "what a bank costs",
            ("part", "s each", "how many", "s", "where"),
            [
                part("decoding", costs.decode_s, costs.n_images, "the machine that asks, several at a time"),
                part("preprocessing", costs.preprocess_s, costs.n_images, "the same"),
                part("inference", costs.inference_s, costs.n_images, "workers, one core each"),
                part("fold of the calibration", costs.fold_s, n_folds, "workers, one core each"),
                part("mask and coreset", costs.serial_s, 1, "the machine that asks: the serial part"),
            ],
        )
    )
    numbers = list(found)
    speed_up: dict[str, list[float]] = {
        "linear": [float(n) for n in numbers],
        "embedding": [costs.n_images * costs.inference_s / found[n]["embedding"] for n in numbers],
        "calibrating": [n_folds * costs.fold_s / found[n]["calibrating"] for n in numbers],
        "whole bank": [(tasks_s + costs.serial_s) / (sum(found[n].values()) + costs.serial_s) for n in numbers],
    }
    rows = [
        [
            str(n),
            *(f"{seconds:.1f}" for seconds in found[n].values()),
            f"{costs.serial_s:.1f}",
            *(f"{speed_up[name][at]:.2f}" for name in ("embedding", "calibrating", "whole bank")),
        ]
        for at, n in enumerate(numbers)
    ]
    columns = ("workers", "embedding s", "calibrating s", "serial s", "embedding ×", "calibrating ×", "whole bank ×")
    note = f"Calibrating has {n_folds} folds: more workers than these find no task."
    report.add(Table("simulated workers", columns, rows, note=note))
    report.plot(
        "cluster.svg",
        LineChart(
            x=[float(n) for n in numbers],
            series={name: [Spread.of([value]) for value in values] for name, values in speed_up.items()},
            x_label="simulated workers",
            y_label="times as fast as one core",
            from_zero=True,
            references={f"serial part alone ({costs.serial_s:.1f} s)": (tasks_s + costs.serial_s) / costs.serial_s},
            title="times as fast as one core, against simulated workers",
        ),
    )
    report.facts |= {"costs": asdict(costs), "seconds": found, "speed_up": speed_up}
    report.close(options)


def part(name: str, each_s: float, n: int, where: str) -> list[str]:
    return [name, f"{each_s:.3f}", str(n), f"{each_s * n:.1f}", where]


if __name__ == "__main__":
    sys.exit(main())
