"""Each task of ALGORITHM §6 from dataset to outcome: measured, put into tables, compared with what was published."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bank_tools.datasets import Dataset
from bank_tools.evaluation.clustering import ClusteredCategory, cluster_categories
from bank_tools.evaluation.detection import (
    CategoryResult,
    EvaluationContext,
    Shot,
    evaluate_categories,
    evaluate_low_shot,
    evaluate_together,
)
from bank_tools.evaluation.published import CLUSTER, DEFECT, LOW_SHOT, MULTI_CLASS, SEMANTIC, published
from bank_tools.evaluation.results import (
    Outcome,
    ResultTable,
    category_json,
    cluster_table,
    clusters_json,
    image_table,
    low_shot_table,
    pixel_table,
    published_table,
)
from bank_tools.report.charts import LineChart, Scatter, Spread
from edge_uad.errors import UsageError

CLUSTER_RATIOS = (0.05, 0.01)
"""The published ones; the recipe's own comes first where it is another."""


def run_per_category(dataset: Dataset, context: EvaluationContext, *, n_good: int | None, task: str) -> Outcome:
    """Defect detection, or one class against the rest.

    Raises:
        UsageError: the task is not what this dataset asks.
    """
    if dataset.labelled_classes != (task == SEMANTIC):
        found, other = ("classes", SEMANTIC) if dataset.labelled_classes else ("products", DEFECT)
        raise UsageError(f"{dataset.root}: its categories are {found}, read as {dataset.layout}; use --task {other}")
    return _detected(dataset, context, evaluate_categories(dataset, context, n_good=n_good), n_good=n_good, task=task)


def run_multi_class(dataset: Dataset, context: EvaluationContext, *, n_good: int | None) -> Outcome:
    """Multi-class: one bank, one threshold."""
    results = evaluate_together(dataset, context, n_good=n_good)
    return _detected(dataset, context, results, n_good=n_good, task=MULTI_CLASS)


def run_low_shot(dataset: Dataset, context: EvaluationContext, *, shots: Sequence[int], n_seeds: int) -> Outcome:
    """Low-shot: mean and spread over seeds."""
    found = evaluate_low_shot(dataset, context, shots=shots, n_seeds=n_seeds)
    return Outcome(
        task=LOW_SHOT,
        dataset=dataset,
        tables=_tables(low_shot_table(found), published_table(published(dataset, LOW_SHOT))),
        results=[{"n_good": one.n_good, "seed": one.seed, **category_json(one.category)} for one in found],
        settings={**settings_of(context), "shots": list(shots), "seeds": n_seeds},
        published=published(dataset, LOW_SHOT),
        warnings=(
            *dict.fromkeys(text for one in found for text in one.category.warnings),
            *(
                f"{category.name}: {len(category.good)} good images are fewer than the {n_good} of --shots; left out"
                for category in dataset.categories
                for n_good in shots
                if n_good > len(category.good)
            ),
        ),
        charts=(_low_shot_chart(found),),
    )


def run_clustering(dataset: Dataset, context: EvaluationContext, *, n_good: int | None) -> Outcome:
    """Anomaly clustering."""
    ratios = tuple(dict.fromkeys((context.variant.recipe.top_ratio, *CLUSTER_RATIOS)))
    found = cluster_categories(dataset.categories, context, n_good=n_good, top_ratios=ratios)
    return Outcome(
        task=CLUSTER,
        dataset=dataset,
        tables=_tables(cluster_table(found), published_table(published(dataset, CLUSTER))),
        results=clusters_json(found),
        settings={**settings_of(context), "good": n_good, "cluster_ratios": list(ratios)},
        published=published(dataset, CLUSTER),
        warnings=tuple(text for one in found for text in one.warnings),
        charts=tuple(_cluster_picture(one) for one in found),
    )


def settings_of(context: EvaluationContext) -> Mapping[str, object]:
    """All that was chosen."""
    variant = asdict(context.variant)
    return {**variant.pop("recipe"), **variant, "pixels": context.pixels, "calibrated": context.calibrated}


def _detected(
    dataset: Dataset, context: EvaluationContext, results: Sequence[CategoryResult], *, n_good: int | None, task: str
) -> Outcome:
    figures = published(dataset, task)
    return Outcome(
        task=task,
        dataset=dataset,
        tables=_tables(image_table(results), pixel_table(results), published_table(figures)),
        results=[category_json(one) for one in results],
        settings={**settings_of(context), "good": n_good},
        published=figures,
        warnings=tuple(text for one in results for text in one.warnings),
        categories=tuple(results),
    )


def _tables(*tables: ResultTable | None) -> tuple[ResultTable, ...]:
    return tuple(table for table in tables if table is not None)


def _low_shot_chart(found: Sequence[Shot]) -> LineChart:
    shots = list(dict.fromkeys(one.n_good for one in found))
    names = dict.fromkeys(one.category.name for one in found)
    return LineChart(
        x=shots,
        series={name: [Spread.of(_aurocs(found, name, n_good)) for n_good in shots] for name in names},
        x_label="good images",
        y_label="image AUROC",
        log_x=True,
    )


def _aurocs(found: Sequence[Shot], category: str, n_good: int) -> list[float | None]:
    return [one.category.image.auroc for one in found if one.n_good == n_good and one.category.name == category]


def _cluster_picture(one: ClusteredCategory) -> Scatter:
    groups: dict[str, list[tuple[float, float]]] = {}
    for kind, (x, y) in zip(one.kinds, one.picture, strict=bool(one.picture)):
        groups.setdefault(kind, []).append((x, y))
    return Scatter(groups=groups, title=one.name)
