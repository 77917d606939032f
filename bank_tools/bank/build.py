"""Good images → bank: embed, settle the mask, choose the coreset, calibrate the threshold."""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from bank_tools.bank.calibrate import (
    Coreset,
    OutlierCost,
    Search,
    choose_coreset,
    cross_scores,
    fold_count,
    outlier_cost,
    outliers,
)
from bank_tools.bank.coreset import coreset_size
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.index import IndexTrial, IndexVerdict, build_index, wants_index
from bank_tools.bank.mask_rule import decide_mask
from bank_tools.bank.precision_trial import PrecisionTrial, RefusedPrecision, TrialScores
from bank_tools.bank.recipe import Recipe
from bank_tools.bank.rotation import embed_views, settle_rotations
from bank_tools.bank.tail import threshold_of
from bank_tools.spread import Spread, one_by_one
from edge_uad import __version__
from edge_uad.errors import FrameError, UsageError
from edge_uad.inference.bank import BANK_SCHEMA, PatchBank
from edge_uad.inference.index import PatchIndex
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.scoring import heatmap, hot_area_heat, pixel_threshold
from edge_uad.inference.search import FARTHEST
from edge_uad.progress import Progress
from edge_uad.records import (
    BankManifest,
    CertifiedPrecision,
    Float32,
    Frame,
    IndexCertificate,
    ModelCard,
    PatchDistances,
    UInt8,
    UnreadableFrame,
)
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
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of each embedded image."""
    trial: PrecisionTrial | None = None
    """Of lower precisions, where any is tried."""
    trial_numbers: list[int | None] = field(default_factory=list)
    """Of each embedded image the number by which the trial knows it; None where it is not one of those tried."""
    views: int = 1
    """Embeddings of each image, quarter turns of each other, one after the other; the one as it was taken first."""

    @property
    def n_copies(self) -> int:
        """Images that are pixel for pixel equal to another one."""
        return len(self.digests) - len(set(self.digests))

    def without(self, images: Collection[int]) -> "GoodImages":
        """All but these of the embedded images, numbered anew."""
        kept = [image for image in range(len(self.names)) if image not in images]
        return replace(
            self,
            embeddings=self.embeddings.only(
                [first + view for first in (image * self.views for image in kept) for view in range(self.views)]
            ),
            names=[self.names[image] for image in kept],
            digests=[self.digests[image] for image in kept],
            sizes_hw=[self.sizes_hw[image] for image in kept],
            trial_numbers=[self.trial_numbers[image] for image in kept],
        )


@dataclass(frozen=True, slots=True)
class _EmbeddedImage:
    """An image's embedding, or why it has none."""

    name: str
    embeddings: list[ForegroundEmbedding] | None
    """One for each view."""
    digest: str | None
    """None where it could not be read."""
    reason: str = ""
    hw: tuple[int, int] | None = None
    tried: list[ForegroundEmbedding] | None = None
    """In lower precisions; None where it is not one of those tried."""


def embed_all(
    frames: Iterable[Frame | UnreadableFrame],
    embedder: Embedder,
    total: int | None,
    progress: Progress,
    *,
    workers: int = 1,
    folder: Path | None = None,
    trial: PrecisionTrial | None = None,
    views: int = 1,
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
        trial: of lower precisions, which embeds some of the images, too.
        views: quarter turns of each image, as the recipe's rotations need them.

    Raises:
        UsageError: the temporary file cannot be written.
    """
    images = GoodImages(EmbeddingStore(folder), trial=trial, views=views)
    with progress.step("embedding", total, "images") as done:
        for embedded in in_order(partial(_embed_one, embedder, trial, views), frames, workers=workers):
            _add(embedded, images)
            done(1)
    return images


def _embed_one(
    embedder: Embedder, trial: PrecisionTrial | None, views: int, frame: Frame | UnreadableFrame
) -> _EmbeddedImage:
    name = name_of(frame)
    if isinstance(frame, UnreadableFrame):
        return _EmbeddedImage(name, None, None, frame.reason)
    digest = pixel_digest(frame.image)
    try:
        embeddings = embed_views(embedder, embedder.pixels(frame.image), views=views)
    except FrameError as error:
        return _EmbeddedImage(name, None, digest, str(error))
    tried = None
    if trial is not None and trial.tries(frame.frame_id):
        tried = trial.embed(frame.image, frame.frame_id)
    return _EmbeddedImage(name, embeddings, digest, hw=frame.hw, tried=tried)


def _add(embedded: _EmbeddedImage, images: GoodImages) -> None:
    if embedded.digest is None:
        images.unreadable.append((embedded.name, embedded.reason))
    elif embedded.embeddings is None:
        images.empty.append((embedded.name, embedded.reason))
    else:
        for embedding in embedded.embeddings:
            images.embeddings.append(embedding)
        number = None
        if images.trial is not None and embedded.tried is not None:
            number = images.trial.append(embedded.tried)
        images.trial_numbers.append(number)
        images.names.append(embedded.name)
        images.digests.append(embedded.digest)
        if embedded.hw is not None:
            images.sizes_hw.append(embedded.hw)


@dataclass(frozen=True, slots=True, eq=False)
class ScoredImage:
    """One good image against a coreset of others."""

    name: str
    digest: str
    """SHA-256 of its pixels."""
    score: float
    heat: Float32
    """(h, w), at the model's input size."""


@dataclass(frozen=True, slots=True)
class BuiltBank:
    """A bank, the scores of its good images, and the images that score far above the others."""

    bank: PatchBank
    images: GoodImages
    """Those in the bank."""
    scores: Float32
    """(n,), of each of them against a coreset of others."""
    outliers: tuple[ScoredImage, ...]
    """Highest first, as they scored when all were in; they are in the bank unless its manifest counts them excluded."""
    outlier_cost: OutlierCost | None
    """None where there are none."""
    refused_precisions: tuple[RefusedPrecision, ...] = ()
    """Those tried whose verdicts are not those of fp32."""
    index_refusal: str | None = None
    """Why a bank that is large enough for an index has none; None where it has one or is small."""


@dataclass(frozen=True, slots=True)
class _Calibration:
    """What the good images gave against coresets of others."""

    scores: Float32
    """(n,)"""
    hot_areas: Float32
    """(n,), see ``hot_area_heat``."""
    squared: Float32
    """(n, N), the distances of each."""
    precision_trial: TrialScores | None
    """Of some of them in lower precisions."""
    index_trial: IndexTrial | None
    """What searching in lists found of the same images; None where the bank is to have no index."""


def build_bank(
    images: GoodImages,
    *,
    recipe: Recipe,
    embedder: Embedder,
    progress: Progress,
    exclude_outliers: bool = False,
    cycle_ms: float | None = None,
    spread: Spread = one_by_one,
) -> BuiltBank:
    """Make a bank of embedded images: choose the coreset, calibrate the threshold.

    Args:
        images: the good ones.
        recipe: how.
        embedder: set as the recipe says.
        progress: shows the steps.
        exclude_outliers: leave images that score far above the others out of the bank and its calibration, which is
            then made again. Once: what stands out among the rest stays.
        cycle_ms: the line's time for which the model was chosen; None where it was not.
        spread: how the calibration is carried out; it changes no number.

    Raises:
        UsageError: fewer than two usable images, so that nothing could be calibrated; or a false-alarm rate so low that
            no part would ever be called anomalous.
    """
    _check_number(len(images.names))
    card = embedder.backbone.card
    rotated = settle_rotations(images.embeddings, recipe, progress)
    masked = settle_mask(rotated.embeddings, rotated.recipe, progress, levels=card.levels, views=rotated.views)
    images, recipe = replace(images, embeddings=masked.embeddings, views=rotated.views), masked.recipe
    found = _calibrate(images, recipe, card, progress, spread)
    far = outliers(found.scores)
    cost = outlier_cost(found.scores, recipe.false_alarm_rate, seed=recipe.seed)
    odd = tuple(_scored_image(image, images, found, card) for image in far)
    if exclude_outliers and far:
        images = images.without(far)
        _check_number(len(images.names))
        found = _calibrate(images, recipe, card, progress, spread)
    calibration = np.sort(found.scores)
    threshold = _threshold(calibration, recipe)
    certified, refused = _settled_precisions(found, threshold, card)
    coreset = _choose_coreset(images.embeddings, recipe, progress)
    n_patches = len(coreset.patches)
    indexed = _settled_index(found, threshold, n_patches)
    index = None if indexed.certificate is None else _index(coreset.patches, indexed.certificate, recipe, progress)
    manifest = replace(
        _manifest(images, recipe, card, threshold, n_patches=n_patches),
        index=indexed.certificate,
        background_ratio=masked.background_ratio,
        turned_ratio=rotated.turned_ratio,
        pixel_threshold=pixel_threshold(found.hot_areas),
        n_excluded=len(far) if exclude_outliers else 0,
        precisions=certified,
        cycle_ms=cycle_ms,
    )
    bank = PatchBank.sealed(
        patches=coreset.patches,
        patch_image=coreset.patch_image // images.views,
        calibration=calibration,
        manifest=manifest,
        index=index,
    )
    return BuiltBank(bank, images, found.scores, odd, cost, refused, indexed.refusal)


def _settled_precisions(
    found: _Calibration, threshold: float, card: ModelCard
) -> tuple[tuple[CertifiedPrecision, ...], tuple[RefusedPrecision, ...]]:
    trial = found.precision_trial
    return ((), ()) if trial is None else trial.settled(threshold, model_id=card.model_id)


def _settled_index(found: _Calibration, threshold: float, n_patches: int) -> IndexVerdict:
    trial = found.index_trial
    return IndexVerdict(None, None) if trial is None else trial.verdict(threshold, n_patches=n_patches)


def _index(patches: Float32, certificate: IndexCertificate, recipe: Recipe, progress: Progress) -> PatchIndex:
    with progress.step("indexing", len(patches), "patches") as done:
        index = build_index(patches, levels=recipe.levels, seed=recipe.seed, threads=recipe.search_threads)
        done(len(patches))
    return replace(index, lists_read=certificate.lists_read)


def _check_number(n_images: int) -> None:
    if n_images < MIN_IMAGES:
        raise UsageError(
            f"{n_images} usable images are too few: name at least {MIN_IMAGES} good ones, so that each can be "
            "scored against the others"
        )


def _threshold(calibration: Float32, recipe: Recipe) -> float:
    """The bank's threshold; one that no score can exceed is refused: a tail of few scores goes on without end."""
    rate = recipe.false_alarm_rate
    threshold = threshold_of(calibration, rate, seed=recipe.seed)
    if not threshold < FARTHEST:
        raise UsageError(
            f"a false-alarm rate of {rate:g} cannot be had from {len(calibration)} good images: its threshold would be "
            f"{threshold:.4g}, which no score exceeds; ask for a higher rate, or give more good images"
        )
    return threshold


def _scored_image(image: int, images: GoodImages, found: _Calibration, card: ModelCard) -> ScoredImage:
    squared = found.squared[image]
    distances = PatchDistances(squared=squared, nearest=np.full(len(squared), -1, np.int64), grid_hw=card.grid_hw)
    heat = heatmap(distances, card.input_hw)
    return ScoredImage(images.names[image], images.digests[image], float(found.scores[image]), heat)


@dataclass(frozen=True, slots=True)
class MaskedImages:
    """Good images with the masks that the bank is built by."""

    embeddings: EmbeddingStore
    recipe: Recipe
    """With its mask settled."""
    background_ratio: float | None


def settle_mask(
    images: EmbeddingStore, recipe: Recipe, progress: Progress, *, levels: int, views: int = 1
) -> MaskedImages:
    """The images as they are where the recipe states its mask; else the mask that they themselves decide on.

    Args:
        images: at least two; with every patch in their masks where the recipe states none.
        recipe: as asked for.
        progress: shows the step.
        levels: of the model's patches.
        views: how many of each image there are, one after the other.
    """
    if recipe.bpm_threshold is not None:
        return MaskedImages(images, recipe, None)
    with progress.step("deciding on the mask", 1, "banks") as done:
        decision = decide_mask(images, recipe, levels=levels, views=views)
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


def _calibrate(images: GoodImages, recipe: Recipe, card: ModelCard, progress: Progress, spread: Spread) -> _Calibration:
    n_images = len(images.names)
    squared = np.empty((n_images, card.grid_hw[0] * card.grid_hw[1]), np.float32)
    hot_areas = np.empty(n_images, np.float32)
    precision_trial = None if images.trial is None else images.trial.judged_by(recipe)
    size = coreset_size(int(images.embeddings.n_foreground.sum()), recipe.coreset_ratio, recipe.max_patches)
    index_trial = IndexTrial(recipe) if wants_index(recipe, size) else None
    if precision_trial is not None or index_trial is not None:
        spread = one_by_one  # a trial searches other pictures, or otherwise, in each fold's coreset: it must be here

    def keep(image: int, distances: PatchDistances) -> None:
        squared[image] = distances.squared
        hot_areas[image] = hot_area_heat(heatmap(distances, card.input_hw))

    def judge(image: int, score: float, search: Search) -> None:
        if precision_trial is not None and (number := images.trial_numbers[image]) is not None:
            precision_trial.judge(number, search, fp32_score=score, digest=images.digests[image])

    with progress.step("calibrating", n_images, "images") as done:
        scores = cross_scores(
            images.embeddings,
            coreset_ratio=recipe.coreset_ratio,
            max_patches=recipe.max_patches,
            seed=recipe.seed,
            top_ratio=recipe.top_ratio,
            neighbours=recipe.neighbours,
            search_device=recipe.search_device,
            search_threads=recipe.search_threads,
            levels=recipe.levels,
            trial=index_trial,
            views=images.views,
            on_scored=done,
            on_distances=keep,
            on_search=judge,
            spread=spread,
        )
    return _Calibration(scores, hot_areas, squared, precision_trial, index_trial)


def _manifest(images: GoodImages, recipe: Recipe, card: ModelCard, threshold: float, *, n_patches: int) -> BankManifest:
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
        image_hw=images.sizes_hw[0] if len(set(images.sizes_hw)) == 1 else None,
        reduced_decode=recipe.reduced_decode,
        levels=recipe.levels,
        tiling=recipe.tiling,
        rotations=recipe.rotations,
        n_images=len(images.names),
        n_unreadable=len(images.unreadable),
        n_empty=len(images.empty),
        n_patches=n_patches,
        calibration_folds=fold_count(len(images.names)),
        threshold=threshold,
        false_alarm_rate=recipe.false_alarm_rate,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        built_by=f"edge-uad {__version__}",
        source_digest=hashlib.sha256("".join(images.digests).encode()).hexdigest(),
    )


def name_of(frame: Frame | UnreadableFrame) -> str:
    """What messages call a good image: its file, or its number in the recording."""
    return frame.part_id or f"frame {frame.frame_id}"


def pixel_digest(image: UInt8) -> str:
    """SHA-256 of a picture's size and pixels."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
