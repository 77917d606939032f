"""The detection tasks of ALGORITHM §6: products one by one, all in one bank, few good images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bank_tools.datasets import Category, Dataset, Sample
from bank_tools.datasets.wording import counted, listed
from bank_tools.evaluation.distance_table import DistanceTable, decision_of, distances_of, measure
from bank_tools.evaluation.embedding import SampleEmbedder
from bank_tools.evaluation.localisation import localise, pixel_threshold_of
from bank_tools.evaluation.step_cache import StepCache
from bank_tools.evaluation.variant import Variant
from bank_tools.metrics.image import ImageMetrics, LineMetrics, image_metrics, line_metrics
from bank_tools.metrics.pixel import PixelResult
from bank_tools.spread import Spread, one_by_one
from edge_uad.errors import UsageError
from edge_uad.progress import Progress
from edge_uad.records import Float32, PatchDistances

ALL_IN_ONE_BANK = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One test sample with its distances, score and decision."""

    sample: Sample
    category: str
    row: Float32
    """(N,), its patch distances."""
    score: float | None
    reason: str
    """Why it has no score; empty where it has one."""
    decision: str | None
    """None where there is no threshold."""

    def distances(self, grid_hw: tuple[int, int]) -> PatchDistances:
        """As the scoring stage takes them."""
        return distances_of(self.row, grid_hw)


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryResult:
    """The metrics of one category."""

    name: str
    n_good: int
    n_patches: int
    foreground_ratio: float | None
    bpm_threshold: float
    """Of the mask, as it was told or decided; 0 where every patch was kept."""
    threshold: float | None
    """None where fewer than two good images were there to calibrate it on."""
    image: ImageMetrics
    line: LineMetrics | None
    pixel: PixelResult | None
    judged: tuple[Judged, ...]
    warnings: tuple[str, ...]
    skipped_good: tuple[tuple[str, str], ...] = ()
    """Good images that could not be learned, and why."""
    pixel_threshold: float | None = None
    """The heat above which a pixel is drawn, and counted by SegF1; None as for the threshold."""
    good_scores: tuple[float, ...] = ()
    """Of the good images learned, each against coresets of the others, ascending; empty as for the threshold."""
    odd_masks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Images whose mask is odd or could not be compared, by the reason."""

    @property
    def n_invalid(self) -> int:
        """Test samples without a score: in no AUROC, and rejected by the line."""
        return sum(one.score is None for one in self.judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationContext:
    """Embedder, cache of steps and settings that every measurement shares."""

    sample_embedder: SampleEmbedder
    steps: StepCache
    progress: Progress
    variant: Variant
    pixels: bool = True
    """Whether heat is compared with masks."""
    calibrated: bool = True
    """Whether the threshold is calibrated."""
    spread: Spread = one_by_one
    """How calibration and scoring are carried out."""
    on_category: Callable[[CategoryResult], None] = lambda _: None
    """Called with each category's result."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The model's."""
        return self.sample_embedder.embedder.backbone.card.grid_hw

    def seeded(self, seed: int) -> "EvaluationContext":
        """The same with another seed."""
        recipe = replace(self.variant.recipe, seed=seed)
        return replace(self, variant=replace(self.variant, recipe=recipe))

    def search(self, good: Sequence[Sample], test: Sequence[Sample], *, test_in_folds: bool = False) -> DistanceTable:
        """See :func:`bank_tools.evaluation.distance_table.measure`."""
        return measure(
            good,
            test,
            variant=self.variant,
            sample_embedder=self.sample_embedder,
            steps=self.steps,
            progress=self.progress,
            calibrated=self.calibrated,
            test_in_folds=test_in_folds,
            spread=self.spread,
        )


def evaluate_categories(
    dataset: Dataset, context: EvaluationContext, *, n_good: int | None = None
) -> list[CategoryResult]:
    """Evaluate each category against a bank of its good images: defect detection, or one class against the rest.

    Args:
        dataset: as read.
        context: how.
        n_good: learn from so many good images, chosen by the seed; None for all.
    """
    results = []
    for category in dataset.categories:
        good = draw_samples(category.good, n_good, seed=context.variant.recipe.seed)
        result = _result(category, context.search(good, category.test), context)
        context.on_category(result)
        results.append(result)
    return results


def evaluate_together(
    dataset: Dataset, context: EvaluationContext, *, n_good: int | None = None
) -> list[CategoryResult]:
    """One bank of every category's good images, one threshold; each category's test against it, and all at once.

    Args:
        dataset: as read.
        context: how.
        n_good: learn from so many good images of each category; None for all.

    Raises:
        UsageError: the categories are classes of one set, where the good of one are the anomalies of another.
    """
    if dataset.labelled_classes:
        raise UsageError(
            f"{dataset.root}: its categories are classes against each other, which one bank cannot hold; "
            "use --task semantic"
        )
    seed = context.variant.recipe.seed
    good = [sample for category in dataset.categories for sample in draw_samples(category.good, n_good, seed=seed)]
    table = context.search(good, [sample for category in dataset.categories for sample in category.test])
    results = []
    first = 0
    for category in dataset.categories:
        rows = slice(first, first + len(category.test))
        first = rows.stop
        part = replace(table, test=table.test[rows], reasons=table.reasons[rows], key=f"{table.key}:{rows.start}")
        results.append(_result(category, part, context))
        context.on_category(results[-1])
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One bank of few good images."""

    n_good: int
    seed: int
    category: CategoryResult


def evaluate_low_shot(
    dataset: Dataset, context: EvaluationContext, *, shots: Sequence[int], n_seeds: int
) -> list[Shot]:
    """Banks of n good images drawn with several seeds, for each category that has as many.

    Args:
        dataset: as read.
        context: how; the seeds count from its recipe's.
        shots: the n.
        n_seeds: draws of each.

    Raises:
        UsageError: no category has as many good images as the smallest shot.
    """
    first_seed = context.variant.recipe.seed
    found = [
        Shot(n_good=n_good, seed=seed, category=_shot(category, context.seeded(seed), n_good))
        for category in dataset.categories
        for n_good in shots
        if n_good <= len(category.good)
        for seed in range(first_seed, first_seed + n_seeds)
    ]
    if not found:
        most = max(len(category.good) for category in dataset.categories)
        raise UsageError(f"--shots asks for at least {min(shots)} good images and there are {most}; ask for fewer")
    return found


def _shot(category: Category, context: EvaluationContext, n_good: int) -> CategoryResult:
    good = draw_samples(category.good, n_good, seed=context.variant.recipe.seed)
    result = _result(category, context.search(good, category.test), context)
    context.on_category(result)
    return result


def draw_samples(samples: Sequence[Sample], n: int | None, *, seed: int) -> Sequence[Sample]:
    """``n`` samples drawn without replacement, in their own order; all where n is None or as many as there are."""
    if n is None or n >= len(samples):
        return samples
    chosen = np.sort(np.random.default_rng(seed).choice(len(samples), n, replace=False))
    return [samples[index] for index in chosen.tolist()]


def _result(category: Category, table: DistanceTable, context: EvaluationContext) -> CategoryResult:
    recipe = context.variant.recipe
    threshold = table.threshold(recipe, context.grid_hw)
    judged = _judged(category, table, context, threshold)
    scored = [one for one in judged if one.score is not None]
    warnings = [*category.warnings, *_oddities(category, table, judged)]
    embedder = context.sample_embedder.embedder
    pixel_threshold = pixel_threshold_of(table, embedder)
    found = None
    if context.pixels and any(sample.anomalous and sample.mask_path for sample in category.test):
        found = localise(category, table, embedder, context.steps, context.progress, threshold=pixel_threshold)
        warnings += found.warnings
    return CategoryResult(
        name=category.name,
        n_good=table.n_good,
        n_patches=table.n_patches,
        foreground_ratio=table.foreground_ratio,
        bpm_threshold=table.bpm_threshold,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        good_scores=tuple(table.calibration_scores(top_ratio=recipe.top_ratio, grid_hw=context.grid_hw).tolist()),
        image=image_metrics([one.sample.anomalous for one in scored], [one.score or 0.0 for one in scored]),
        line=None if threshold is None else _line(judged),
        pixel=None if found is None else found.result,
        judged=tuple(judged),
        warnings=tuple(warnings),
        skipped_good=table.skipped,
        odd_masks={} if found is None else found.odd_masks,
    )


def _judged(
    category: Category, table: DistanceTable, context: EvaluationContext, threshold: float | None
) -> list[Judged]:
    scores = table.scores(top_ratio=context.variant.recipe.top_ratio, grid_hw=context.grid_hw)
    return [
        Judged(
            sample=sample,
            category=category.name,
            row=row,
            score=score,
            reason=reason,
            decision=None if threshold is None else decision_of(score, threshold).value,
        )
        for sample, row, score, reason in zip(category.test, table.test, scores, table.reasons, strict=True)
    ]


def _line(judged: Sequence[Judged]) -> LineMetrics:
    return line_metrics([one.sample.anomalous for one in judged], [one.decision or "" for one in judged])


def _oddities(category: Category, table: DistanceTable, judged: Sequence[Judged]) -> list[str]:
    skipped = [f"{name} ({reason})" for name, reason in table.skipped]
    invalid = [f"{one.sample.name} ({one.reason})" for one in judged if one.score is None]
    odd = []
    if skipped:
        odd.append(f"{category.name}: {counted(skipped, 'good image')} not learned: {listed(skipped)}")
    if invalid:
        odd.append(
            f"{category.name}: {counted(invalid, 'test image')} that cannot be judged, counted as rejected: "
            f"{listed(invalid)}"
        )
    return odd
