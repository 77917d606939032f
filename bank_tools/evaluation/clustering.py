"""Anomaly clustering (ALGORITHM §6): test images grouped by the embeddings of their most anomalous patches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bank_tools.datasets import Category
from bank_tools.datasets.wording import counted, listed
from bank_tools.evaluation.detection import EvaluationContext, draw_samples
from bank_tools.evaluation.distance_table import distances_of
from bank_tools.metrics.image import ClusteringMetrics, clustering_metrics
from edge_uad.errors import FrameError, MissingExtraError, UsageError
from edge_uad.inference.scoring import top_patches
from edge_uad.records import Float32, PatchDistances

N_INITIALISATIONS = 10
MOST_PERPLEXITY = 30.0
FEWEST_FOR_A_PICTURE = 4
ALL, MAX = "all patches", "the farthest patch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """One category's test images, clustered by one choice of features."""

    category: str
    features: str
    n_clusters: int
    metrics: ClusteringMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredCategory:
    """One category's clusterings, and a plot of the features of the first top ratio."""

    name: str
    clusterings: tuple[Clustering, ...]
    kinds: tuple[str, ...]
    """Of each image clustered."""
    picture: tuple[tuple[float, float], ...]
    """(n,), t-SNE of the features that follow the first top ratio; empty where there are too few images."""
    warnings: tuple[str, ...]


def cluster_categories(
    dataset_categories: Sequence[Category],
    context: EvaluationContext,
    *,
    n_good: int | None = None,
    top_ratios: Sequence[float],
) -> list[ClusteredCategory]:
    """Cluster each category's test images by all patches, by the farthest one, and by the top ones.

    k is the number of kinds, the good counted as one; k-means with 10 initialisations, seeded.

    Args:
        dataset_categories: with at least two kinds of test images each.
        context: how.
        n_good: learn from so many good images; None for all.
        top_ratios: one set of features for each; the plot shows the first.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        UsageError: a category has one kind alone.
    """
    return [_cluster(category, context, n_good, top_ratios) for category in dataset_categories]


def _cluster(
    category: Category, context: EvaluationContext, n_good: int | None, top_ratios: Sequence[float]
) -> ClusteredCategory:
    n_clusters = len({sample.kind for sample in category.test})
    if n_clusters < 2:
        raise UsageError(f"{category.name}: every test image is of one kind, there is nothing to cluster; leave it out")
    features, kinds, warnings = _features(category, context, n_good, top_ratios)
    seed = context.variant.recipe.seed
    clusterings = tuple(
        Clustering(
            category=category.name,
            features=name,
            n_clusters=n_clusters,
            metrics=clustering_metrics(kinds, _k_means(rows, n_clusters, seed)),
        )
        for name, rows in features.items()
    )
    return ClusteredCategory(
        name=category.name,
        clusterings=clusterings,
        kinds=tuple(kinds),
        picture=_picture(features[_top(top_ratios[0])], seed),
        warnings=(*category.warnings, *warnings),
    )


def _features(
    category: Category, context: EvaluationContext, n_good: int | None, top_ratios: Sequence[float]
) -> tuple[dict[str, Float32], list[str], list[str]]:
    """Per choice (n, D), the kinds (n,), and what could not be used."""
    good = draw_samples(category.good, n_good, seed=context.variant.recipe.seed)
    table = context.search(good, category.test)
    embedder = context.sample_embedder.masking(kernel=context.variant.recipe.bpm_kernel, threshold=table.bpm_threshold)
    found: dict[str, list[Float32]] = {name: [] for name in (ALL, MAX, *map(_top, top_ratios))}
    kinds: list[str] = []
    unused: list[str] = []
    with context.progress.step("clustering", len(category.test), "images") as done:
        for sample, row in zip(category.test, table.test, strict=True):
            try:
                image = embedder.embed(sample)
            except FrameError as error:
                unused.append(f"{sample.name} ({error})")
            else:
                distances = distances_of(row, context.grid_hw)
                tokens = image.embedding.tokens
                found[ALL].append(tokens[image.mask.foreground].mean(axis=0))
                found[MAX].append(tokens[int(row.argmax())])
                for ratio in top_ratios:
                    found[_top(ratio)].append(top_feature(tokens, distances, top_ratio=ratio))
                kinds.append(sample.kind)
            done(1)
    if len(kinds) < len({sample.kind for sample in category.test}):
        raise UsageError(f"{category.name}: {len(kinds)} usable test images are fewer than its kinds")
    warnings = []
    if unused:
        warnings.append(
            f"{category.name}: {counted(unused, 'test image')} left out of the clustering: {listed(unused)}"
        )
    return {name: np.stack(rows) for name, rows in found.items()}, kinds, warnings


def top_feature(tokens: Float32, distances: PatchDistances, *, top_ratio: float) -> Float32:
    """(D,), the mean of those patch embeddings whose distances make the anomaly score."""
    mean: Float32 = tokens[top_patches(distances, top_ratio=top_ratio)].mean(axis=0)
    return mean


def _top(ratio: float) -> str:
    return f"top {ratio:g}"


def _k_means(rows: Float32, n_clusters: int, seed: int) -> list[int]:
    try:
        from sklearn.cluster import KMeans  # noqa: PLC0415  # an extra: absent at run time
    except ImportError as error:
        raise MissingExtraError("clustering", "evaluate") from error
    found = KMeans(n_clusters, n_init=N_INITIALISATIONS, random_state=seed).fit_predict(rows)
    return [int(cluster) for cluster in found]


def _picture(rows: Float32, seed: int) -> tuple[tuple[float, float], ...]:
    if len(rows) < FEWEST_FOR_A_PICTURE:
        return ()
    from sklearn.manifold import TSNE  # noqa: PLC0415  # as above; k-means raised where it is missing

    perplexity = min(MOST_PERPLEXITY, (len(rows) - 1) / 3)
    placed = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    return tuple((float(x), float(y)) for x, y in placed)
