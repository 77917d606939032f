"""Which rule makes an image's score of its patch distances: the top of the picture, of the part, or a soft maximum?

    python -m benchmarks.score_rules ROOT [ROOT ...] --out FOLDER [--good N]

Each root is laid out as MVTec AD. All rules score the same distances, those of the default. *top r*: mean of the
highest patches, the part r of the picture's. *area r*: of the highest, the part r of those that the mask calls
foreground, whether or not the bank masks. *ratios*: mean of the tops 0.005, 0.01, 0.02 and 0.05. *exp t*: soft
maximum, t · log of the mean of exp(d / t). *power p*: p-th root of the mean of the p-th powers.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bank_tools.bank.recipe import PAPER_BPM_THRESHOLD
from bank_tools.bank.tail import threshold_of
from bank_tools.datasets import Category, Sample
from bank_tools.evaluation.detection import EvaluationContext, draw_samples
from bank_tools.metrics.image import Float64, image_auroc, recall_at_rate
from benchmarks.real_sets import categories_of, default_context
from edge_uad.errors import FrameError
from edge_uad.inference.masking import foreground
from edge_uad.records import Float32, Int

RATE = 0.05
WON_BY = 0.005
"""A set is won or lost where the mean of AUROC and recall differs from the default's by more than this."""

Rule = Callable[[Float32, Int], Float64]
"""Distances (n, N), ascending in each row, and each image's foreground patches (n,) → scores (n,)."""


def top(ordered: Float32, _areas: Int, ratio: float) -> Float64:
    """Mean of the highest, so many as a part of the picture."""
    n = max(1, round(ratio * ordered.shape[1]))
    return np.asarray(ordered[:, -n:].mean(axis=1, dtype=np.float64), np.float64)


def top_of_area(ordered: Float32, areas: Int, ratio: float) -> Float64:
    """Mean of the highest, so many as a part of the image's own foreground."""
    counts = np.maximum(1, np.rint(ratio * areas).astype(int))
    return np.asarray([row[-n:].mean(dtype=np.float64) for row, n in zip(ordered, counts, strict=True)], np.float64)


def several_tops(ordered: Float32, areas: Int) -> Float64:
    """Mean of four tops."""
    return np.asarray(np.mean([top(ordered, areas, ratio) for ratio in (0.005, 0.01, 0.02, 0.05)], axis=0), np.float64)


def soft_maximum(ordered: Float32, _areas: Int, temperature: float) -> Float64:
    """Log of the mean of exponentials."""
    highest = ordered[:, -1:].astype(np.float64)
    mean = np.exp((ordered - highest) / temperature).mean(axis=1)
    return np.asarray(highest[:, 0] + temperature * np.log(mean), np.float64)


def power_mean(ordered: Float32, _areas: Int, power: float) -> Float64:
    """Generalised mean."""
    return np.asarray((ordered.astype(np.float64) ** power).mean(axis=1) ** (1 / power), np.float64)


DEFAULT = "top 0.01"
RULES: dict[str, Rule] = {
    **{f"top {ratio:g}": partial(top, ratio=ratio) for ratio in (0.01, 0.005, 0.02, 0.05)},
    **{f"area {ratio:g}": partial(top_of_area, ratio=ratio) for ratio in (0.005, 0.01, 0.02, 0.05)},
    "ratios": several_tops,
    **{f"exp {one:g}": partial(soft_maximum, temperature=one) for one in (0.01, 0.02, 0.05, 0.1)},
    **{f"power {one:g}": partial(power_mean, power=one) for one in (4, 8, 16)},
}


@dataclass(frozen=True, slots=True)
class SetOfDistances:
    """The distances of one set, each row ascending, and how many patches of each image are foreground."""

    test: Float32
    anomalous: list[bool]
    test_areas: Int
    good: Float32
    """Of the good images, each against a bank of others."""
    good_areas: Int


@dataclass(frozen=True, slots=True)
class Figures:
    """What one rule gives on one set."""

    auroc: float
    recall: float
    """At the rate realised on the test."""
    calibrated_recall: float
    false_alarms: float
    """At the threshold calibrated on good images."""

    @property
    def criterion(self) -> float:
        """Of the league."""
        return (self.auroc + self.recall) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished steps; a league's are used")
    parser.add_argument("--good", type=int, default=None, help="learn from so many good images; default: all")
    options = parser.parse_args()
    context = default_context(options.out)
    sets = {one.name: distances_of(one, context, n_good=options.good) for one in categories_of(options.roots)}
    recipe = context.variant.recipe
    rate, seed = recipe.false_alarm_rate, recipe.seed
    found = {
        name: [figures_of(rule, one, rate=rate, seed=seed) for one in sets.values()] for name, rule in RULES.items()
    }
    print_table(list(sets), found)


def distances_of(category: Category, context: EvaluationContext, *, n_good: int | None) -> SetOfDistances:
    """Search the set, or read what was found before."""
    good = draw_samples(category.good, n_good, seed=context.variant.recipe.seed)
    table = context.search(good, category.test)
    judged = [not reason for reason in table.reasons]
    tested = [sample for sample, is_judged in zip(category.test, judged, strict=True) if is_judged]
    skipped = {name for name, _ in table.skipped}
    return SetOfDistances(
        test=np.sort(table.test[judged], axis=1),
        anomalous=[sample.anomalous for sample in tested],
        test_areas=np.asarray([area_of(sample, context) for sample in tested]),
        good=np.sort(table.calibration, axis=1),
        good_areas=np.asarray([area_of(sample, context) for sample in good if sample.name not in skipped]),
    )


def area_of(sample: Sample, context: EvaluationContext) -> int:
    """How many patches the mask calls foreground."""
    embedding = context.sample_embedder.embedding(sample)
    kernel = context.variant.recipe.bpm_kernel
    try:
        mask = foreground(embedding.attention, embedding.grid_hw, kernel=kernel, threshold=PAPER_BPM_THRESHOLD)
    except FrameError:
        return len(embedding.tokens)
    return int(mask.foreground.sum())


def figures_of(rule: Rule, one: SetOfDistances, *, rate: float, seed: int) -> Figures:
    """Of one rule on one set."""
    scores = rule(one.test, one.test_areas)
    calibration = np.sort(rule(one.good, one.good_areas)).astype(np.float32)
    above = scores > threshold_of(calibration, rate, seed=seed)
    anomalous = np.asarray(one.anomalous)
    return Figures(
        auroc=image_auroc(one.anomalous, scores.tolist()) or 0.0,
        recall=recall_at_rate(one.anomalous, scores.tolist(), RATE).recall or 0.0,
        calibrated_recall=float(above[anomalous].mean()),
        false_alarms=float(above[~anomalous].mean()),
    )


def print_table(names: list[str], found: dict[str, list[Figures]]) -> None:
    print(f"{f'AUROC/recall {RATE:.0%}':<18}" + "".join(f"{name[:11]:>12}" for name in [*names, "mean"]), end="")
    print(f"{'wins':>6}{'losses':>8}{'recall':>9}{'alarms':>8}")
    for rule, row in found.items():
        mean = replace(row[0], auroc=mean_of([one.auroc for one in row]), recall=mean_of([one.recall for one in row]))
        won = [one.criterion - default.criterion for one, default in zip(row, found[DEFAULT], strict=True)]
        print(f"{rule:<18}" + "".join(f"{one.auroc:7.3f}/{one.recall:.2f}" for one in [*row, mean]), end="")
        print(f"{sum(one > WON_BY for one in won):6}{sum(one < -WON_BY for one in won):8}", end="")
        print(f"{mean_of([one.calibrated_recall for one in row]):9.3f}", end="")
        print(f"{mean_of([one.false_alarms for one in row]):8.3f}", flush=True)


def mean_of(values: list[float]) -> float:
    return float(np.mean(values))


if __name__ == "__main__":
    main()
