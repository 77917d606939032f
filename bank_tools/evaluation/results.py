"""Results of an evaluation: as tables for people and as JSON for machines."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bank_tools.datasets import Dataset
from bank_tools.evaluation.clustering import ClusteredCategory
from bank_tools.evaluation.detection import CategoryResult, EvaluationContext, Judged, Shot
from bank_tools.evaluation.distance_table import content_digest
from bank_tools.evaluation.published import Published
from bank_tools.evaluation.step_cache import digest_of, write_result
from bank_tools.metrics.image import ABSENT, mean_of, show
from bank_tools.report.charts import Chart
from edge_uad import __version__
from edge_uad.errors import UsageError

RESULTS_SCHEMA = 1
PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "faiss-cpu", "faiss-gpu", "scikit-learn", "scipy")
MEAN = "mean"


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows of text under columns; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished evaluation."""

    task: str
    dataset: Dataset
    tables: tuple[ResultTable, ...]
    results: object
    """For JSON, the numbers unrounded."""
    settings: Mapping[str, object]
    published: tuple[Published, ...]
    warnings: tuple[str, ...]
    categories: tuple[CategoryResult, ...] = field(default=())
    """For charts and galleries."""
    charts: tuple[Chart, ...] = field(default=())


def image_table(results: Sequence[CategoryResult]) -> ResultTable:
    """Whole images: how they rank, and what the line sees at the calibrated threshold."""
    columns = (
        "category", "good", "test", "invalid", "AUROC", "AP", "F1-max", "threshold", "recall", "precision",
        "false alarms", "95 % interval",
    )  # fmt: skip
    rows = [
        (
            one.name,
            str(one.n_good),
            str(len(one.judged)),
            str(one.n_invalid),
            *map(show, (one.image.auroc, one.image.ap, one.image.f1_max, one.threshold)),
            *_line_cells(one),
        )
        for one in results
    ]
    if len(results) > 1:
        rows.append(
            (MEAN, "", "", "", *_means(results, ("image",), ("auroc", "ap", "f1_max")), "", *_line_means(results))
        )
    return ResultTable("Images", columns, tuple(rows))


def pixel_table(results: Sequence[CategoryResult]) -> ResultTable | None:
    """Heat against masks; None where no category has masks."""
    names = ("auroc", "ap", "f1_max", "aupro_03", "aupro_005", "segf1")
    if all(one.pixel is None for one in results):
        return None
    rows = [
        (
            one.name,
            *(show(getattr(one.pixel, name)) if one.pixel else ABSENT for name in names),
            str(one.pixel.n_images if one.pixel else 0),
        )
        for one in results
    ]
    if len(results) > 1:
        rows.append((MEAN, *_means(results, ("pixel",), names), ""))
    columns = ("category", "pixel AUROC", "AP", "F1-max", "AUPRO 0.3", "AUPRO 0.05", "SegF1", "images")
    return ResultTable("Pixels", columns, tuple(rows))


def low_shot_table(shots: Sequence[Shot]) -> ResultTable:
    """AUROC against the number of good images, over the seeds."""
    rows = []
    for category in dict.fromkeys(one.category.name for one in shots):
        for n_good in dict.fromkeys(one.n_good for one in shots if one.category.name == category):
            group = [one.category for one in shots if (one.category.name, one.n_good) == (category, n_good)]
            values = [one.image.auroc for one in group]
            known = [value for value in values if value is not None]
            rows.append(
                (
                    category,
                    str(n_good),
                    str(len(group)),
                    *(show(value) for value in spread_of(known)),
                    *_means(group, ("line",), ("recall", "false_alarm_rate")),
                )
            )
    columns = ("category", "good", "seeds", "AUROC", "± std", "lowest", "highest", "recall", "false alarms")
    return ResultTable("Few good images", columns, tuple(rows))


def spread_of(values: Sequence[float]) -> tuple[float | None, float | None, float | None, float | None]:
    """Mean, standard deviation over the sample, lowest, highest; None where there are too few values."""
    if not values:
        return None, None, None, None
    return mean(values), stdev(values) if len(values) > 1 else None, min(values), max(values)


def cluster_table(found: Sequence[ClusteredCategory]) -> ResultTable:
    """Each choice of features, each category."""
    rows = [
        (
            one.category,
            one.features,
            str(one.n_clusters),
            *map(show, (one.metrics.nmi, one.metrics.ari, one.metrics.f1)),
        )
        for category in found
        for one in category.clusterings
    ]
    if len(found) > 1:
        for features in dict.fromkeys(one.features for category in found for one in category.clusterings):
            group = [one.metrics for category in found for one in category.clusterings if one.features == features]
            means = (mean_of(getattr(one, name) for one in group) for name in ("nmi", "ari", "f1"))
            rows.append((MEAN, features, "", *map(str, means)))
    return ResultTable("Clustering", ("category", "features", "k", "NMI", "ARI", "F1"), tuple(rows))


def published_table(figures: Sequence[Published]) -> ResultTable | None:
    """The paper's figures for the same dataset."""
    if not figures:
        return None
    rows = tuple((one.setting, one.metric, show(one.value)) for one in figures)
    return ResultTable("Published (arXiv 2307.12540)", ("setting", "metric", "value"), rows)


def category_json(result: CategoryResult) -> dict[str, Any]:
    """Every number of a category, and every sample's score."""
    return {
        "name": result.name,
        "n_good": result.n_good,
        "n_patches": result.n_patches,
        "n_test": len(result.judged),
        "n_invalid": result.n_invalid,
        "foreground_ratio": result.foreground_ratio,
        "bpm_threshold": result.bpm_threshold,
        "threshold": result.threshold,
        "image": asdict(result.image),
        "line": asdict(result.line) if result.line else None,
        "pixel": asdict(result.pixel) if result.pixel else None,
        "skipped_good": [{"name": name, "reason": reason} for name, reason in result.skipped_good],
        "odd_masks": {reason: list(names) for reason, names in result.odd_masks.items()},
        "samples": [_sample_json(one) for one in result.judged],
    }


def clusters_json(found: Sequence[ClusteredCategory]) -> list[dict[str, Any]]:
    """Every clustering's numbers."""
    return [
        {"category": one.category, "features": one.features, "n_clusters": one.n_clusters, **asdict(one.metrics)}
        for category in found
        for one in category.clusterings
    ]


def write_results(outcome: Outcome, context: EvaluationContext, path: Path) -> None:
    """``results.json``: every setting, seed, version and digest; the same for the same inputs.

    Raises:
        UsageError: it cannot be written.
    """
    dataset = outcome.dataset
    content = {
        "schema": RESULTS_SCHEMA,
        "edge_uad": __version__,
        "packages": package_versions(),
        "task": outcome.task,
        "dataset": {
            "name": dataset.name,
            "layout": dataset.layout,
            "categories": [category.name for category in dataset.categories],
            "digest": dataset_digest(dataset),
        },
        "model": asdict(context.sample_embedder.embedder.backbone.card),
        "settings": dict(outcome.settings),
        "results": outcome.results,
        "published": [asdict(one) for one in outcome.published],
        "warnings": list(outcome.warnings),
    }
    write_result(path, (json.dumps(content, indent=1, sort_keys=True, default=str) + "\n").encode())


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 over the content of every image and its part in the dataset."""
    return digest_of(
        [
            [category.name, part, [[one.kind, one.anomalous, content_digest(one)] for one in samples]]
            for category in dataset.categories
            for part, samples in (("good", category.good), ("test", category.test))
        ]
    )


def check_out(folder: Path) -> None:
    """Make the folder of the results before hours of work go into them.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}; name another --out") from error


def package_versions() -> dict[str, str]:
    """Of the packages that figures may depend on, where they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sample_json(one: Judged) -> dict[str, Any]:
    found = {
        "name": one.sample.name,
        "kind": one.sample.kind,
        "anomalous": one.sample.anomalous,
        "score": one.score,
        "decision": one.decision,
    }
    return {**found, "reason": one.reason} if one.reason else found


def _line_cells(one: CategoryResult) -> tuple[str, str, str, str]:
    line = one.line
    if line is None:
        return ABSENT, ABSENT, ABSENT, ABSENT
    interval = f"{show(line.false_alarm_low, 3)}-{show(line.false_alarm_high, 3)}" if line.n_normal else ABSENT
    return show(line.recall), show(line.precision), show(line.false_alarm_rate), interval


def _line_means(results: Sequence[CategoryResult]) -> tuple[str, ...]:
    return (*_means(results, ("line",), ("recall", "precision", "false_alarm_rate")), "")


def _means(results: Sequence[CategoryResult], parts: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(mean_of(_value(one, part, name) for one in results)) for part in parts for name in names)


def _value(one: CategoryResult, part: str, name: str) -> float | None:
    group = getattr(one, part)
    return None if group is None else getattr(group, name)
