"""DistanceTable: patch distances of test samples to a bank of good ones; every metric is computed from it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from bank_tools.bank.build import settle_mask
from bank_tools.bank.calibrate import cross_distances, fold_count
from bank_tools.bank.coreset import coreset_size
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.recipe import Recipe
from bank_tools.bank.rotation import n_views, settle_rotations
from bank_tools.bank.tail import threshold_of
from bank_tools.datasets import Sample
from bank_tools.evaluation.embedding import SampleEmbedder
from bank_tools.evaluation.search import ReferenceSearch
from bank_tools.evaluation.step_cache import StepCache, Tensors, digest_of
from bank_tools.evaluation.variant import Variant
from bank_tools.spread import Spread, one_by_one
from edge_uad import __version__
from edge_uad.errors import FrameError, UsageError
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.scoring import decide, image_score
from edge_uad.progress import Progress
from edge_uad.records import Decision, Float32, PatchDistances, Rotations, UInt8

NOT_IN_THE_SEARCH = ("top_ratio", "false_alarm_rate", "search_device", "search_threads")
"""Parts of a recipe that the distances do not depend on: trying others costs no search."""
_ROTATED = {Rotations.NONE: False, Rotations.QUARTER: "pixels", Rotations.AUTO: "auto"}
"""How rotations are known to the cache of steps; without them, steps of former runs keep their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceTable:
    """Every patch distance of some test samples and of the good ones, cross-fitted."""

    key: str
    """Digest of everything that decided it."""
    test: Float32
    """(n, N), 0 where masked; rows of samples that could not be judged are 0."""
    reasons: tuple[str, ...]
    """(n,), why a sample could not be judged; empty where it was."""
    calibration: Float32
    """(m, N), of the good samples against coresets of the others; m = 0 where there are fewer than two."""
    foreground_ratio: float | None
    """Mean over the samples judged; None where there are none."""
    n_patches: int
    """In the bank."""
    n_good: int
    """Good samples that the bank learned from."""
    bpm_threshold: float
    """Of the mask, as it was told or decided; 0 where every patch was kept."""
    test_by_fold: Float32
    """(folds, n, N), of the test samples against the coresets of the calibration; no folds where not asked for."""
    skipped: tuple[tuple[str, str], ...] = field(default=())
    """Good samples that could not be used, and why."""

    def scores(self, *, top_ratio: float, grid_hw: tuple[int, int]) -> list[float | None]:
        """The anomaly score of each test sample; None for those that could not be judged."""
        return [
            None if reason else image_score(distances_of(row, grid_hw), top_ratio=top_ratio)
            for row, reason in zip(self.test, self.reasons, strict=True)
        ]

    def scores_by_fold(self, *, top_ratio: float, grid_hw: tuple[int, int]) -> list[float | None]:
        """As :meth:`scores`, each the mean over the folds: to be held against the scores of the good samples."""
        return [
            None
            if reason
            else float(np.mean([image_score(distances_of(row, grid_hw), top_ratio=top_ratio) for row in rows]))
            for rows, reason in zip(self.test_by_fold.swapaxes(0, 1), self.reasons, strict=True)
        ]

    def calibration_scores(self, *, top_ratio: float, grid_hw: tuple[int, int]) -> Float32:
        """(m,), ascending."""
        return np.sort(self.good_scores(top_ratio=top_ratio, grid_hw=grid_hw))

    def good_scores(self, *, top_ratio: float, grid_hw: tuple[int, int]) -> Float32:
        """(m,), cross-fitted, in the order of the good samples that were not skipped."""
        scores = [image_score(distances_of(row, grid_hw), top_ratio=top_ratio) for row in self.calibration]
        return np.asarray(scores, np.float32)

    def threshold(self, recipe: Recipe, grid_hw: tuple[int, int]) -> float | None:
        """Calibrated on the good samples alone; None where there were fewer than two."""
        calibration = self.calibration_scores(top_ratio=recipe.top_ratio, grid_hw=grid_hw)
        return threshold_of(calibration, recipe.false_alarm_rate, seed=recipe.seed) if len(calibration) else None


def distances_of(row: Float32, grid_hw: tuple[int, int]) -> PatchDistances:
    """One row of a table as the stages know it; which bank patch was nearest is not kept."""
    return PatchDistances(squared=row, nearest=np.full(len(row), -1, np.int64), grid_hw=grid_hw)


def decision_of(score: float | None, threshold: float) -> Decision:
    """As the daemon decides; without a score it is *invalid*."""
    return Decision.INVALID if score is None else decide(score, threshold)


def measure(
    good: Sequence[Sample],
    test: Sequence[Sample],
    *,
    variant: Variant,
    sample_embedder: SampleEmbedder,
    steps: StepCache,
    progress: Progress,
    calibrated: bool = True,
    test_in_folds: bool = False,
    spread: Spread = one_by_one,
) -> DistanceTable:
    """Build a bank of good samples, search it for every test sample; or read what an earlier run found.

    Args:
        good: what the bank learns.
        test: what is scored; not used for the bank or the threshold.
        variant: how.
        sample_embedder: with the masking of the variant.
        steps: where finished searches are kept.
        progress: shows every step.
        calibrated: whether the good samples are scored against one another too.
        test_in_folds: whether the test samples are scored against the calibration's coresets as well.
        spread: how calibration and scoring are carried out; it changes no number.

    Raises:
        UsageError: no good sample can be used.
    """
    key = digest_of(_facts(good, test, variant, sample_embedder, calibrated=calibrated, test_in_folds=test_in_folds))
    kept = steps.get(key)
    if kept is None:
        kept = _to_tensors(
            _search(
                good,
                test,
                key=key,
                variant=variant,
                sample_embedder=sample_embedder,
                progress=progress,
                calibrated=calibrated,
                test_in_folds=test_in_folds,
                spread=spread,
            )
        )
        steps.put(key, kept)
    return _from_tensors(key, kept)


def _search(
    good: Sequence[Sample],
    test: Sequence[Sample],
    *,
    key: str,
    variant: Variant,
    sample_embedder: SampleEmbedder,
    progress: Progress,
    calibrated: bool,
    test_in_folds: bool,
    spread: Spread,
) -> DistanceTable:
    views = n_views(variant.recipe.rotations)
    embedded = sample_embedder.embed_all(good, progress, "embedding", views=views)
    if not len(embedded.embeddings):
        raise UsageError(f"none of {len(good)} good images can be used; the first: {': '.join(embedded.skipped[0])}")
    rotated = settle_rotations(embedded.embeddings, variant.recipe, progress)
    images, variant = rotated.embeddings, replace(variant, recipe=rotated.recipe)
    if variant.recipe.bpm_threshold is None and not variant.bpm_soft:
        masked = settle_mask(
            images,
            variant.recipe,
            progress,
            levels=sample_embedder.embedder.backbone.card.levels,
            views=_views(variant),
        )
        images, variant = masked.embeddings, replace(variant, recipe=masked.recipe)
        sample_embedder = sample_embedder.masking(
            kernel=variant.recipe.bpm_kernel, threshold=variant.recipe.bpm_threshold or 0
        )
    recipe = variant.recipe
    size = coreset_size(int(images.n_foreground.sum()), recipe.coreset_ratio, recipe.max_patches)
    with progress.step("choosing", size * len(variant.scales), "patches") as done:
        search = ReferenceSearch(images, variant, on_chosen=done)
    in_folds = test if test_in_folds else ()
    calibration, by_fold = np.empty((0, 0), np.float32), np.empty((0, 0, 0), np.float32)
    if calibrated:
        calibration, by_fold = _calibrate(images, variant, progress, in_folds, sample_embedder, spread=spread)
    with progress.step("scoring", len(test), "images") as done:
        rows, reasons, ratios = _score(test, search, sample_embedder, spread, done)
    return DistanceTable(
        key=key,
        test=rows,
        reasons=tuple(reasons),
        calibration=calibration,
        test_by_fold=by_fold,
        foreground_ratio=float(np.mean(ratios)) if ratios else None,
        n_patches=search.n_patches,
        n_good=_n_images(images, variant),
        skipped=embedded.skipped,
        bpm_threshold=recipe.bpm_threshold or 0,
    )


def _score(
    test: Sequence[Sample],
    search: ReferenceSearch,
    sample_embedder: SampleEmbedder,
    spread: Spread,
    done: Callable[[int], None],
) -> tuple[Float32, list[str], list[float]]:
    """Distances (n, N), reasons (n,), and the foreground ratios of the samples judged."""
    rows = np.zeros((len(test), int(np.prod(sample_embedder.embedder.backbone.card.grid_hw))), np.float32)
    reasons: list[str] = []
    ratios: list[float] = []
    found = spread(partial(_searched, search), sample_embedder.views_of(test))
    for row, one in zip(rows, found, strict=True):
        if isinstance(one, FrameError):
            reasons.append(str(one))
        else:
            row[:], ratio = one
            reasons.append("")
            ratios.append(ratio)
        done(1)
    return rows, reasons, ratios


def _searched(
    search: ReferenceSearch, views: list[ForegroundEmbedding] | FrameError
) -> tuple[Float32, float] | FrameError:
    """A sample's distances (N,) and its foreground ratio, or why it has none."""
    if isinstance(views, FrameError):
        return views
    [image] = views
    return search(image).squared, float(image.mask.foreground.mean())


def _calibrate(
    images: EmbeddingStore,
    variant: Variant,
    progress: Progress,
    in_folds: Sequence[Sample],
    sample_embedder: SampleEmbedder,
    *,
    spread: Spread,
) -> tuple[Float32, Float32]:
    """Distances (m, N) of the good images, and (folds, n, N) of the samples that are scored in every fold."""
    n_images = _n_images(images, variant)
    n_patches = len(images.mask(0).foreground)
    if n_images < 2:
        return np.empty((0, 0), np.float32), np.empty((0, len(in_folds), n_patches), np.float32)
    n_folds = fold_count(n_images)
    table = np.empty((n_images, n_patches), np.float32)
    by_fold = np.zeros((n_folds, len(in_folds), n_patches), np.float32)
    usable, also = _usable(in_folds, sample_embedder, images.folder)
    folds_seen = dict.fromkeys(usable, 0)
    with progress.step(f"calibrating in {n_folds} folds", n_images + n_folds * len(usable), "images") as done:
        for image, distances, _ in cross_distances(
            images,
            partial(ReferenceSearch, variant=variant),
            seed=variant.recipe.seed,
            views=_views(variant),
            also=also,
            spread=spread,
        ):
            if image < n_images:
                table[image] = distances.squared
            else:
                place = usable[image - n_images]
                by_fold[folds_seen[place], place] = distances.squared
                folds_seen[place] += 1
            done(1)
    return table, by_fold


def _usable(
    samples: Sequence[Sample], sample_embedder: SampleEmbedder, scratch: Path
) -> tuple[list[int], EmbeddingStore]:
    """The numbers of the samples that can be embedded, and their embeddings."""
    usable: list[int] = []
    embeddings = EmbeddingStore(scratch)
    for number, views in enumerate(sample_embedder.views_of(samples)):
        if not isinstance(views, FrameError):
            [image] = views
            embeddings.append(image)
            usable.append(number)
    return usable, embeddings


def _n_images(images: EmbeddingStore, variant: Variant) -> int:
    return len(images) // _views(variant)


def _views(variant: Variant) -> int:
    return n_views(variant.recipe.rotations)


def _facts(
    good: Sequence[Sample],
    test: Sequence[Sample],
    variant: Variant,
    sample_embedder: SampleEmbedder,
    *,
    calibrated: bool,
    test_in_folds: bool,
) -> object:
    recipe = {name: value for name, value in asdict(variant.recipe).items() if name not in NOT_IN_THE_SEARCH}
    rotations = recipe.pop("rotations")
    return {
        "version": __version__,
        "sample_embedder": sample_embedder.identity,
        "variant": {**asdict(variant), "recipe": recipe, "rotated": _ROTATED[rotations]},
        "good": [content_digest(sample) for sample in good],
        "test": [content_digest(sample) for sample in test],
        "calibrated": calibrated,
        **({"test_in_folds": True} if test_in_folds else {}),  # without it, steps of former runs keep their keys
    }


def content_digest(sample: Sample) -> str:
    """The sample's digest, or why it has none."""
    try:
        return sample.digest()
    except FrameError as error:
        return f"{sample.name}: {error}"


def _to_tensors(table: DistanceTable) -> Tensors:
    ratio = np.nan if table.foreground_ratio is None else table.foreground_ratio
    return {
        "test": table.test,
        "calibration": table.calibration,
        **({"test_by_fold": table.test_by_fold} if table.test_by_fold.size else {}),
        "numbers": np.asarray([ratio, table.n_patches, table.n_good, table.bpm_threshold], np.float64),
        "reasons": _json_bytes(table.reasons),
        "skipped": _json_bytes(table.skipped),
    }


def _from_tensors(key: str, tensors: Tensors) -> DistanceTable:
    ratio, n_patches, n_good, bpm_threshold = tensors["numbers"].tolist()
    return DistanceTable(
        key=key,
        test=tensors["test"],
        reasons=tuple(json.loads(tensors["reasons"].tobytes())),
        calibration=tensors["calibration"],
        test_by_fold=tensors.get("test_by_fold", np.empty((0, *tensors["test"].shape), np.float32)),
        foreground_ratio=None if np.isnan(ratio) else ratio,
        n_patches=int(n_patches),
        n_good=int(n_good),
        bpm_threshold=bpm_threshold,
        skipped=tuple((name, reason) for name, reason in json.loads(tensors["skipped"].tobytes())),
    )


def _json_bytes(value: object) -> UInt8:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
