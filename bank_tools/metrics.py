"""How well scores tell anomalous images from normal ones; computed by scikit-learn, from the [evaluate] extra."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_uad.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType


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


def _sklearn_metrics() -> "ModuleType | Any":
    try:
        from sklearn import metrics  # noqa: PLC0415  # an extra: absent at run time
    except ImportError as error:
        raise MissingExtraError("computing metrics", "evaluate") from error
    return metrics
