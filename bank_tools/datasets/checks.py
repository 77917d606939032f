"""What is odd in a category: what makes it useless is an error, what costs a metric is told."""

from collections import defaultdict
from pathlib import Path

from bank_tools.datasets.folders import counted, listed
from bank_tools.datasets.records import Category, Sample
from edge_uad.errors import UsageError


def oddities(category: Category, *, root: Path, labelled_classes: bool) -> list[str]:
    """Sentences for the user.

    Raises:
        UsageError: no good image to learn from, or nothing to score.
    """
    if not category.good:
        raise UsageError(
            f"{root}: the category {category.name} has no good image to learn from; add some or leave it out"
        )
    if not category.test:
        raise UsageError(f"{root}: the category {category.name} has no test image to score; add some or leave it out")
    warnings = list(category.warnings)
    if len(category.good) == 1:
        warnings.append(
            f"{category.name}: one good image alone; a threshold calibrated on it says little about the next part"
        )
    anomalous = [sample for sample in category.test if sample.anomalous]
    if not anomalous:
        warnings.append(f"{category.name}: no test image is anomalous; recall, AUROC and their like cannot be computed")
    elif len(anomalous) == len(category.test):
        warnings.append(
            f"{category.name}: every test image is anomalous; AUROC and the false-alarm rate cannot be computed"
        )
    return warnings if labelled_classes else warnings + _without_masks(category.name, anomalous)


def _without_masks(category: str, anomalous: list[Sample]) -> list[str]:
    bare = [sample for sample in anomalous if sample.mask_path is None]
    if not bare:
        return []
    if len(bare) == len(anomalous):
        return [f"{category}: no anomalous image has a mask; pixel metrics cannot be computed"]
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for sample in bare:
        by_kind[sample.kind].append(sample.name)
    return [
        f"{category}: {counted(names, 'image')} of kind {kind} {'has' if len(names) == 1 else 'have'} no mask and "
        f"{'counts' if len(names) == 1 else 'count'} in the image metrics alone: {listed(names)}"
        for kind, names in by_kind.items()
    ]
