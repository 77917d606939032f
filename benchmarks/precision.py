"""Precision × runtime on real parts: what each costs, and what it does to the verdicts.

    python -m benchmarks.precision [--good FOLDER] [--test FOLDER] [--json FILE]

A bank of the good parts is built with each; all parts are judged by it, the good ones against one another. A test part
is good where its folder is called ``good``. Without folders: the frames packaged for ``edge-uad bench``, all good, so
that there is no AUROC. Times are of the inference alone, taken in turns, so that what disturbs the machine disturbs
all. What is not installed is left out and named.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bank_tools.bank.certify import CertificationImages, certificate_of, judge
from bank_tools.bench.frames import packaged_frames
from benchmarks.report import Report, Table, options_of
from edge_uad.cli.console import TerminalProgress, stderr
from edge_uad.errors import MissingExtraError
from edge_uad.inference.backbones import open_backbone
from edge_uad.inference.backbones.certificate import shortfalls
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.interfaces import Backbone
from edge_uad.records import Geometry
from edge_uad.sources.decode import read_image
from edge_uad.sources.folder import image_files
from export.default import provide_default_model
from export.fetch import fetch_weights, load_named
from export.request import ExportRequest
from export.to_int8 import export_int8, quantise_dynamically, spread

REFERENCE = "fp32 onnxruntime"
QUICK_IMAGES, QUICK_REPEATS = 6, 3
PACKAGED_IMAGES = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One precision in one runtime."""

    name: str
    min_ms: float
    median_ms: float
    time_ratio: float
    """Its fastest inference over that of fp32 in ONNX Runtime."""
    auroc: float | None
    flips: int
    n_judged: int
    largest_score_difference: float
    p99_score_difference: float
    beyond_tolerance: list[str]
    """Why it would not be certified; empty where it would."""


def main() -> int:
    options = parsed()
    report = Report(name="precision", title="Lower precision, and OpenVINO", about="")
    with tempfile.TemporaryDirectory(prefix="edge-uad-") as name:
        folder = Path(name)
        good = packaged(folder / "packaged") if options.good is None else image_files(options.good)
        images = CertificationImages(
            good=spread(good, QUICK_IMAGES if options.quick else options.n_good),
            test=[] if options.test is None else spread(image_files(options.test), options.n_test),
            bpm_threshold=options.bpm_threshold,
        )
        backbones = opened(folder, images.good, options.threads)
        times_ms = timed(backbones, images.good[0], QUICK_REPEATS if options.quick else options.repeats)
        rows = compared(backbones, times_ms, images)
    card = backbones[REFERENCE].card
    report.about = (
        f"{card.backbone}, {card.input_hw[1]}×{card.input_hw[0]} px; {len(images.good)} good parts make the banks and "
        f"calibrate int8, {len(images.test)} more are judged. Differences are to fp32 in ONNX Runtime."
    )
    report.add(table_of(rows))
    report.facts = {"n_good": len(images.good), "n_test": len(images.test), "rows": [asdict(row) for row in rows]}
    report.close(options)
    return 0


def parsed() -> argparse.Namespace:
    parser = options_of(__doc__)
    parser.add_argument("--good", metavar="FOLDER", help="good parts")
    parser.add_argument("--test", metavar="FOLDER", help="more parts")
    parser.add_argument("--n-good", type=int, default=100, help="so many of them, spread over the folder")
    parser.add_argument("--n-test", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--bpm-threshold", type=float, default=0.1)
    return parser.parse_args()


def packaged(folder: Path) -> list[Path]:
    folder.mkdir()
    files = []
    for index, message in enumerate(packaged_frames(PACKAGED_IMAGES).messages):
        files.append(folder / f"{index}.{message.encoding}")
        files[-1].write_bytes(message.payload)
    return files


def opened(folder: Path, good: Sequence[Path], threads: int) -> dict[str, Backbone]:
    plain, static, dynamic = provide_default_model(), folder / "static.onnx", folder / "dynamic.onnx"
    card = open_backbone(plain).card
    weights = fetch_weights(card.backbone, stderr)
    request = ExportRequest(
        backbone=card.backbone,
        input_hw=card.input_hw,
        layers=card.layers,
        attention_layer=card.attention_layer,
        licence=card.licence,
        weights_sha256=card.weights_sha256,
        mean=card.mean,
        std=card.std,
        join=card.join,
        neighbourhood=card.neighbourhood,
        top_ratio=card.top_ratio,
    )
    with stderr.status("quantising"):
        export_int8(load_named(card.backbone, weights), request, static, good=good)
        quantise_dynamically(plain, dynamic, card)
    variants = [
        (REFERENCE, plain, "cpu"),
        ("int8 static onnxruntime", static, "cpu"),
        ("int8 dynamic onnxruntime", dynamic, "cpu"),
        ("fp32 openvino", plain, "openvino"),
        ("int8 static openvino", static, "openvino"),
    ]
    found: dict[str, Backbone] = {}
    for name, path, provider in variants:
        try:
            found[name] = open_backbone(path, provider=provider, threads=threads)
        except MissingExtraError as error:
            stderr.print(f"{name} is left out: {error}", markup=False)
    return found


def timed(backbones: dict[str, Backbone], image: Path, repeats: int) -> dict[str, list[float]]:
    card = backbones[REFERENCE].card
    preprocessor = Preprocessor(
        geometry=Geometry.STRETCH, roi=None, input_hw=card.input_hw, mean=card.mean, std=card.std
    )
    pixels = preprocessor.pixels(read_image(image))[None]
    runs: list[tuple[str, Callable[[], object]]] = [
        (name, lambda backbone=backbone: backbone.embed(pixels)) for name, backbone in backbones.items()
    ]
    times_ms: dict[str, list[float]] = {name: [] for name in backbones}
    for _, run in runs:
        run()
    for _ in range(repeats):
        for name, run in runs:
            started_s = time.perf_counter()
            run()
            times_ms[name].append((time.perf_counter() - started_s) * 1e3)
    return times_ms


def compared(
    backbones: dict[str, Backbone], times_ms: dict[str, list[float]], images: CertificationImages
) -> list[Row]:
    progress = TerminalProgress()
    reference_id = backbones[REFERENCE].card.model_id
    reference = judge(backbones[REFERENCE], images, progress)
    rows = []
    for name, backbone in backbones.items():
        judged = reference if name == REFERENCE else judge(backbone, images, progress)
        found = certificate_of(reference, judged, images, reference_model_id=reference_id, runtime=name)
        rows.append(
            Row(
                name=name,
                min_ms=min(times_ms[name]),
                median_ms=float(np.median(times_ms[name])),
                time_ratio=min(times_ms[name]) / min(times_ms[REFERENCE]),
                auroc=found.auroc,
                flips=found.flips,
                n_judged=found.n_judged,
                largest_score_difference=found.largest_score_difference,
                p99_score_difference=found.p99_score_difference,
                beyond_tolerance=shortfalls(found),
            )
        )
    return rows


def table_of(rows: Sequence[Row]) -> Table:
    columns = ("", "min ms", "median ms", "time ratio", "AUROC", "flips", "p99 diff", "max diff", "certified")
    return Table(
        "precision × runtime",
        columns,
        [
            (
                row.name,
                f"{row.min_ms:.1f}",
                f"{row.median_ms:.1f}",
                f"{row.time_ratio:.2f}",
                "-" if row.auroc is None else f"{row.auroc:.4f}",
                f"{row.flips}/{row.n_judged}",
                f"{row.p99_score_difference:.6f}",
                f"{row.largest_score_difference:.6f}",
                "would not be" if row.beyond_tolerance else "would be",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
