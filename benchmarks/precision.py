"""What a lower precision costs and wins on a bank of fp32: times, and what it does to verdicts on real sets.

    python -m benchmarks.precision [--set ROOT]… [--n-good N] [--n-test N] [--json FILE]

Of each category of each set the good parts make one bank, as ``edge-uad build-bank`` would, its certificates
included. Every test part is judged by it in each precision in turn, part by part, so that what disturbs the machine
disturbs all; the threshold is that of fp32 throughout. Times are of the inference alone, on all cores or ``--threads``.
Without a set: the frames packaged for ``edge-uad bench``, all good, so that there is neither AUROC nor recall. What
this processor or this installation lacks is left out and named.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from bank_tools.bank.build import BuiltBank, build_bank
from bank_tools.bank.good_images import embed_for_bank
from bank_tools.bank.precision_trial import RefusedPrecision, possible_precisions
from bank_tools.bank.recipe import embedder_for, recipe_for
from bank_tools.bench.clock import median_ratio, timed_call
from bank_tools.bench.frames import packaged_frames
from bank_tools.datasets import GOOD, Category, Sample, read_dataset
from bank_tools.evaluation.detection import draw_samples
from bank_tools.metrics.image import image_auroc, recall_at_rate, show
from benchmarks.report import Report, Table, options_of, say
from edge_uad.cli.console import TerminalProgress
from edge_uad.errors import FrameError, MissingExtraError
from edge_uad.inference.backbones.openvino import features_needed
from edge_uad.inference.inspector import Inspector
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import (
    AnyFrame,
    Embedding,
    Float32,
    Frame,
    InferencePrecision,
    ModelCard,
    Provider,
    UInt8,
    UnreadableFrame,
    Verdict,
)
from edge_uad.runtime.assemble import bank_embedder, load_backbone_for_many
from edge_uad.runtime.backbones import load_backbone
from edge_uad.sources.decode import decode_image
from export.default import provide_default_model

REFERENCE = "fp32 onnxruntime"
VARIANTS: Mapping[str, tuple[Provider, InferencePrecision]] = {
    REFERENCE: ("cpu", "fp32"),
    "fp32 openvino": ("openvino", "fp32"),
    "bf16": ("cpu", "bf16"),
    "int8": ("cpu", "int8"),
}
STATION = "precision"
FALSE_ALARM_RATE = 0.05
"""Of the test's good parts, at which recall is compared: free of the threshold."""
PACKAGED_GOOD, PACKAGED_TEST = 24, 12
QUICK_GOOD, QUICK_TEST = 6, 4


@dataclass(frozen=True, slots=True)
class Row:
    """One precision on one set."""

    set: str
    precision: str
    min_ms: float
    median_ms: float
    time_ratio: float
    """Median over the parts of its time over that of fp32 in ONNX Runtime for the same part."""
    auroc: float | None
    recall: float | None
    """At a false-alarm rate of 5 % among the test's own good parts."""
    flips: int
    n_judged: int
    p99_difference: float
    """99th percentile of the differences of scores from fp32's, as a part of the threshold."""
    largest_difference: float
    certificate: str
    """What the bank says of it; empty for fp32."""


@dataclass
class TimedBackbone:
    """The same backbone, the duration of each inference kept. Implements Backbone."""

    backbone: Backbone
    seconds: list[float] = field(default_factory=list)

    @property
    def card(self) -> ModelCard:
        """The model's."""
        return self.backbone.card

    def embed(self, pixels: Float32) -> list[Embedding]:
        """As the backbone does."""
        duration_s, found = timed_call(lambda: self.backbone.embed(pixels))
        self.seconds.append(duration_s)
        return found


@dataclass(frozen=True)
class PackagedPicture:
    """An encoded frame. Implements ImageOrigin."""

    payload: bytes

    def image(self) -> UInt8:
        """uint8 (H, W, 3), RGB."""
        return decode_image(self.payload)

    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.payload).hexdigest()


def main() -> int:
    options = parsed()
    report = Report(name="precision", title="Lower precision on the processor", about="")
    model, progress = provide_default_model(), TerminalProgress()
    backbones, missing = opened(model, options.threads)
    rows: list[Row] = []
    notes = list(missing)
    for name, category in categories(options.set):
        good = draw_samples(category.good, QUICK_GOOD if options.quick else options.n_good, seed=0)
        test = draw_samples(category.test, QUICK_TEST if options.quick else options.n_test, seed=0)
        say(f"{name}: {len(good)} good parts, {len(test)} test parts")
        built, slow = bank_of(good, model, options.threads, progress)
        refused = [*slow, *built.refused_precisions]
        notes += [f"{name}: {one.precision} is not certified, {one.reason}." for one in refused]
        rows += rows_of(name, judged(backbones, built, test, progress), built, refused, test)
    card = backbones[REFERENCE].card
    report.about = (
        f"{card.backbone}, {card.input_hw[1]}×{card.input_hw[0]} px. One fp32 bank of each set's good parts, at "
        f"most {options.n_good} of them, by the default recipe; its test parts, at most {options.n_test}, judged "
        "in each precision in turn against the fp32 threshold. Times are of the inference alone; the ratio is the "
        f"median over the parts. Recall is taken where {FALSE_ALARM_RATE:.0%} of the test's own good parts are "
        "false alarms. Flips are verdicts other than those of fp32 in ONNX Runtime, differences those of scores, "
        "as parts of the threshold. The certificate is the bank's own, of good parts and synthetic defects alone: "
        "flips, and the 99th percentile of the differences."
    )
    report.add(table_of(rows, notes))
    report.facts = {"rows": [asdict(row) for row in rows], "notes": notes}
    report.close(options)
    return 0


def parsed() -> argparse.Namespace:
    parser = options_of(__doc__)
    parser.add_argument(
        "--set", type=Path, action="append", default=[], metavar="ROOT", help="a dataset's folder; may be repeated"
    )
    parser.add_argument("--n-good", type=int, default=100, help="good parts drawn of each category, at most")
    parser.add_argument("--n-test", type=int, default=300, help="test parts drawn of each category, at most")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 for all cores")
    return parser.parse_args()


def categories(roots: Sequence[Path]) -> Iterator[tuple[str, Category]]:
    """Each category of each set and what its rows are called; the packaged frames where there is no set."""
    if not roots:
        samples = [
            Sample(name=str(index), kind=GOOD, anomalous=False, origin=PackagedPicture(message.payload))
            for index, message in enumerate(packaged_frames(PACKAGED_GOOD + PACKAGED_TEST).messages)
        ]
        yield (
            "packaged",
            Category(name="packaged", good=tuple(samples[:PACKAGED_GOOD]), test=tuple(samples[PACKAGED_GOOD:])),
        )
    for root in roots:
        dataset = read_dataset(root)
        for category in dataset.categories:
            alone = len(dataset.categories) == 1
            yield dataset.name if alone else f"{dataset.name}/{category.name}", category


def opened(model: Path, threads: int) -> tuple[dict[str, TimedBackbone], list[str]]:
    """The model in every precision that is possible here, and a sentence for each that is not."""
    found: dict[str, TimedBackbone] = {}
    missing = []
    for name, (provider, precision) in VARIANTS.items():
        if precision != "fp32" and not features_needed(precision):
            missing.append(f"{name} is left out: this processor has nothing for it.")
            continue
        try:
            found[name] = TimedBackbone(load_backbone(model, provider=provider, threads=threads, precision=precision))
        except MissingExtraError as error:
            missing.append(f"{name} is left out: {error}.")
    for sentence in missing:
        say(sentence)
    return found, missing


def frames_of(samples: Sequence[Sample]) -> Iterator[AnyFrame]:
    for number, sample in enumerate(samples):
        now = time.time_ns(), time.monotonic_ns()
        try:
            image = sample.image()
        except FrameError as error:
            yield UnreadableFrame(
                station=STATION,
                frame_id=number,
                captured_at_ns=now[0],
                captured_mono_ns=now[1],
                part_id=sample.name,
                reason=str(error),
            )
            continue
        yield Frame(
            station=STATION,
            frame_id=number,
            captured_at_ns=now[0],
            captured_mono_ns=now[1],
            part_id=sample.name,
            image=image,
        )


def bank_of(
    good: Sequence[Sample], model: Path, threads: int, progress: Progress
) -> tuple[BuiltBank, tuple[RefusedPrecision, ...]]:
    """As ``edge-uad build-bank`` makes it, and the precisions that it does not try."""
    backbone, workers = load_backbone_for_many(model, threads=threads)
    recipe = recipe_for(backbone.card)
    embedder = embedder_for(backbone, recipe)
    possible = possible_precisions(backbone.card, "auto", "cpu")
    images, slow = embed_for_bank(
        frames_of(good), embedder, recipe, progress, model=model, precisions=possible, total=len(good), workers=workers
    )
    return build_bank(images, recipe=recipe, embedder=embedder, progress=progress), slow


def judged(
    backbones: Mapping[str, TimedBackbone], built: BuiltBank, test: Sequence[Sample], progress: Progress
) -> dict[str, tuple[list[Verdict], list[float]]]:
    """The verdicts and the inferences' durations of each precision, part by part."""
    inspectors = {
        name: Inspector(embedder=bank_embedder(backbone, built.bank.manifest), bank=built.bank)
        for name, backbone in backbones.items()
    }
    warm = np.zeros((1, 3, *backbones[REFERENCE].card.input_hw), np.float32)
    for backbone in backbones.values():
        backbone.embed(warm)
        backbone.seconds.clear()
    verdicts: dict[str, list[Verdict]] = {name: [] for name in backbones}
    with progress.step("judging", len(test), "parts") as done:
        for frame in frames_of(test):
            for name, inspector in inspectors.items():
                verdicts[name].append(inspector.inspect(frame))
            done(1)
    return {name: (verdicts[name], backbone.seconds.copy()) for name, backbone in backbones.items()}


def rows_of(
    name: str,
    found: Mapping[str, tuple[Sequence[Verdict], Sequence[float]]],
    built: BuiltBank,
    refused: Sequence[RefusedPrecision],
    test: Sequence[Sample],
) -> list[Row]:
    reference, reference_s = found[REFERENCE]
    said: dict[str, str] = {one.precision: "no" for one in refused}
    for certified in built.bank.manifest.precisions:
        of_bank = certified.certificate
        share = of_bank.p99_score_difference / of_bank.threshold
        said[certified.precision] = f"{of_bank.flips}/{of_bank.n_judged}, {share:.3f}"
    anomalous = [sample.anomalous for sample in test]
    rows = []
    for precision, (verdicts, seconds) in found.items():
        both = [(one.score, other.score) for one, other in zip(reference, verdicts, strict=True)]
        differences = [
            abs(before - after) / built.bank.manifest.threshold
            for before, after in both
            if before is not None and after is not None
        ]
        # a part without a score is rejected, whatever the threshold
        scores = [np.inf if one.score is None else one.score for one in verdicts]
        scored = [(bad, one.score) for bad, one in zip(anomalous, verdicts, strict=True) if one.score is not None]
        rows.append(
            Row(
                set=name,
                precision=precision,
                min_ms=1000 * min(seconds, default=np.nan),
                median_ms=1000 * float(np.median(seconds)) if seconds else np.nan,
                time_ratio=median_ratio(seconds, reference_s),
                auroc=image_auroc([bad for bad, _ in scored], [score for _, score in scored]),
                recall=recall_at_rate(anomalous, scores, FALSE_ALARM_RATE).recall,
                flips=sum(one.decision != other.decision for one, other in zip(reference, verdicts, strict=True)),
                n_judged=len(verdicts),
                p99_difference=float(np.quantile(differences, 0.99)) if differences else 0.0,
                largest_difference=max(differences, default=0.0),
                certificate=said.get(precision, ""),
            )
        )
    return rows


def table_of(rows: Sequence[Row], notes: Sequence[str]) -> Table:
    times, verdicts = ("min ms", "median ms", "time ratio"), ("AUROC", "recall at 5 %", "flips", "p99 diff", "max diff")
    return Table(
        "precisions",
        ("set", "precision", *times, *verdicts, "certificate"),
        [
            (
                row.set,
                row.precision,
                f"{row.min_ms:.1f}",
                f"{row.median_ms:.1f}",
                f"{row.time_ratio:.2f}",
                show(row.auroc),
                show(row.recall, 3),
                f"{row.flips}/{row.n_judged}",
                f"{row.p99_difference:.4f}",
                f"{row.largest_difference:.4f}",
                row.certificate,
            )
            for row in rows
        ],
        note=" ".join(notes),
    )


if __name__ == "__main__":
    sys.exit(main())
