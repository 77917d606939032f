"""Parity of a lower precision with fp32: banks of the same good parts from both models, their verdicts compared."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bank_tools.bank.build import BuiltBank, build_bank
from bank_tools.bank.good_images import GoodImages, embed_all
from bank_tools.bank.recipe import embedder_for, recipe_for
from bank_tools.metrics.image import image_auroc
from edge_uad import __version__
from edge_uad.errors import UsageError
from edge_uad.files import sha256_of_file
from edge_uad.inference.backbones.certificate import TOLERANCE
from edge_uad.inference.inspector import Inspector
from edge_uad.inference.scoring import decide
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import Box, Decision, ModelCard, ParityCertificate
from edge_uad.runtime.assemble import bank_embedder
from edge_uad.sources.folder import FolderSource, part_name
from edge_uad.sources.recorded import frames_of

STATION = "certify"
GOOD_FOLDER = "good"
"""A test image is good where its folder is called so; every other one is anomalous."""


@dataclass(frozen=True, slots=True)
class PrecisionVerdicts:
    """The scores and decisions of one model, in an order that is the same for every model."""

    threshold: float
    scores: tuple[float | None, ...]
    """Of the good images, each against the others, then of the test images; None where it could not be judged."""
    decisions: tuple[Decision, ...]
    bpm_threshold: float
    """Of the bank's mask, as it was told or decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificationImages:
    """The images and the settings that both models are compared with."""

    good: Sequence[Path]
    """Both banks are built from these."""
    test: Sequence[Path] = ()
    bpm_threshold: float | None = None
    roi: Box | None = None
    false_alarm_rate: float = 0.01

    def anomalous(self) -> list[bool]:
        """Of each test image."""
        return [path.parent.name != GOOD_FOLDER for path in self.test]

    def digest(self) -> str:
        """SHA-256 over the digests of the files."""
        digests = (sha256_of_file(path) for path in (*self.good, *self.test))
        return hashlib.sha256("".join(digests).encode()).hexdigest()


def check_pair(reference: ModelCard, lowered: ModelCard) -> None:
    """The two models differ in their precision alone.

    Raises:
        UsageError: they do not, or the reference is no fp32 model, or the other one is.
    """
    if reference.precision != "fp32":
        raise UsageError(f"--against is a model of precision {reference.precision}; name the fp32 one")
    if lowered.precision == "fp32":
        raise UsageError("the model is fp32 and needs no certificate")
    same = ("weights_sha256", "input_hw", "layers", "attention_layer", "join", "neighbourhood", "mean", "std")
    for name in same:
        if getattr(reference, name) != getattr(lowered, name):
            raise UsageError(
                f"the two models differ in {name}: {getattr(reference, name)} in --against, {getattr(lowered, name)} "
                "in the model; export both with the same options but --precision"
            )


def judge(
    backbone: Backbone, images: CertificationImages, progress: Progress, *, folder: Path | None = None
) -> PrecisionVerdicts:
    """Build a bank of the good images with one model; judge them against one another, and the test images.

    Args:
        backbone: the model.
        images: good and test images, and how they are judged.
        progress: shows every step.
        folder: of the temporary file of embeddings; None for the system's.

    Raises:
        UsageError: fewer than two good images can be used.
    """
    recipe = replace(
        recipe_for(backbone.card),
        bpm_threshold=images.bpm_threshold,
        roi=images.roi,
        false_alarm_rate=images.false_alarm_rate,
    )
    embedder = embedder_for(backbone, recipe)
    source = FolderSource(STATION, list(images.good))
    good = embed_all(frames_of(source), embedder, len(images.good), progress, folder=folder)
    built = build_bank(good, recipe=recipe, embedder=embedder, progress=progress)
    scores = _good_scores(good, built, images.good)
    threshold = built.bank.manifest.threshold
    decisions = [Decision.INVALID if score is None else decide(score, threshold) for score in scores]
    inspector = Inspector(embedder=bank_embedder(backbone, built.bank.manifest), bank=built.bank)
    with progress.step("judging", len(images.test), "images") as done:
        for frame in frames_of(FolderSource(STATION, list(images.test))) if images.test else ():
            verdict = inspector.inspect(frame)
            scores.append(verdict.score)
            decisions.append(verdict.decision)
            done(1)
    return PrecisionVerdicts(threshold, tuple(scores), tuple(decisions), built.bank.manifest.bpm_threshold)


def certificate_of(
    reference: PrecisionVerdicts,
    lowered: PrecisionVerdicts,
    images: CertificationImages,
    *,
    reference_model_id: str,
    runtime: str,
) -> ParityCertificate:
    """Compare the two models' verdicts; :func:`shortfalls` says whether they agree well enough."""
    judged = [
        (before, after)
        for before, after in zip(reference.decisions, lowered.decisions, strict=True)
        if (before, after) != (Decision.INVALID, Decision.INVALID)
    ]
    both = [
        (before, after)
        for before, after in zip(reference.scores, lowered.scores, strict=True)
        if before is not None and after is not None
    ]
    differences = np.abs(np.subtract(*np.asarray(both, np.float64).reshape(-1, 2).T))
    return ParityCertificate(
        reference_model_id=reference_model_id,
        runtime=runtime,
        n_good=len(images.good),
        n_test=len(images.test),
        images_digest=images.digest(),
        threshold=reference.threshold,
        n_judged=len(judged),
        flips=sum(before != after for before, after in judged),
        auroc_reference=auroc_of(reference, images),
        auroc=auroc_of(lowered, images),
        largest_score_difference=float(differences.max(initial=0.0)),
        p99_score_difference=float(np.quantile(differences, 0.99)) if len(differences) else 0.0,
        tolerance=TOLERANCE,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=f"edge-uad {__version__}",
    )


def auroc_of(judged: PrecisionVerdicts, images: CertificationImages) -> float | None:
    """Image AUROC of the test images that could be judged; None where they are not of both kinds."""
    scores = judged.scores[len(images.good) :]
    scored = [(bad, score) for bad, score in zip(images.anomalous(), scores, strict=True) if score is not None]
    return image_auroc([bad for bad, _ in scored], [score for _, score in scored])


def _good_scores(good: GoodImages, built: BuiltBank, files: Sequence[Path]) -> list[float | None]:
    """In the order of the files; None for those that were skipped."""
    skipped = {name for name, _ in (*good.unreadable, *good.empty)}
    scores = iter(built.scores.tolist())
    return [None if part_name(path, None) in skipped else next(scores) for path in files]
