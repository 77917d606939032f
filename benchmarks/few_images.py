"""Of thresholds from few good images: how often do other good ones exceed them, and which defects?

    python -m benchmarks.few_images ROOT [ROOT ...] --out FOLDER

Each root is laid out as MVTec AD. So many of the good images' scores are drawn again and again, each of an image that
its bank had not seen; what each way to a threshold realises on the others is compared with the binomial interval of the
rate asked for. *highest*: the highest score. *fitted*: the tail of ``build-bank``. *patches*: the rank among images put
together of patches, each from the same place of a good image drawn for it. ``benchmarks/calibration.py --few`` builds a
bank of its own for every draw, which takes long, and has one way more.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binom

from bank_tools.bank.tail import tail_threshold
from bank_tools.datasets import Category
from bank_tools.evaluation.detection import EvaluationContext
from benchmarks.real_sets import categories_of, default_context
from edge_uad.inference.scoring import calibration_images_needed
from edge_uad.records import Float32

RATES = (0.01, 0.05)
NUMBERS = (10, 15, 20, 31, 50, 70)
FEWEST_LEFT = 14
DRAWS = 60
N_PUT_TOGETHER = 400
WAYS = ("highest", "fitted", "patches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished steps")
    options = parser.parse_args()

    context = default_context(options.out)
    found = {category.name: distances_of_good_and_bad(category, context) for category in categories_of(options.roots)}
    for rate in RATES:
        for n in (n for n in NUMBERS if n < calibration_images_needed(rate)):
            print_row_of_sets(found, n, rate, top_ratio=context.variant.recipe.top_ratio)


def distances_of_good_and_bad(category: Category, context: EvaluationContext) -> tuple[Float32, Float32]:
    """(n, N) of good images, learned or not, and of the anomalous ones."""
    table = context.search(category.good, category.test)
    anomalous = np.asarray([sample.anomalous for sample in category.test])
    judged = np.asarray([not reason for reason in table.reasons])
    return np.concatenate([table.calibration, table.test[judged & ~anomalous]]), table.test[judged & anomalous]


def print_row_of_sets(found: dict[str, tuple[Float32, Float32]], n: int, rate: float, *, top_ratio: float) -> None:
    """For each way and set the mean rate realised and the recall, and on how many sets the interval holds."""
    sets = {name: pair for name, pair in found.items() if len(pair[0]) >= n + FEWEST_LEFT}
    print(f"\n{n} images, asked {rate:g}")
    print(f"{'rate/recall':<12}" + "".join(f"{name[:11]:>13}" for name in [*sets, "mean", "held"]))
    allowed = [float(binom.ppf(0.975, len(good), rate)) / len(good) for good, _ in sets.values()]
    print(f"{'interval to':<12}" + "".join(f"{one:13.3f}" for one in allowed))
    realised = [measure(good, bad, n, rate, top_ratio=top_ratio) for good, bad in sets.values()]
    for way in WAYS:
        pairs = [one[way] for one in realised]
        held = sum(pair[0] <= limit for pair, limit in zip(pairs, allowed, strict=True))
        shown = [f"{pair[0]:.3f}/{pair[1]:.2f}" for pair in [*pairs, np.mean(pairs, axis=0)]]
        print(f"{way:<12}" + "".join(f"{text:>13}" for text in [*shown, f"{held} of {len(allowed)}"]), flush=True)


def measure(good: Float32, bad: Float32, n: int, rate: float, *, top_ratio: float) -> dict[str, tuple[float, float]]:
    """The mean rate realised on good images that were not drawn, and the mean recall, for each way."""
    rng = np.random.default_rng(0)
    scores, defects = scores_of(good, top_ratio), scores_of(bad, top_ratio)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for draw in range(DRAWS):
        order = rng.permutation(len(scores))
        chosen, others = np.sort(scores[order[:n]]), scores[order[n:]]
        rows, places = rng.integers(0, n, (N_PUT_TOGETHER, good.shape[1])), np.arange(good.shape[1])
        put_together = scores_of(good[order[:n]][rows, places], top_ratio)
        thresholds = (
            float(chosen[-1]),
            tail_threshold(chosen, rate, seed=draw),
            float(np.quantile(put_together, 1 - rate)),
        )
        for way, threshold in zip(WAYS, thresholds, strict=True):
            found[way].append((float(np.mean(others > threshold)), float(np.mean(defects > threshold))))
    return {
        way: (float(np.mean([r for r, _ in pairs])), float(np.mean([c for _, c in pairs])))
        for way, pairs in found.items()
    }


def scores_of(squared: Float32, top_ratio: float) -> Float32:
    """(n,), as ``image_score``."""
    top = max(1, round(top_ratio * squared.shape[1]))
    return np.asarray(np.sort(squared, axis=1)[:, -top:].mean(axis=1), np.float32)


if __name__ == "__main__":
    main()
