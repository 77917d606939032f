"""Which threshold on heat, from good parts alone, comes nearest to the best one that the masks allow?

    python -m benchmarks.pixel_threshold ROOT [ROOT ...] --out FOLDER

Each root is laid out as MVTec AD. For each rule F1 over all pixels as a part of F1-max, whose threshold is chosen on
the masks; then, set by set, the rule that is best on the other sets and what it gives on the one left out.
"""

import argparse
from pathlib import Path

import numpy as np

from bank_tools.bank.tail import threshold_of
from bank_tools.datasets import Category
from bank_tools.datasets.masks import MaskError
from bank_tools.evaluation.detection import EvaluationContext
from bank_tools.evaluation.distance_table import DistanceTable, distances_of
from bank_tools.evaluation.localisation import heat_of
from bank_tools.metrics.pixel import PixelMetrics
from benchmarks.real_sets import categories_of, default_context
from edge_uad.errors import FrameError
from edge_uad.inference.scoring import (
    PIXEL_THRESHOLD_RATIO,
    conformal_threshold,
    heatmap,
    hot_area_heat,
    pixel_threshold,
)
from edge_uad.records import Float32

RATIOS = (0.7, 0.8, 0.9, 1.0)
RATES = (0.01, 0.05, 0.1)
FORMER = "mean + 3 deviations"
CHOSEN = f"{PIXEL_THRESHOLD_RATIO:g} · hot area at 0.01"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished steps")
    parser.add_argument("--bpm-threshold", type=float, default=None, help="default: the recipe's")
    options = parser.parse_args()

    context = default_context(options.out, pixels=True, bpm_threshold=options.bpm_threshold)
    shares = {one.name: shares_of_f1_max(one, context) for one in categories_of(options.roots)}
    print_table(shares)
    print_left_out(shares)


def shares_of_f1_max(category: Category, context: EvaluationContext) -> dict[str, float]:
    """F1 at each rule's threshold, as a part of the best."""
    table = context.search(category.good, category.test)
    metrics = PixelMetrics()
    for sample, row, reason in zip(category.test, table.test, table.reasons, strict=True):
        if reason:
            continue
        try:
            image = sample.image()
            mask = sample.mask((image.shape[0], image.shape[1]))
        except (MaskError, FrameError):
            continue
        if mask is not None:
            metrics.add(heat_of(row, image, context.sample_embedder.embedder), mask.defect)
    shares: dict[str, float] = {}
    for name, threshold in thresholds_of(table, context).items():
        result = metrics.result(threshold)
        shares[name] = (result.segf1 or 0.0) / (result.f1_max or 1.0)
    shares["F1-max"] = metrics.result().f1_max or 0.0
    return shares


def thresholds_of(table: DistanceTable, context: EvaluationContext) -> dict[str, float]:
    """Each rule's threshold, from good images against banks of others."""
    card, recipe = context.sample_embedder.embedder.backbone.card, context.variant.recipe
    heats = np.stack([heatmap(distances_of(row, card.grid_hw), card.input_hw) for row in table.calibration])
    scores = table.calibration_scores(top_ratio=recipe.top_ratio, grid_hw=card.grid_hw)
    areas = np.sort(np.asarray([hot_area_heat(heat) for heat in heats], np.float32))
    hottest = np.sort(heats.max(axis=(1, 2)))
    image_threshold = threshold_of(scores, recipe.false_alarm_rate, seed=recipe.seed)
    return {
        FORMER: float(heats.mean() + 3 * heats.std()),
        **{f"{share:g} of all pixels": float(np.quantile(heats, share)) for share in (0.99, 0.995, 0.998)},
        **{f"hottest pixel at {rate:g}": conformal_threshold(hottest, rate) for rate in (0.01, 0.05, 0.1, 0.2, 0.5)},
        **{f"{ratio:g} · image threshold": ratio * image_threshold for ratio in (0.6, *RATIOS)},
        **{f"{ratio:g} · hot area at {rate:g}": hot(areas, ratio, rate) for rate in RATES for ratio in RATIOS},
        CHOSEN: pixel_threshold(areas),
    }


def hot(areas: Float32, ratio: float, rate: float) -> float:
    return ratio * conformal_threshold(areas, rate)


def print_table(shares: dict[str, dict[str, float]]) -> None:
    names = list(shares)
    print(f"{'F1 as a part of F1-max':<24}" + "".join(f"{name[:11]:>12}" for name in [*names, "mean", "worst"]))
    for rule in next(iter(shares.values())):
        row = [shares[name][rule] for name in names]
        print(f"{rule:<24}" + "".join(f"{value:12.3f}" for value in [*row, float(np.mean(row)), min(row)]))


def print_left_out(shares: dict[str, dict[str, float]]) -> None:
    """The rule that is best on the other sets, judged on each one."""
    rules = [rule for rule in next(iter(shares.values())) if rule != "F1-max"]
    print(f"\n{'left out':<16}{'best on the others':<24}{'it gives':>9}{'former':>9}")
    for name in shares:
        others = [other for other in shares if other != name]
        means = {rule: float(np.mean([shares[other][rule] for other in others])) for rule in rules}
        best = max(means, key=means.__getitem__)
        print(f"{name:<16}{best:<24}{shares[name][best]:9.3f}{shares[name][FORMER]:9.3f}")


if __name__ == "__main__":
    main()
