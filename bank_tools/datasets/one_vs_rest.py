"""Labelled classes as categories: each class is good once, and all others are its anomalies (ALGORITHM §6)."""

from collections.abc import Sequence
from dataclasses import dataclass

from bank_tools.datasets.records import Category, ImageOrigin, Sample


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image and its class."""

    name: str
    label: str
    origin: ImageOrigin


def one_vs_rest(train: Sequence[Labelled], test: Sequence[Labelled]) -> list[Category]:
    """A category for each class that can be learned, scored on the test images of all classes.

    Args:
        train: what banks may learn from.
        test: scored in every category; one of an unlearned class is an anomaly everywhere.
    """
    as_normal = [_sample(item, anomalous=False) for item in test]
    as_anomaly = [_sample(item, anomalous=True) for item in test]
    return [
        Category(
            name=label,
            good=tuple(_sample(item, anomalous=False) for item in train if item.label == label),
            test=tuple(
                normal if normal.kind == label else anomaly
                for normal, anomaly in zip(as_normal, as_anomaly, strict=True)
            ),
        )
        for label in dict.fromkeys(item.label for item in train)
    ]


def _sample(item: Labelled, *, anomalous: bool) -> Sample:
    return Sample(name=item.name, kind=item.label, anomalous=anomalous, origin=item.origin)
