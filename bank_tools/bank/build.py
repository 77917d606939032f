"""Good images → bank: embed, settle the mask, choose the coreset, calibrate the threshold."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from bank_tools.bank.calibrate import (
    Coreset,
    OutlierCost,
    choose_coreset,
    cross_scores,
    fold_count,
    outlier_cost,
    outliers,
)
from bank_tools.bank.coreset import coreset_size
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.good_images import GoodImages
from bank_tools.bank.index import IndexTrial, IndexVerdict, build_index, wants_index
from bank_tools.bank.mask_rule import decide_mask
from bank_tools.bank.precision_trial import RefusedPrecision, TrialScores
from bank_tools.bank.recipe import Recipe
from bank_tools.bank.rotation import settle_rotations
from bank_tools.bank.tail import threshold_of
from bank_tools.spread import Spread, one_by_one
from edge_uad import __version__
from edge_uad.errors import UsageError
from edge_uad.inference.bank import BANK_SCHEMA, PatchBank
from edge_uad.inference.index import PatchIndex
from edge_uad.inference.inspector import Embedder
from edge_uad.inference.scoring import heatmap, hot_area_heat, pixel_threshold
from edge_uad.inference.search import FARTHEST
from edge_uad.progress import Progress
from edge_uad.records import (
    BankManifest,
    CertifiedPrecision,
    Float32,
    IndexCertificate,
    ModelCard,
    PatchDistances,
)

MIN_IMAGES = 2


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

    def keep(image: int, distances: PatchDistances) -> None:
        squared[image] = distances.squared
        hot_areas[image] = hot_area_heat(heatmap(distances, card.input_hw))

    def judge(image: int, score: float, beside: list[PatchDistances]) -> None:
        if precision_trial is not None and beside:
            precision_trial.judge(beside, fp32_score=score, digest=images.digests[image])

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
            companions=None if precision_trial is None else precision_trial.companions(images.trial_numbers),
            on_companions=judge,
            # a trial of lists needs each fold's coreset here
            spread=spread if index_trial is None else one_by_one,
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
