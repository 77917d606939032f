"""Good images → bank: embed, settle the mask, choose the coreset, calibrate the threshold."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from bank_tools.bank.calibrate import Coreset, choose_coreset, cross_scores, fold_count
from bank_tools.bank.coreset import coreset_size
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.mask_rule import decide_mask
from bank_tools.bank.recipe import Recipe
from edge_uad import __version__
from edge_uad.errors import FrameError, UsageError
from edge_uad.inference.bank import BANK_SCHEMA, PatchBank
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.scoring import conformal_threshold
from edge_uad.progress import Progress
from edge_uad.records import BankManifest, Float32, Frame, ModelCard, UInt8, UnreadableFrame
from edge_uad.runtime.in_order import in_order

MIN_IMAGES = 2


@dataclass(slots=True)
class GoodImages:
    """The images named for the bank: those embedded, and those that cannot be used."""

    embeddings: EmbeddingStore
    names: list[str] = field(default_factory=list)
    """Of the embedded images."""
    digests: list[str] = field(default_factory=list)
    """SHA-256 of each embedded image's pixels."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    empty: list[tuple[str, str]] = field(default_factory=list)
    """Readable, but without a patch to learn: name and reason."""
    sizes_hw: set[tuple[int, int]] = field(default_factory=set)
    """Heights and widths of the embedded images."""

    @property
    def n_copies(self) -> int:
        """Images that are pixel for pixel equal to another one."""
        return len(self.digests) - len(set(self.digests))


@dataclass(frozen=True, slots=True)
class _EmbeddedImage:
    """An image's embedding, or why it has none."""

    name: str
    embedding: ForegroundEmbedding | None
    digest: str | None
    """None where it could not be read."""
    reason: str = ""
    hw: tuple[int, int] | None = None


def embed_all(
    frames: Iterable[Frame | UnreadableFrame],
    embedder: Embedder,
    total: int | None,
    progress: Progress,
    *,
    workers: int = 1,
    folder: Path | None = None,
) -> GoodImages:
    """Embed every good image, so many at a time, while the next ones are read; list what cannot be used.

    Each has an inference of its own: in a batch its last bits would be other ones than in inspection.

    Args:
        frames: the good images.
        embedder: set as the recipe says.
        total: how many frames there are; None where that is unknown.
        progress: shows the step.
        workers: images at a time.
        folder: of the temporary file of embeddings; None for the system's.

    Raises:
        UsageError: the temporary file cannot be written.
    """
    images = GoodImages(EmbeddingStore(folder))
    with progress.step("embedding", total, "images") as done:
        for embedded in in_order(partial(_embed_one, embedder), frames, workers=workers):
            _add(embedded, images)
            done(1)
    return images


def _embed_one(embedder: Embedder, frame: Frame | UnreadableFrame) -> _EmbeddedImage:
    name = frame.part_id or f"frame {frame.frame_id}"
    if isinstance(frame, UnreadableFrame):
        return _EmbeddedImage(name, None, None, frame.reason)
    digest = _pixel_digest(frame.image)
    try:
        return _EmbeddedImage(name, embedder.embed(frame.image), digest, hw=frame.hw)
    except FrameError as error:
        return _EmbeddedImage(name, None, digest, str(error))


def _add(embedded: _EmbeddedImage, images: GoodImages) -> None:
    if embedded.digest is None:
        images.unreadable.append((embedded.name, embedded.reason))
    elif embedded.embedding is None:
        images.empty.append((embedded.name, embedded.reason))
    else:
        images.embeddings.append(embedded.embedding)
        images.names.append(embedded.name)
        images.digests.append(embedded.digest)
        if embedded.hw is not None:
            images.sizes_hw.add(embedded.hw)


@dataclass(frozen=True, slots=True)
class BuiltBank:
    """A bank, and the scores of its good images."""

    bank: PatchBank
    scores: Float32
    """(n,), of each good image against a coreset of others."""


def build_bank(images: GoodImages, *, recipe: Recipe, embedder: Embedder, progress: Progress) -> BuiltBank:
    """Make a bank of embedded images: choose the coreset, calibrate the threshold.

    Raises:
        UsageError: fewer than two usable images: nothing could be calibrated.
    """
    n_images = len(images.embeddings)
    if n_images < MIN_IMAGES:
        raise UsageError(
            f"{n_images} usable images are too few: name at least {MIN_IMAGES} good ones, so that each can be "
            "scored against the others"
        )
    masked = settle_mask(images.embeddings, recipe, progress)
    recipe = masked.recipe
    coreset = _choose_coreset(masked.embeddings, recipe, progress)
    scores = _calibrate(masked.embeddings, recipe, progress)
    calibration = np.sort(scores)
    manifest = _manifest(
        images,
        recipe,
        embedder.backbone.card,
        calibration,
        n_patches=len(coreset.patches),
        background_ratio=masked.background_ratio,
    )
    bank = PatchBank.sealed(
        patches=coreset.patches, patch_image=coreset.patch_image, calibration=calibration, manifest=manifest
    )
    return BuiltBank(bank, scores)


@dataclass(frozen=True, slots=True)
class MaskedImages:
    """Good images with the masks that the bank is built by."""

    embeddings: EmbeddingStore
    recipe: Recipe
    """With its mask settled."""
    background_ratio: float | None


def settle_mask(images: EmbeddingStore, recipe: Recipe, progress: Progress) -> MaskedImages:
    """The images as they are where the recipe states its mask; else the mask that they themselves decide on.

    Args:
        images: at least two; with every patch in their masks where the recipe states none.
        recipe: as asked for.
        progress: shows the step.
    """
    if recipe.bpm_threshold is not None:
        return MaskedImages(images, recipe, None)
    with progress.step("deciding on the mask", 1, "banks") as done:
        decision = decide_mask(images, recipe)
        done(1)
    settled = replace(recipe, bpm_threshold=decision.bpm_threshold)
    masked = images.masked(kernel=recipe.bpm_kernel, threshold=decision.bpm_threshold)
    return MaskedImages(masked, settled, decision.background_ratio)


def _choose_coreset(images: EmbeddingStore, recipe: Recipe, progress: Progress) -> Coreset:
    size = coreset_size(int(images.n_foreground.sum()), recipe.coreset_ratio, recipe.max_patches)
    with progress.step("choosing", size, "patches") as done:
        return choose_coreset(
            images, ratio=recipe.coreset_ratio, seed=recipe.seed, most=recipe.max_patches, on_chosen=done
        )


def _calibrate(images: EmbeddingStore, recipe: Recipe, progress: Progress) -> Float32:
    with progress.step("calibrating", len(images), "images") as done:
        return cross_scores(
            images,
            coreset_ratio=recipe.coreset_ratio,
            max_patches=recipe.max_patches,
            seed=recipe.seed,
            top_ratio=recipe.top_ratio,
            neighbours=recipe.neighbours,
            search_device=recipe.search_device,
            search_threads=recipe.search_threads,
            levels=recipe.levels,
            on_scored=done,
        )


def _manifest(
    images: GoodImages,
    recipe: Recipe,
    card: ModelCard,
    calibration: Float32,
    *,
    n_patches: int,
    background_ratio: float | None,
) -> BankManifest:
    return BankManifest(
        bank_id="",
        schema=BANK_SCHEMA,
        model_id=card.model_id,
        backbone=card.backbone,
        grid_hw=card.grid_hw,
        geometry=recipe.geometry,
        roi=recipe.roi,
        bpm_kernel=recipe.bpm_kernel,
        bpm_threshold=recipe.bpm_threshold or 0,
        top_ratio=recipe.top_ratio,
        neighbours=recipe.neighbours,
        coreset_ratio=recipe.coreset_ratio,
        max_patches=recipe.max_patches,
        seed=recipe.seed,
        image_hw=next(iter(images.sizes_hw)) if len(images.sizes_hw) == 1 else None,
        reduced_decode=recipe.reduced_decode,
        levels=recipe.levels,
        background_ratio=background_ratio,
        n_images=len(images.embeddings),
        n_unreadable=len(images.unreadable),
        n_empty=len(images.empty),
        n_patches=n_patches,
        calibration_folds=fold_count(len(images.embeddings)),
        threshold=conformal_threshold(calibration, recipe.false_alarm_rate),
        false_alarm_rate=recipe.false_alarm_rate,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        built_by=f"edge-uad {__version__}",
        source_digest=hashlib.sha256("".join(images.digests).encode()).hexdigest(),
    )


def _pixel_digest(image: UInt8) -> str:
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
