"""What a first stage loses is counted part by part."""

import json
from pathlib import Path

import pytest

from benchmarks.two_stage import Stage, stages_of, together, two_stages

GOOD = tuple(float(score) for score in range(1, 20))
"""Of the first stage's good parts: half of them lie above 10."""


def stage(*scores: float, good: tuple[float, ...] = GOOD) -> Stage:
    """Of two good parts, then of bad ones."""
    anomalous = (False, False, *[True] * (len(scores) - 2))
    return Stage(names=tuple(map(str, range(len(scores)))), anomalous=anomalous, test=scores, good=good)


def test_a_bad_part_is_lost_where_the_first_stage_passes_what_the_second_catches() -> None:
    first = stage(5, 11, 10, 12, 3)
    second = stage(0.1, 0.2, 0.9, 0.8, 0.15)
    found = two_stages(first, second, 0.5)
    assert (found.n_bad, found.n_caught, found.n_lost) == (3, 2, 1)
    assert found.goes_on_ratio == 0.5


def test_the_fewer_parts_go_on_the_more_are_lost() -> None:
    first = stage(5, 11, 12, 16, 19)
    second = stage(0.1, 0.2, 0.9, 0.9, 0.9)
    assert [two_stages(first, second, share).n_lost for share in (0.5, 0.25, 0.1)] == [0, 1, 2]


def test_a_part_that_the_first_stage_cannot_judge_goes_on() -> None:
    found = two_stages(stage(5, 11, float("inf")), stage(0.1, 0.2, 0.9), 0.5)
    assert found.n_lost == 0


def test_sets_are_added() -> None:
    one = two_stages(stage(5, 11, 10), stage(0.1, 0.2, 0.9), 0.5)
    other = two_stages(stage(5, 5, 12), stage(0.1, 0.2, 0.9), 0.5)
    both = together([one, other])
    assert (both.n_bad, both.n_caught, both.n_lost, both.goes_on_ratio) == (2, 2, 1, 0.25)


def test_other_pictures_are_refused() -> None:
    with pytest.raises(SystemExit, match="different test images"):
        two_stages(stage(5, 11, 10), stage(0.1, 0.2, 0.9, 0.9), 0.5)


def test_a_first_stage_without_calibration_is_refused() -> None:
    with pytest.raises(SystemExit, match="is not calibrated"):
        two_stages(stage(5, 11, 10, good=()), stage(0.1, 0.2, 0.9), 0.5)


def test_scores_are_read_of_the_candidate_named(tmp_path: Path) -> None:
    scores = {"names": ["a"], "anomalous": [True], "test": [None], "good": [0.5]}
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"results": [{"set": "pill", "candidate": "small", "scores": scores}]}))
    assert stages_of([path], "small")["pill"].test == (float("inf"),)
    with pytest.raises(SystemExit, match="no candidate is called default"):
        stages_of([path], "default")
