"""Inspector: frames in, verdicts out. This file reads as the algorithm."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from edge_uad.errors import FrameError
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.masking import foreground
from edge_uad.inference.overlay import at_most, overlay, overlay_anchor
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.inference.scoring import decide, heatmap, image_score, p_value, peak
from edge_uad.interfaces import Backbone
from edge_uad.records import (
    AnyFrame,
    BankManifest,
    Decision,
    Embedding,
    Float32,
    Frame,
    InferencePrecision,
    ModelInput,
    PatchMask,
    UInt8,
    UnreadableFrame,
    Verdict,
)
from edge_uad.stages import StageTimer, timed

BATCH_TOLERANCE = 1e-5
"""By so much the scores of a batch may differ from those of the same frames alone: a matrix product's last bits."""


@dataclass(frozen=True, slots=True)
class ForegroundEmbedding:
    """An image's embedding, and which of its patches show the object."""

    embedding: Embedding
    mask: PatchMask


class Embedder:
    """Image → embedding and mask: the part of the way that bank building and inspection share.

    Args:
        backbone: the frozen ViT.
        preprocessor: as the bank demands.
        bpm_kernel: odd.
        bpm_threshold: 0 keeps every patch.
        on_stage: called with each stage's duration; None measures nothing.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        preprocessor: Preprocessor,
        bpm_kernel: int,
        bpm_threshold: float,
        on_stage: StageTimer | None = None,
    ) -> None:
        self.backbone = backbone
        self._on_stage = on_stage
        self.preprocessor = preprocessor
        self._bpm_kernel = bpm_kernel
        self._bpm_threshold = bpm_threshold

    def pixels(self, image: UInt8) -> Float32:
        """float32 (3, h, w), ready for the backbone.

        Raises:
            FrameError: the image cannot be brought to the model's input.
        """
        with self.timed("preprocess"):
            return self.preprocessor.pixels(image)

    def run_backbone(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch, float32 (B, 3, h, w)."""
        with self.timed("backbone"):
            return self.backbone.embed(pixels)

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Measure the block as a stage."""
        return timed(self._on_stage, stage)

    def mask(self, embedding: Embedding) -> ForegroundEmbedding:
        """Check one image's embedding and mask its background.

        Raises:
            FrameError: the embedding holds NaN or infinity, or no patch is foreground.
        """
        if not (np.isfinite(embedding.tokens).all() and np.isfinite(embedding.attention).all()):
            raise FrameError("the backbone gave values that are not finite")
        with self.timed("masking"):
            mask = foreground(
                embedding.attention, embedding.grid_hw, kernel=self._bpm_kernel, threshold=self._bpm_threshold
            )
        if not mask.foreground.any():
            raise FrameError("no patch is foreground: nothing to judge")
        return ForegroundEmbedding(embedding, mask)

    def embed(self, image: UInt8) -> ForegroundEmbedding:
        """One image, all the way.

        Raises:
            FrameError: this image cannot be embedded.
        """
        return self.embed_pixels(self.pixels(image))

    def embed_pixels(self, pixels: Float32) -> ForegroundEmbedding:
        """One image that is ready for the backbone, float32 (3, h, w).

        Raises:
            FrameError: it cannot be embedded.
        """
        return self.mask(self.run_backbone(pixels[None])[0])

    def run_by(self, backbone: Backbone) -> "Embedder":
        """The same stages with the same model, run otherwise."""
        return Embedder(
            backbone=backbone,
            preprocessor=self.preprocessor,
            bpm_kernel=self._bpm_kernel,
            bpm_threshold=self._bpm_threshold,
            on_stage=self._on_stage,
        )


class Inspector:
    """Judges the frames of one station against one bank.

    Args:
        embedder: set as the bank's manifest says.
        bank: of good parts.
        on_one_core: gives the same verdicts using one core only, for several frames side by side; None: itself.
        precision: of the backbone's arithmetic.
        precision_reason: why it is fp32 although the bank is certified for a lower one; None where it is not so.
    """

    def __init__(
        self,
        *,
        embedder: Embedder,
        bank: PatchBank,
        on_one_core: "Inspector | None" = None,
        precision: InferencePrecision = "fp32",
        precision_reason: str | None = None,
    ) -> None:
        self._embedder = embedder
        self.bank = bank
        """The memory bank."""
        self.on_one_core = on_one_core or self
        """Gives the same verdicts using one core only, where it was made so."""
        self.precision = precision
        """Of the backbone's arithmetic."""
        self.precision_reason = precision_reason
        """Why it is fp32 although the bank is certified for a lower one; None where it is not so."""
        self._input_hw = embedder.backbone.card.input_hw

    @property
    def backbone(self) -> Backbone:
        """What embeds its frames."""
        return self._embedder.backbone

    @property
    def manifest(self) -> BankManifest:
        """How the bank was made."""
        return self.bank.manifest

    @property
    def bank_id(self) -> str:
        """SHA-256 of the bank's content."""
        return self.manifest.bank_id

    @property
    def model_id(self) -> str:
        """SHA-256 of the model file."""
        return self.manifest.model_id

    @property
    def threshold(self) -> float:
        """The score above which a frame is anomalous."""
        return self.manifest.threshold

    @property
    def least_side_px(self) -> int | None:
        """What a frame's JPEG may be reduced to while it is decoded; None: its full size is judged."""
        return self._embedder.preprocessor.least_side_px if self.manifest.reduced_decode else None

    def inspect(self, frame: Frame | UnreadableFrame) -> Verdict:
        """Judge one frame. What cannot be judged is *invalid* with a reason, never *normal*."""
        if isinstance(frame, UnreadableFrame):
            return self.invalid(frame, frame.reason)
        try:
            return self.judge(frame, self._embedder.embed_pixels(self.pixels(frame)))
        except FrameError as error:
            return self.invalid(frame, str(error))

    def embed_together(self, images: Sequence[Float32]) -> list[Embedding]:
        """One inference for several images, each float32 (3, h, w)."""
        return self._embedder.run_backbone(np.stack(images))

    def preprocessed(self, frame: AnyFrame) -> AnyFrame:
        """The frame with its pixels ready for the backbone; unchanged where that fails: judging it reports why."""
        if isinstance(frame, UnreadableFrame):
            return frame
        try:
            pixels = self._embedder.pixels(frame.image)
        except Exception:  # noqa: BLE001  (the worker meets it again, and gives an invalid verdict)
            return frame
        return replace(frame, preprocessed=ModelInput(pixels, self._embedder.preprocessor))

    def pixels(self, frame: Frame) -> Float32:
        """float32 (3, h, w), ready for the backbone; those of ``preprocessed`` where they are of this bank's making.

        Raises:
            FrameError: the frame cannot be brought to the model's input, or has another size than the good images
                where the bank has a region of interest.
        """
        self._check_size(frame.hw)
        if frame.preprocessed is not None and frame.preprocessed.preprocessor is self._embedder.preprocessor:
            return frame.preprocessed.pixels
        return self._embedder.pixels(frame.image)

    def _check_size(self, hw: tuple[int, int]) -> None:
        """A region of interest counts pixels of the good images: in another size it shows another part."""
        learned_hw = self.manifest.image_hw
        if self.manifest.roi is not None and learned_hw is not None and hw != learned_hw:
            raise FrameError(
                f"the picture has {hw[1]}×{hw[0]} pixels, the bank's region of interest is one of "
                f"{learned_hw[1]}×{learned_hw[0]}; set the camera to that size, or rebuild the bank"
            )

    def judge_embedding(self, frame: Frame, embedding: Embedding) -> Verdict:
        """Judge a frame of a batch; one so near the threshold that the batch could decide is seen again, alone."""
        try:
            verdict = self.judge(frame, self._embedder.mask(embedding))
        except FrameError as error:
            return self.invalid(frame, str(error))
        near = verdict.score is not None and abs(verdict.score - self.threshold) <= BATCH_TOLERANCE
        return self.inspect(frame) if near else verdict

    def judge(self, frame: Frame, seen: ForegroundEmbedding) -> Verdict:
        """From embedding to verdict.

        Raises:
            FrameError: the distances are not finite.
        """
        with self._embedder.timed("search"):
            distances = self.bank.distances(seen.embedding, seen.mask)
        with self._embedder.timed("scoring"):
            score = image_score(distances, top_ratio=self.manifest.top_ratio)
            rank = p_value(score, self.bank.calibration)
        if not np.isfinite(score):
            raise FrameError("the anomaly score is not finite")
        with self._embedder.timed("heatmap"):
            heat = heatmap(distances, self._input_hw)
        return Verdict(
            station=frame.station,
            frame_id=frame.frame_id,
            part_id=frame.part_id,
            captured_at_ns=frame.captured_at_ns,
            decision=decide(score, self.threshold),
            reason=None,
            score=score,
            threshold=self.threshold,
            p_value=rank,
            foreground_ratio=float(seen.mask.foreground.mean()),
            peak=self._peak(frame.hw, heat),
            heatmap=heat,
            latency_ms=_latency_ms(frame),
            dropped_before=frame.dropped_before,
            model_id=self.model_id,
            bank_id=self.bank_id,
            trigger_id=frame.trigger_id,
        )

    def invalid(self, frame: Frame | UnreadableFrame, reason: str) -> Verdict:
        """The verdict of a frame that could not be judged."""
        return Verdict(
            station=frame.station,
            frame_id=frame.frame_id,
            part_id=frame.part_id,
            captured_at_ns=frame.captured_at_ns,
            decision=Decision.INVALID,
            reason=reason,
            score=None,
            threshold=self.threshold,
            p_value=None,
            foreground_ratio=None,
            peak=None,
            heatmap=None,
            latency_ms=_latency_ms(frame),
            dropped_before=frame.dropped_before,
            model_id=self.model_id,
            bank_id=self.bank_id,
            trigger_id=frame.trigger_id,
        )

    def overlay(self, frame: Frame, verdict: Verdict, *, longest_side_px: int | None = None) -> UInt8:
        """The frame with the verdict's heat over it; the frame itself where there is none.

        Args:
            frame: one that this inspector judged.
            verdict: its verdict.
            longest_side_px: a larger picture is scaled down, before it is drawn on.

        Returns:
            uint8 (H, W, 3), RGB.
        """
        picture = frame.image if longest_side_px is None else at_most(frame.image, longest_side_px)
        if verdict.heatmap is None:
            return picture
        placement = self._embedder.preprocessor.placement(frame.hw).on_scaled(frame.hw, picture.shape[:2])
        return overlay(picture, verdict.heatmap, threshold=overlay_anchor(self.manifest), placement=placement)

    def _peak(self, hw: tuple[int, int], heat: Float32) -> tuple[int, int]:
        height, width = hw
        x, y = self._embedder.preprocessor.placement((height, width)).to_image(*peak(heat))
        return min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)


def inspect_together(requests: Sequence[tuple[Inspector, AnyFrame]]) -> list[Verdict]:
    """Judge frames together, each by its own inspector: one inference for all that share a backbone.

    Decisions are those of ``inspect``; scores agree to ``BATCH_TOLERANCE``.
    """
    verdicts: dict[int, Verdict] = {}
    pictures: dict[int, tuple[Inspector, Frame, Float32]] = {}
    for place, (inspector, frame) in enumerate(requests):
        if isinstance(frame, UnreadableFrame):
            verdicts[place] = inspector.invalid(frame, frame.reason)
            continue
        try:
            pictures[place] = (inspector, frame, inspector.pixels(frame))
        except FrameError as error:
            verdicts[place] = inspector.invalid(frame, str(error))
    for places in _by_backbone({place: inspector for place, (inspector, _, _) in pictures.items()}):
        embedded = pictures[places[0]][0].embed_together([pictures[place][2] for place in places])
        for place, embedding in zip(places, embedded, strict=True):
            inspector, frame, _ = pictures[place]
            verdicts[place] = inspector.judge_embedding(frame, embedding)
    return [verdicts[place] for place in range(len(requests))]


def _by_backbone(inspectors: Mapping[int, Inspector]) -> Iterable[list[int]]:
    """The places of inspectors that share a backbone: a bank that sees tiles has one of its own."""
    groups: dict[int, list[int]] = {}
    for place, inspector in inspectors.items():
        groups.setdefault(id(inspector.backbone), []).append(place)
    return groups.values()


def _latency_ms(frame: Frame | UnreadableFrame) -> float:
    return (time.monotonic_ns() - frame.counted_from_mono_ns) / 1e6
