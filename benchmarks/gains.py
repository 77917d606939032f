"""How candidates stand beside the default, from the scores of leagues, and whether the difference is beyond chance.

    python -m benchmarks.gains RESULTS.json [RESULTS.json ...]

Reads ``results.json`` of ``edge-uad evaluate`` with several roots or candidates, and of ``benchmarks.settings``;
candidates of one name are one. A candidate wins or loses on a set where its criterion, the mean of image AUROC and
recall at 5 % realised false alarms, differs from the default's beyond chance: the 95 % interval of the difference over
test images drawn anew, the same ones for both, good and bad by themselves, does not hold 0. That is the spread over the
parts tested; the spread over the good parts learned is what ``edge-uad evaluate --seeds --draw`` measures.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from bank_tools.evaluation.ablation import DEFAULT_LABEL
from bank_tools.metrics.image import image_auroc, recall_at_rate

RATES = (0.01, 0.05)
N_DRAWS = 2000

Scores = Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """The scores on one set."""

    name: str
    anomalous: Sequence[bool]
    scores: dict[str, Scores]
    """Candidate → score of each test image; None where it cannot be judged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json")
    print_candidates(read_sets(parser.parse_args().results))


def read_sets(paths: Sequence[Path]) -> list[SetResult]:
    """The sets of all files; of a candidate that two files have on one set the first counts.

    Raises:
        SystemExit: two files have other test images under the name of one set, or a set lacks the default.
    """
    found: dict[str, SetResult] = {}
    names: dict[str, list[str]] = {}
    for row in (row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["results"]):
        scores = row["scores"]
        one = found.setdefault(row["set"], SetResult(name=row["set"], anomalous=scores["anomalous"], scores={}))
        if names.setdefault(row["set"], scores["names"]) != scores["names"]:
            raise SystemExit(f"{row['set']} has other test images in another file; give results of the same images")
        one.scores.setdefault(row["candidate"], scores["test"])
    if without := [name for name, one in found.items() if DEFAULT_LABEL not in one.scores]:
        raise SystemExit(f"{', '.join(without)}: the default is missing; give results that have it")
    return list(found.values())


def print_candidates(found: Sequence[SetResult]) -> None:
    """A row for each candidate over all sets."""
    names = list(dict.fromkeys(name for one in found for name in one.scores))
    width = max(map(len, names))
    print(f"\n{'candidate':<{width}}  sets   AUROC  recall 1 %  recall 5 %  wins  losses  worst set (AUROC)")
    for name in names:
        pairs = [(one.scores[name], one) for one in found if name in one.scores]
        aurocs = [auroc_of(scores, one.anomalous) for scores, one in pairs]
        recalls = [mean(recall_of(scores, one.anomalous, rate) for scores, one in pairs) for rate in RATES]
        intervals = [gain_interval(one, name) for _, one in pairs]
        wins, losses = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
        counted = f"{'-':>6}{'-':>8}" if name == DEFAULT_LABEL else f"{wins:6}{losses:8}"
        worst = int(np.argmin(aurocs))
        print(
            f"{name:<{width}}  {len(pairs):4}  {mean(aurocs):.4f}"
            + "".join(f"{recall:12.4f}" for recall in recalls)
            + f"{counted}  {pairs[worst][1].name} ({aurocs[worst]:.4f})"
        )


def gain_interval(one: SetResult, candidate: str) -> tuple[float, float]:
    """The 95 % interval of what a candidate's criterion gains on the default's over test images drawn anew."""
    rng = np.random.default_rng(0)
    bad = np.asarray(one.anomalous)
    n_good, n_bad = int((~bad).sum()), int(bad.sum())
    good_draws, bad_draws = (rng.integers(0, n, (N_DRAWS, n)) for n in (n_good, n_bad))
    criteria = []
    for name in (candidate, DEFAULT_LABEL):
        scores = np.asarray([np.inf if score is None else score for score in one.scores[name]])
        goods, bads = np.sort(scores[~bad][good_draws], axis=1), scores[bad][bad_draws]
        higher = (scores[bad][:, None] > scores[~bad]) + 0.5 * (scores[bad][:, None] == scores[~bad])
        drawn_bad, drawn_good = counts(bad_draws, n_bad), counts(good_draws, n_good)
        aurocs = ((drawn_bad @ higher) * drawn_good).sum(axis=1) / (n_bad * n_good)
        thresholds = goods[:, n_good - 1 - int(RATES[1] * n_good)]
        criteria.append((aurocs + (bads > thresholds[:, None]).mean(axis=1)) / 2)
    low, high = np.quantile(criteria[0] - criteria[1], [0.025, 0.975])
    return float(low), float(high)


def counts(draws: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """(draws, n): how often each of n was drawn."""
    found = np.zeros((len(draws), n))
    np.add.at(found, (np.arange(len(draws))[:, None], draws), 1)
    return found


def criterion(scores: Sequence[float | None], anomalous: Sequence[bool]) -> float:
    """Mean of image AUROC and recall at 5 % realised false alarms."""
    return (auroc_of(scores, anomalous) + recall_of(scores, anomalous, RATES[1])) / 2


def auroc_of(scores: Sequence[float | None], anomalous: Sequence[bool]) -> float:
    """Of what could be judged."""
    pairs = [(bad, score) for bad, score in zip(anomalous, scores, strict=True) if score is not None]
    return image_auroc([bad for bad, _ in pairs], [score for _, score in pairs]) or 0.0


def recall_of(scores: Sequence[float | None], anomalous: Sequence[bool], rate: float) -> float:
    """What cannot be judged is rejected."""
    return recall_at_rate(anomalous, [np.inf if one is None else one for one in scores], rate).recall or 0.0


if __name__ == "__main__":
    main()
