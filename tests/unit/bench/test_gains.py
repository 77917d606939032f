"""Gains are told from chance by the same test images drawn anew."""

import json
from pathlib import Path

import pytest

from bank_tools.evaluation.ablation import DEFAULT_LABEL
from benchmarks.gains import Scores, SetResult, criterion, gain_interval, print_candidates, read_sets

SCORES = [*map(float, range(40)), *(10.5 + 3 * one for one in range(20))]
ANOMALOUS = [False] * 40 + [True] * 20


def result(**others: list[float | None]) -> SetResult:
    scores: dict[str, Scores] = {DEFAULT_LABEL: list(SCORES), **others}
    return SetResult(name="pill", anomalous=ANOMALOUS, scores=scores)


def test_a_candidate_equal_to_the_default_gains_nothing() -> None:
    assert gain_interval(result(same=list(SCORES)), "same") == (0, 0)


def test_the_interval_lies_where_the_candidate_does() -> None:
    better = [one + 15 * bad for one, bad in zip(SCORES, ANOMALOUS, strict=True)]
    worse = [one - 15 * bad for one, bad in zip(SCORES, ANOMALOUS, strict=True)]
    found = result(better=[*better], worse=[*worse])
    gain = criterion(better, ANOMALOUS) - criterion(SCORES, ANOMALOUS)
    low, high = gain_interval(found, "better")
    assert 0 < low < gain < high
    assert gain_interval(found, "worse")[1] < 0


def test_the_criterion_is_the_leagues() -> None:
    scores: list[float | None] = [*map(float, range(20)), 5.5, 18.5, 30.0, None]
    anomalous = [False] * 20 + [True] * 4
    assert criterion(scores, anomalous) == pytest.approx(((6 + 19 + 20) / 60 + 3 / 4) / 2)


def rows(name: str, **candidates: list[float]) -> list[object]:
    return [
        {
            "set": name,
            "candidate": candidate,
            "scores": {"names": ["a", "b", "c", "d"], "anomalous": [False, False, True, True], "test": scores},
        }
        for candidate, scores in candidates.items()
    ]


def written(path: Path, found: list[object]) -> Path:
    path.write_text(json.dumps({"results": found}))
    return path


def test_candidates_of_several_files_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = written(tmp_path / "one.json", rows("pill", default=[1, 2, 3, 4], joint=[1, 3, 2, 4]))
    other = written(tmp_path / "other.json", rows("nut", default=[1, 4, 3, 5], joint=[1, 2, 3, 4]))
    print_candidates(read_sets([one, other]))
    _, _, default, joint = capsys.readouterr().out.splitlines()
    assert default.split()[:3] == ["default", "2", "0.8750"]
    assert joint.split()[:3] == ["joint", "2", "0.8750"]
    assert default.endswith("nut (0.7500)")
    assert joint.endswith("pill (0.7500)")


def test_other_images_under_one_name_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "one.json", rows("pill", default=[1, 2, 3, 4]))
    changed = json.loads(one.read_text())
    changed["results"][0]["scores"]["names"][0] = "z"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(changed))
    with pytest.raises(SystemExit, match="pill has other test images"):
        read_sets([one, other])


def test_a_set_without_the_default_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="pill: the default is missing"):
        read_sets([written(tmp_path / "one.json", rows("pill", joint=[1, 2, 3, 4]))])
