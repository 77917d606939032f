"""Metrics of scores, decisions and clusters against the labels of images; computed by scikit-learn and SciPy.

Both come with the [evaluate] extra. What cannot be computed is None and shown as ``-``: it never enters a mean.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_uad.errors import MissingExtraError
from edge_uad.records import Decision

if TYPE_CHECKING:
    from types import ModuleType

Float64 = NDArray[np.float64]

ABSENT = "-"
"""How a value that cannot be computed is shown."""
COVERAGE = 0.95
"""Of the interval around a realised false-alarm rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMetrics:
    """How well scores rank whole images, over every threshold."""

    auroc: float | None
    """Area under the ROC curve."""
    ap: float | None
    """Average precision: the area under precision over recall, as steps."""
    f1_max: float | None
    """The best F1 that any one threshold reaches; chosen on the test images, so a bound and not a promise."""
    f1_max_threshold: float | None
    """That threshold; an image is called anomalous at it or above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineMetrics:
    """Rates of the line at the threshold calibrated on good parts alone: whatever is not *normal* is rejected."""

    recall: float | None
    """Share of the anomalous parts that are rejected."""
    precision: float | None
    """Share of the rejected parts that are anomalous; None where nothing was rejected."""
    false_alarm_rate: float | None
    """Share of the normal parts that are rejected."""
    false_alarm_low: float | None
    """Lower end of its 95 % interval (Clopper and Pearson, Biometrika 26, 1934), from the number of parts alone."""
    false_alarm_high: float | None
    """Upper end of it."""
    n_normal: int
    n_anomalous: int
    n_invalid: int
    """Parts without a judgement; counted as rejected above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallAtRate:
    """What is caught where the threshold is set so that the test's own good parts keep a false-alarm rate."""

    recall: float | None
    """Share of the anomalous parts above the threshold; None where there are none, or no threshold keeps the rate."""
    false_alarm_rate: float | None
    """Share of the good parts above it: at most the rate asked for, less where ties or few parts allow no more."""
    threshold: float | None
    """A part is anomalous strictly above it; ``-inf`` where every good part may be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteringMetrics:
    """How well clusters agree with the kinds, blind to the clusters' names."""

    nmi: float | None
    """Normalised mutual information, arithmetic mean of the entropies."""
    ari: float | None
    """Adjusted Rand index: 0 by chance, 1 for the same partition."""
    f1: float | None
    """F1 over all images (micro-averaged) after the best one-to-one matching of clusters and kinds, as published."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over what could be computed."""

    value: float | None
    counted: int
    """How many values it is of."""
    of: int
    """How many there could have been."""

    def __str__(self) -> str:
        text = show(self.value)
        return text if self.counted == self.of else f"{text} ({self.counted} of {self.of})"


def image_metrics(anomalous: Sequence[bool], scores: Sequence[float]) -> ImageMetrics:
    """Threshold-free metrics of whole images.

    Args:
        anomalous: what each image really is.
        scores: higher is more anomalous.

    Returns:
        Every metric None where one of the two kinds of image is missing: AP and F1 would then be 0 or 1 by
        the choice of test images alone.
    """
    if len(set(anomalous)) < 2:
        return ImageMetrics(auroc=None, ap=None, f1_max=None, f1_max_threshold=None)
    truth, score = np.asarray(anomalous), np.asarray(scores, np.float64)
    metrics = _sklearn_metrics()
    precision, recall, thresholds = metrics.precision_recall_curve(truth, score)
    f1 = f1_of(precision[:-1], recall[:-1])
    best = int(np.argmax(f1))
    return ImageMetrics(
        auroc=image_auroc(anomalous, scores),
        ap=float(metrics.average_precision_score(truth, score)),
        f1_max=float(f1[best]),
        f1_max_threshold=float(thresholds[best]),
    )


def image_auroc(anomalous: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve; None where one of the two kinds is missing, because then there is no curve.

    Args:
        anomalous: what each image really is.
        scores: higher is more anomalous.
    """
    if len(set(anomalous)) < 2:
        return None
    return float(_sklearn_metrics().roc_auc_score(np.asarray(anomalous), np.asarray(scores)))


def roc_curve(anomalous: Sequence[bool], scores: Sequence[float]) -> list[tuple[float, float]]:
    """False-alarm rate and recall, from (0, 0) to (1, 1); empty where there is no curve."""
    if len(set(anomalous)) < 2:
        return []
    false_alarm_rate, recall, _ = _sklearn_metrics().roc_curve(np.asarray(anomalous), np.asarray(scores))
    return [(float(x), float(y)) for x, y in zip(false_alarm_rate, recall, strict=True)]


def line_metrics(anomalous: Sequence[bool], decisions: Sequence[str]) -> LineMetrics:
    """What became of the parts.

    Args:
        anomalous: what each part really is.
        decisions: ``normal``, ``anomalous`` or ``invalid``, the threshold being calibrated beforehand.
    """
    truth = np.asarray(anomalous, np.bool_)
    rejected = np.asarray([decision != Decision.NORMAL for decision in decisions], np.bool_)
    if truth.shape != rejected.shape:
        raise ValueError(f"{truth.size} parts and {rejected.size} decisions")
    n_anomalous, n_normal = int(truth.sum()), int((~truth).sum())
    hits, alarms = int((truth & rejected).sum()), int((~truth & rejected).sum())
    low, high = _interval(alarms, n_normal)
    return LineMetrics(
        recall=hits / n_anomalous if n_anomalous else None,
        precision=hits / (hits + alarms) if n_anomalous and hits + alarms else None,
        false_alarm_rate=alarms / n_normal if n_normal else None,
        false_alarm_low=low,
        false_alarm_high=high,
        n_normal=n_normal,
        n_anomalous=n_anomalous,
        n_invalid=sum(decision == Decision.INVALID for decision in decisions),
    )


def recall_at_rate(anomalous: Sequence[bool], scores: Sequence[float], rate: float) -> RecallAtRate:
    """The largest recall of any threshold at which at most ``rate`` of the good parts are called anomalous.

    The threshold is a test score of a good part, chosen with the test's labels: a measure of how well the scores tell
    the two apart, free of the calibration, and no promise for a line. A part that ties with it is normal.

    Args:
        anomalous: what each part really is.
        scores: higher is more anomalous; ``inf`` for a part that cannot be judged, which every threshold rejects.
        rate: 0 to 1, of the good parts.

    Returns:
        Every field None where there is no good part, or where more of them than allowed cannot be judged.
    """
    truth, score = np.asarray(anomalous, np.bool_), np.asarray(scores, np.float64)
    good = np.sort(score[~truth])[::-1]
    n_allowed = math.floor(rate * len(good) + 1e-9)  # 0.05 · 20 must not fall below 1 by its last binary digit
    threshold = float(good[n_allowed]) if n_allowed < len(good) else -math.inf
    if not len(good) or threshold == math.inf:
        return RecallAtRate(recall=None, false_alarm_rate=None, threshold=None)
    bad = score[truth]
    return RecallAtRate(
        recall=float((bad > threshold).mean()) if len(bad) else None,
        false_alarm_rate=float((good > threshold).mean()),
        threshold=threshold,
    )


def clustering_metrics(kinds: Sequence[str], clusters: Sequence[int]) -> ClusteringMetrics:
    """Agreement of clusters and kinds (ALGORITHM §6).

    Args:
        kinds: what each image really is; ``good`` counts as a kind.
        clusters: the cluster each image fell into.

    Returns:
        Every metric None where there are fewer than two kinds: then there is nothing to cluster.
    """
    if len(set(kinds)) < 2:
        return ClusteringMetrics(nmi=None, ari=None, f1=None)
    metrics = _sklearn_metrics()
    return ClusteringMetrics(
        nmi=float(metrics.normalized_mutual_info_score(kinds, clusters)),
        ari=float(metrics.adjusted_rand_score(kinds, clusters)),
        f1=_matched_f1(kinds, clusters),
    )


def mean_of(values: Iterable[float | None]) -> Mean:
    """The mean of what could be computed; None of nothing."""
    everything = list(values)
    computed = [value for value in everything if value is not None]
    return Mean(float(np.mean(computed)) if computed else None, len(computed), len(everything))


def show(value: float | None, digits: int = 4) -> str:
    """A value for a table: ``-`` where it cannot be computed."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def f1_of(precision: Float64, recall: Float64) -> Float64:
    """Harmonic mean of each pair; 0 where both are 0."""
    total: Float64 = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)


def _interval(alarms: int, n_normal: int) -> tuple[float | None, float | None]:
    if not n_normal:
        return None, None
    interval = _scipy("stats").binomtest(alarms, n_normal).proportion_ci(COVERAGE, method="exact")
    return float(interval.low), float(interval.high)


def _matched_f1(kinds: Sequence[str], clusters: Sequence[int]) -> float:
    """One label per image makes micro-averaged F1 the share of images whose cluster is matched to their kind."""
    kind_of, cluster_of = np.unique(kinds, return_inverse=True)[1], np.unique(clusters, return_inverse=True)[1]
    together = np.zeros((int(kind_of.max()) + 1, int(cluster_of.max()) + 1), np.int64)
    np.add.at(together, (kind_of, cluster_of), 1)
    rows, columns = _scipy("optimize").linear_sum_assignment(together, maximize=True)
    return float(together[rows, columns].sum() / len(kinds))


def _sklearn_metrics() -> "ModuleType | Any":
    try:
        from sklearn import metrics  # noqa: PLC0415  # an extra: absent at run time
    except ImportError as error:
        raise MissingExtraError("computing metrics", "evaluate") from error
    return metrics


def _scipy(part: str) -> "ModuleType | Any":
    try:
        return import_module(f"scipy.{part}")
    except ImportError as error:
        raise MissingExtraError("computing metrics", "evaluate") from error
