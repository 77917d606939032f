"""What a coarse first stage would let through that the fine second stage catches, and what the two cost a frame.

    edge-uad export dinov2_vits14 --input 224 --out small.onnx
    edge-uad evaluate ROOT [ROOT ...] --backbone small.onnx --top-ratio 0.02 --no-times --out first
    edge-uad evaluate ROOT [ROOT ...] --no-times --out second
    python -m benchmarks.two_stage --first first/results.json --second second/results.json --first-ms 78 --second-ms 450

Reads the scores of two leagues of the same pictures. A part goes on to the second stage where its score in the first
is above a threshold that a share of good parts exceeds, calibrated on the first bank's own good parts alone; the others
pass as normal. The second stage's threshold is that of 5 % false alarms on the test's good parts. *caught*: the bad
parts that the second stage alone catches; *lost*: those of them that the first lets pass. *goes on*: the share of the
test's good parts that the second stage has to see; the expected time is that of a line of such good parts, the worst
case is a part that both stages see.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bank_tools.metrics.image import recall_at_rate
from edge_uad.inference.scoring import conformal_threshold

SHARES = (0.5, 0.25, 0.1)
"""Of good parts that go on to the second stage."""
FALSE_ALARM_RATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The scores of one stage on one set; infinite where a part cannot be judged."""

    names: tuple[str, ...]
    anomalous: tuple[bool, ...]
    test: tuple[float, ...]
    good: tuple[float, ...]
    """Of the good parts learned, cross-fitted, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What two stages do on one set."""

    n_bad: int
    n_caught: int
    """By the second stage alone."""
    n_lost: int
    """Of those, the ones that the first stage lets pass."""
    goes_on_ratio: float
    """Part of the test's good parts that go on to the second stage."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for stage in ("first", "second"):
        parser.add_argument(f"--{stage}", type=Path, nargs="+", required=True, help="results.json of leagues")
        parser.add_argument(f"--{stage}-candidate", default="default", help="whose scores are taken")
        parser.add_argument(f"--{stage}-ms", type=float, required=True, help="what a frame costs")
    options = parser.parse_args()
    first = stages_of(options.first, options.first_candidate)
    second = stages_of(options.second, options.second_candidate)
    names = [name for name in second if name in first]
    if not names:
        sys.exit("the two leagues have no set in common; give both the same roots")
    print(f"{'':<12}{'':>5}{'':>8}" + "".join(f"  {f'{share:.0%} of good parts go on':>28}" for share in SHARES))
    print(f"{'set':<12}{'bad':>5}{'caught':>8}" + f"{'lost':>10}{'goes on':>10}{'ms':>10}" * len(SHARES))
    found = {name: [two_stages(first[name], second[name], share) for share in SHARES] for name in names}
    for name, its in found.items():
        print_row(name, its, first_ms=options.first_ms, second_ms=options.second_ms)
    print_row("all", [together(its) for its in zip(*found.values(), strict=True)], options.first_ms, options.second_ms)
    worst_ms = options.first_ms + options.second_ms
    print(f"\nworst case {worst_ms:.0f} ms a frame; the second stage alone {options.second_ms:.0f} ms")


def stages_of(paths: Sequence[Path], candidate: str) -> dict[str, Stage]:
    """A candidate's scores by the set, from leagues' results.

    Raises:
        SystemExit: there are none.
    """
    rows = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["results"]]
    found = {row["set"]: _stage(row["scores"]) for row in rows if row["candidate"] == candidate}
    if not found:
        sys.exit(f"{', '.join(map(str, paths))}: no candidate is called {candidate}")
    return found


def _stage(scores: dict[str, Any]) -> Stage:
    return Stage(
        names=tuple(scores["names"]),
        anomalous=tuple(scores["anomalous"]),
        test=tuple(np.inf if score is None else score for score in scores["test"]),
        good=tuple(scores["good"]),
    )


def two_stages(first: Stage, second: Stage, share: float) -> Passed:
    """What the second stage catches alone, and loses where it sees what the first passes on only.

    Args:
        first: calibrated.
        second: of the same test images.
        share: of good parts that go on, in (0, 1).

    Raises:
        SystemExit: the stages are of different pictures, or the first is not calibrated.
    """
    if first.names != second.names or first.anomalous != second.anomalous:
        sys.exit("the two leagues have different test images; give both the same roots")
    if not first.good:
        sys.exit("the first league is not calibrated; run it without --no-calibrate")
    bad = np.asarray(second.anomalous)
    goes_on = np.asarray(first.test) > conformal_threshold(np.asarray(first.good, np.float32), share)
    threshold = recall_at_rate(second.anomalous, second.test, FALSE_ALARM_RATE).threshold
    caught = bad & (np.asarray(second.test) > (np.inf if threshold is None else threshold))
    return Passed(
        n_bad=int(bad.sum()),
        n_caught=int(caught.sum()),
        n_lost=int((caught & ~goes_on).sum()),
        goes_on_ratio=float(goes_on[~bad].mean()),
    )


def together(found: Sequence[Passed]) -> Passed:
    """Bad parts added; the ratio is the mean over the sets."""
    return Passed(
        n_bad=sum(one.n_bad for one in found),
        n_caught=sum(one.n_caught for one in found),
        n_lost=sum(one.n_lost for one in found),
        goes_on_ratio=float(np.mean([one.goes_on_ratio for one in found])),
    )


def print_row(name: str, found: Sequence[Passed], first_ms: float, second_ms: float) -> None:
    """One set, or all, at each share."""
    cells = (
        f"{one.n_lost:10}{one.goes_on_ratio:10.2f}{first_ms + one.goes_on_ratio * second_ms:10.0f}" for one in found
    )
    print(f"{name:<12}{found[0].n_bad:5}{found[0].n_caught:8}" + "".join(cells))


if __name__ == "__main__":
    main()
