"""Lower precisions, tried on a bank's own good parts and on synthetic defects while the bank is built.

The bank stays fp32, its patches and its calibration. What is measured is what will happen: pictures embedded in the
lower precision, searched in a bank of fp32 patches that had not seen them, against the fp32 threshold.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np

from bank_tools.bank.calibrate import Companions
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.recipe import Recipe, embedder_for
from bank_tools.bank.synthetic import with_defect
from bank_tools.bench.clock import seconds_of
from edge_uad import __version__
from edge_uad.errors import FrameError, MissingExtraError, UsageError
from edge_uad.inference.backbones import CPU_PROVIDERS
from edge_uad.inference.backbones.certificate import TOLERANCE, shortfalls
from edge_uad.inference.backbones.onnx import OTHER_RUNTIME
from edge_uad.inference.backbones.openvino import features_needed, openvino_is_installed
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.scoring import decide, image_score
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import (
    CertifiedPrecision,
    Float32,
    LowerPrecision,
    ModelCard,
    ParityCertificate,
    PatchDistances,
    Provider,
    UInt8,
    WantedPrecision,
)
from edge_uad.runtime.backbones import load_backbone

LOWER_PRECISIONS: tuple[LowerPrecision, ...] = ("int8", "bf16")
MOST_IMAGES = 50
"""So many good images are tried at most, and a synthetic defect on each: what they show hardly changes with more."""
WORTH_RATIO = 0.95
"""A precision that takes more of fp32's time than this is not worth a difference."""
TIMED_RUNS = 7
TRIAL_TOLERANCE = replace(TOLERANCE, score_ratio=0.1)
"""One bank and one model are compared with themselves: scores lie nearer together than those of two banks."""


@dataclass(frozen=True, slots=True)
class RefusedPrecision:
    """A precision that this bank is not judged in, and why."""

    precision: LowerPrecision
    reason: str


def possible_precisions(card: ModelCard, wanted: WantedPrecision, provider: Provider) -> tuple[LowerPrecision, ...]:
    """The lower precisions, among those wanted, that this processor and this installation can run an fp32 model in.

    Raises:
        UsageError: one is wanted by name, and cannot be.
    """
    if wanted == "fp32":
        return ()
    if wanted != "auto":
        _check_possible(card, wanted, provider)
        return (wanted,)
    if not _lowers(card, provider):
        return ()
    possible = tuple(precision for precision in LOWER_PRECISIONS if features_needed(precision))
    return possible if possible and openvino_is_installed() else ()


def would_gain_from_openvino(card: ModelCard, wanted: WantedPrecision, provider: Provider) -> bool:
    """Whether lower precisions are untried only because the [openvino] extra is not installed."""
    possible = any(map(features_needed, LOWER_PRECISIONS))
    return wanted == "auto" and possible and _lowers(card, provider) and not openvino_is_installed()


def _lowers(card: ModelCard, provider: Provider) -> bool:
    return card.precision == "fp32" and provider in CPU_PROVIDERS


def _check_possible(card: ModelCard, wanted: LowerPrecision, provider: Provider) -> None:
    remedy = "use --precision auto or fp32"
    if card.precision != "fp32":
        raise UsageError(f"--precision {wanted} is for an fp32 model, this one is {card.precision}; {remedy}")
    if provider not in CPU_PROVIDERS:
        raise UsageError(f"--precision {wanted} is for the processor, the provider is {provider}; {remedy}")
    if not features_needed(wanted):
        raise UsageError(f"this processor has nothing for --precision {wanted}; {remedy}")
    if not openvino_is_installed():
        raise MissingExtraError(f"--precision {wanted}", "openvino")


@dataclass(frozen=True, slots=True)
class _Candidate:
    precision: LowerPrecision
    embedder: Embedder
    embedding_ms: float
    fp32_embedding_ms: float


class PrecisionTrial:
    """Some of the good images and a synthetic defect on each, embedded in each precision that may be worth it.

    Args:
        candidates: at least one.
        reference: embeds in fp32.
        recipe: of the bank.
        total: how many good images there are; None where that is unknown.
        folder: of the temporary file of embeddings; None for the system's.
    """

    def __init__(
        self,
        candidates: Sequence[_Candidate],
        reference: Embedder,
        recipe: Recipe,
        *,
        total: int | None,
        folder: Path | None,
    ) -> None:
        self._candidates = candidates
        self._reference = reference
        self._recipe = recipe
        self._every = max(1, math.ceil((total or 0) / MOST_IMAGES))
        self._embeddings = EmbeddingStore(folder)

    def tries(self, number: int) -> bool:
        """Whether the image of this number is one of those tried."""
        return number % self._every == 0 and number // self._every < MOST_IMAGES

    def embed(self, image: UInt8, number: int) -> list[ForegroundEmbedding] | None:
        """One good image in every candidate, and the defect on it in fp32 and every candidate. From any thread.

        Returns:
            None where one of them cannot be embedded.
        """
        defect = with_defect(image, seed=self._recipe.seed, number=number, roi=self._recipe.roi)
        try:
            found = [self._reference.embed(defect)]
            for candidate in self._candidates:
                found += [candidate.embedder.embed(image), candidate.embedder.embed(defect)]
        except FrameError:
            return None
        return found

    def append(self, embeddings: Sequence[ForegroundEmbedding]) -> int:
        """Keep what :func:`embed` gave; by the number given back it is judged."""
        number = len(self._embeddings) // len(embeddings)
        for one in embeddings:
            self._embeddings.append(one)
        return number

    def judged_by(self, recipe: Recipe) -> "TrialScores":
        """Nothing yet, but ready to judge with the mask that was settled."""
        embeddings = self._embeddings
        if self._recipe.bpm_threshold is None and len(self._embeddings):
            embeddings = embeddings.masked(kernel=recipe.bpm_kernel, threshold=recipe.bpm_threshold or 0)
        return TrialScores(self._candidates, embeddings, recipe.top_ratio)


class TrialScores:
    """The scores of the images tried, in fp32 and in each candidate.

    Args:
        candidates: in the order of the embeddings.
        embeddings: of each image the defect in fp32, then of each candidate the good picture and the defect.
        top_ratio: as of the bank.
    """

    def __init__(self, candidates: Sequence[_Candidate], embeddings: EmbeddingStore, top_ratio: float) -> None:
        self._candidates = candidates
        self._embeddings = embeddings
        self._top_ratio = top_ratio
        self._scores: list[tuple[float, ...]] = []
        """Of each image the good picture in fp32, then as in the embeddings."""
        self._digests: list[str] = []

    def companions(self, numbers: Sequence[int | None]) -> Companions:
        """The pictures of each good image that are to be searched where it is.

        Args:
            numbers: of each good image the one that :meth:`PrecisionTrial.append` gave; None where it is not tried.
        """
        width = 1 + 2 * len(self._candidates)
        places = {
            image: range(number * width, (number + 1) * width)
            for image, number in enumerate(numbers)
            if number is not None
        }
        return Companions(self._embeddings, places)

    def judge(self, found: Sequence[PatchDistances], fp32_score: float, digest: str) -> None:
        """Score one image in every precision by a bank that has not seen it.

        Args:
            found: of its companions in that bank.
            fp32_score: of the good picture.
            digest: of its pixels.
        """
        scores = (image_score(one, top_ratio=self._top_ratio) for one in found)
        self._scores.append((fp32_score, *scores))
        self._digests.append(digest)

    def settled(
        self, threshold: float, *, model_id: str
    ) -> tuple[tuple[CertifiedPrecision, ...], tuple[RefusedPrecision, ...]]:
        """The precisions that keep the bank's verdicts, the fastest first, and those that do not.

        Args:
            threshold: of the bank.
            model_id: of its model.
        """
        certified, refused = [], []
        for place, candidate in enumerate(self._candidates):
            certificate = self._certificate(2 + 2 * place, threshold, model_id)
            if beyond := shortfalls(certificate):
                refused.append(RefusedPrecision(candidate.precision, ", ".join(beyond)))
                continue
            certified.append(
                CertifiedPrecision(
                    precision=candidate.precision,
                    features=features_needed(candidate.precision),
                    embedding_ms=candidate.embedding_ms,
                    fp32_embedding_ms=candidate.fp32_embedding_ms,
                    certificate=certificate,
                )
            )
        certified.sort(key=lambda one: one.embedding_ms)
        return tuple(certified), tuple(refused)

    def _certificate(self, place: int, threshold: float, model_id: str) -> ParityCertificate:
        scores = np.array(self._scores, np.float64).reshape(len(self._scores), 2 + 2 * len(self._candidates))
        reference, lowered = scores[:, :2], scores[:, place : place + 2]
        flips = sum(
            decide(before, threshold) != decide(after, threshold)
            for before, after in zip(reference.flat, lowered.flat, strict=True)
        )
        differences = np.abs(reference - lowered)
        return ParityCertificate(
            reference_model_id=model_id,
            runtime=OTHER_RUNTIME,
            n_good=len(scores),
            n_test=len(scores),
            images_digest=hashlib.sha256("".join(self._digests).encode()).hexdigest(),
            threshold=threshold,
            n_judged=scores[:, :2].size,
            flips=flips,
            auroc_reference=_auroc(reference),
            auroc=_auroc(lowered),
            largest_score_difference=float(differences.max(initial=0.0)),
            p99_score_difference=float(np.quantile(differences, 0.99)) if differences.size else 0.0,
            tolerance=TRIAL_TOLERANCE,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            made_by=f"edge-uad {__version__}",
        )


def _auroc(scores: np.ndarray) -> float | None:
    """Of defects, in the second column, among good parts, in the first; by pairs, without scikit-learn."""
    if not len(scores):
        return None
    good, defects = scores[None, :, 0], scores[:, None, 1]
    return float(np.mean((defects > good) + 0.5 * (defects == good)))


def prepare_trial(
    model: Path,
    reference: Embedder,
    recipe: Recipe,
    precisions: Sequence[LowerPrecision],
    *,
    total: int | None,
    workers: int,
    progress: Progress,
    folder: Path | None = None,
) -> tuple[PrecisionTrial | None, tuple[RefusedPrecision, ...]]:
    """Open a model in lower precisions, and keep those that are faster than fp32 here.

    Args:
        model: the file.
        reference: embeds in fp32, each picture on one core.
        recipe: of the bank.
        precisions: that this processor can run.
        total: how many good images there are; None where that is unknown.
        workers: how many pictures are embedded at a time.
        progress: shows the step.
        folder: of the temporary file of embeddings; None for the system's.

    Returns:
        None where none is faster; and those that are not.

    Raises:
        EdgeUadError: the model cannot be opened.
    """
    if not precisions:
        return None, ()
    backbones: dict[LowerPrecision, Backbone] = {}
    with progress.step("timing precisions", len(precisions), "precisions") as done:
        for precision in precisions:
            backbones[precision] = load_backbone(model, threads=1, precision=precision, at_once=workers)
            done(1)
    # on one core, as the others are, whatever the reference has
    times_ms = _embedding_times_ms(load_backbone(model, threads=1), backbones)
    candidates, refused = [], []
    for precision, (own_ms, fp32_ms) in times_ms.items():
        if own_ms > WORTH_RATIO * fp32_ms:
            refused.append(RefusedPrecision(precision, f"it takes {own_ms:.0f} ms where fp32 takes {fp32_ms:.0f}"))
            continue
        candidates.append(_Candidate(precision, embedder_for(backbones[precision], recipe), own_ms, fp32_ms))
    if not candidates:
        return None, tuple(refused)
    return PrecisionTrial(candidates, reference, recipe, total=total, folder=folder), tuple(refused)


def _embedding_times_ms(
    reference: Backbone, lowered: Mapping[LowerPrecision, Backbone]
) -> dict[LowerPrecision, tuple[float, float]]:
    """Of each precision the time of one picture, and that of fp32, all in turn."""
    pixels = np.zeros((1, 3, *reference.card.input_hw), np.float32)
    fp32_s: list[float] = []
    own_s: dict[LowerPrecision, list[float]] = {precision: [] for precision in lowered}
    for _ in range(TIMED_RUNS):
        fp32_s.append(_embedding_s(reference, pixels))
        for precision, backbone in lowered.items():
            own_s[precision].append(_embedding_s(backbone, pixels))
    return {precision: (1000 * median(times), 1000 * median(fp32_s)) for precision, times in own_s.items()}


def _embedding_s(backbone: Backbone, pixels: Float32) -> float:
    return seconds_of(lambda: backbone.embed(pixels))
