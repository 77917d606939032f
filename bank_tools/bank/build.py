"""Good images → bank: embed, keep the foreground, thin out, calibrate."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import numpy as np

from bank_tools.bank.calibrate import Coreset, cross_scores, fold_count, thin_out
from bank_tools.bank.coreset import coreset_size
from edge_uad import __version__
from edge_uad.errors import FrameError, UsageError
from edge_uad.inference.bank import BANK_SCHEMA, PatchBank
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.masking import check_kernel, default_kernel
from edge_uad.inference.scoring import conformal_threshold
from edge_uad.inference.search import SearchDevice
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import BankManifest, Box, Float32, Frame, Geometry, ModelCard, UInt8, UnreadableFrame, reducible
from edge_uad.runtime.assemble import make_embedder
from edge_uad.runtime.in_order import in_order

MIN_IMAGES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a bank is to be. Defaults are the paper's."""

    geometry: Geometry = Geometry.STRETCH
    roi: Box | None = None
    bpm_kernel: int
    bpm_threshold: float = 0.1
    top_ratio: float = 0.05
    neighbours: int = 1
    coreset_ratio: float = 0.1
    false_alarm_rate: float = 0.01
    seed: int = 0
    reduced_decode: bool = False
    """Large JPEG pictures are decoded at a part of their size."""
    search_device: SearchDevice = "cpu"
    search_threads: int = 0
    """Where calibration searches, and with how many threads, 0 for all cores; not part of the manifest, because they
    change nothing but the time."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of its range."""
        check_kernel(self.bpm_kernel)
        _check(0 <= self.bpm_threshold < 1, "BPM threshold", self.bpm_threshold, "0 to below 1")
        _check(0 < self.top_ratio <= 1, "top ratio", self.top_ratio, "above 0 to 1")
        _check(0 < self.coreset_ratio <= 1, "coreset ratio", self.coreset_ratio, "above 0 to 1")
        _check(0 < self.false_alarm_rate < 1, "false-alarm rate", self.false_alarm_rate, "between 0 and 1")
        _check(self.neighbours >= 1, "number of neighbours", self.neighbours, "at least 1")
        if self.reduced_decode and not reducible(self.geometry, self.roi):
            raise UsageError(
                "pictures cannot be decoded at a part of their size with a region of interest or a geometry other than "
                f"{Geometry.STRETCH}; leave one of the two out"
            )


def recipe_for(card: ModelCard, *, bpm_kernel: int | None = None, top_ratio: float | None = None) -> Recipe:
    """What a bank of this model's is where nothing else is asked for.

    Args:
        card: of the model.
        bpm_kernel: None: what suits its patch grid.
        top_ratio: None: the model's own.
    """
    return Recipe(
        bpm_kernel=default_kernel(card.grid_hw) if bpm_kernel is None else bpm_kernel,
        top_ratio=card.top_ratio if top_ratio is None else top_ratio,
    )


def embedder_for(backbone: Backbone, recipe: Recipe) -> Embedder:
    """The stages up to the mask, set as the recipe says."""
    return make_embedder(
        backbone,
        geometry=recipe.geometry,
        roi=recipe.roi,
        bpm_kernel=recipe.bpm_kernel,
        bpm_threshold=recipe.bpm_threshold,
    )


@dataclass(slots=True)
class GoodImages:
    """What became of the images named for the bank."""

    seen: list[ForegroundEmbedding] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Of the seen images."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    empty: list[tuple[str, str]] = field(default_factory=list)
    """Readable, but without anything to learn from: name and reason."""
    digests: list[str] = field(default_factory=list)
    """SHA-256 of each seen image's pixels."""

    @property
    def n_copies(self) -> int:
        """Images that are pixel for pixel equal to another one."""
        return len(self.digests) - len(set(self.digests))


@dataclass(frozen=True, slots=True)
class _EmbeddedImage:
    """What the model sees in an image, or why it sees nothing."""

    name: str
    seen: ForegroundEmbedding | None
    digest: str | None
    """None where it could not be read."""
    reason: str = ""


def embed_all(
    frames: Iterable[Frame | UnreadableFrame],
    embedder: Embedder,
    total: int | None,
    progress: Progress,
    *,
    workers: int = 1,
) -> GoodImages:
    """Embed every good image, so many at a time, while the next ones are read; list what cannot be used.

    Each has an inference of its own: in a batch its last bits would be other ones than in inspection.
    """
    images = GoodImages()
    with progress.step("embedding", total, "images") as done:
        for looked in in_order(partial(_embed_one, embedder), frames, workers=workers):
            _sort_in(looked, images)
            done(1)
    return images


def _embed_one(embedder: Embedder, frame: Frame | UnreadableFrame) -> _EmbeddedImage:
    name = frame.part_id or f"frame {frame.frame_id}"
    if isinstance(frame, UnreadableFrame):
        return _EmbeddedImage(name, None, None, frame.reason)
    digest = _pixel_digest(frame.image)
    try:
        return _EmbeddedImage(name, embedder.embed(frame.image), digest)
    except FrameError as error:
        return _EmbeddedImage(name, None, digest, str(error))


def _sort_in(looked: _EmbeddedImage, images: GoodImages) -> None:
    if looked.digest is None:
        images.unreadable.append((looked.name, looked.reason))
    elif looked.seen is None:
        images.empty.append((looked.name, looked.reason))
    else:
        images.seen.append(looked.seen)
        images.names.append(looked.name)
        images.digests.append(looked.digest)


@dataclass(frozen=True, slots=True)
class BuiltBank:
    """A bank, and what its making showed."""

    bank: PatchBank
    scores: Float32
    """(n,), of each good image against a coreset of others."""


def build_bank(images: GoodImages, *, recipe: Recipe, embedder: Embedder, progress: Progress) -> BuiltBank:
    """Make a bank of images already looked at.

    Raises:
        UsageError: fewer than two usable images: nothing could be calibrated.
    """
    if len(images.seen) < MIN_IMAGES:
        raise UsageError(
            f"{len(images.seen)} usable images are too few: name at least {MIN_IMAGES} good ones, so that each can be "
            "scored against the others"
        )
    coreset = _thin_out(images.seen, recipe, progress)
    scores = _calibrate(images.seen, recipe, progress)
    calibration = np.sort(scores)
    manifest = _manifest(images, recipe, embedder.backbone.card, calibration, n_patches=len(coreset.patches))
    bank = PatchBank.sealed(
        patches=coreset.patches, patch_image=coreset.patch_image, calibration=calibration, manifest=manifest
    )
    return BuiltBank(bank, scores)


def _thin_out(seen: list[ForegroundEmbedding], recipe: Recipe, progress: Progress) -> Coreset:
    size = coreset_size(sum(int(one.mask.foreground.sum()) for one in seen), recipe.coreset_ratio)
    with progress.step("choosing", size, "patches") as done:
        return thin_out(seen, ratio=recipe.coreset_ratio, seed=recipe.seed, on_chosen=done)


def _calibrate(seen: list[ForegroundEmbedding], recipe: Recipe, progress: Progress) -> Float32:
    with progress.step("calibrating", len(seen), "images") as done:
        return cross_scores(
            seen,
            coreset_ratio=recipe.coreset_ratio,
            seed=recipe.seed,
            top_ratio=recipe.top_ratio,
            neighbours=recipe.neighbours,
            search_device=recipe.search_device,
            search_threads=recipe.search_threads,
            on_scored=done,
        )


def _manifest(
    images: GoodImages, recipe: Recipe, card: ModelCard, calibration: Float32, *, n_patches: int
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
        bpm_threshold=recipe.bpm_threshold,
        top_ratio=recipe.top_ratio,
        neighbours=recipe.neighbours,
        coreset_ratio=recipe.coreset_ratio,
        seed=recipe.seed,
        reduced_decode=recipe.reduced_decode,
        n_images=len(images.seen),
        n_unreadable=len(images.unreadable),
        n_empty=len(images.empty),
        n_patches=n_patches,
        calibration_folds=fold_count(len(images.seen)),
        threshold=conformal_threshold(calibration, recipe.false_alarm_rate),
        false_alarm_rate=recipe.false_alarm_rate,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        built_by=f"edge-uad {__version__}",
        source_digest=hashlib.sha256("".join(images.digests).encode()).hexdigest(),
    )


def _check(holds: bool, name: str, value: float, allowed: str) -> None:
    if not holds:
        raise UsageError(f"the {name} is {value:g}; use {allowed}")


def _pixel_digest(image: UInt8) -> str:
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
