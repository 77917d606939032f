"""``edge-uad evaluate`` with several roots, run as a process on small drawn datasets."""

import html
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bank_tools.metrics.image import recall_at_rate
from tests.conftest import edge_uad
from tests.processes import Running
from tests.trees import write_tree

pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")

CANDIDATES = ("--candidate", "many: top-ratio=0.5 coreset=1", "--candidate", "soft: bpm-threshold=soft")
OPTIONS = {"default": (), "many": ("--top-ratio", 0.5, "--coreset", 1)}
"""Of evaluate, for the same settings."""
RATE = ("--false-alarm-rate", 0.2)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("roots")
    return write_tree(folder / "one", {"nut": 1}), write_tree(folder / "two", {"ring": 2, "bolt": 3})


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of embeddings for all tests here, apart from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EDGE_UAD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def played(roots: tuple[Path, Path], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished league, and its stdout."""
    out = tmp_path_factory.mktemp("out") / "league"
    done = edge_uad(*asked(roots, tiny_model, out))
    return out, done.stdout


def asked(roots: tuple[Path, Path], model: Path, out: Path) -> tuple[object, ...]:
    return ("evaluate", *roots, "--backbone", model, "--out", out, *RATE, *CANDIDATES, "--seeds", 2, "--draw", 0.7)


def results(out: Path) -> Any:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: without_times(one) for name, one in found.items() if name not in {"time", "frame_ms"}}
    return [without_times(one) for one in found] if isinstance(found, list) else found


def test_every_candidate_is_measured_on_every_category(played: tuple[Path, str]) -> None:
    found = results(played[0])
    assert [one["name"] for one in found["sets"]] == ["one/nut", "two/bolt", "two/ring"]
    assert [one["name"] for one in found["candidates"]] == ["default", "many", "soft"]
    assert [(one["candidate"], one["set"]) for one in found["results"]] == [
        (candidate, name) for candidate in ("default", "many", "soft") for name in ("one/nut", "two/bolt", "two/ring")
    ]
    for one in found["results"]:
        assert one["time"]["median_ms"] > 0
        assert one["time"]["processor"]
        assert [(draw["seed"], draw["n_good"]) for draw in one["draws"]] == [(0, 4), (1, 4)]
        assert one["spread"]["n"] == 2
    assert [one["set"] for one in found["left_out"]] == ["one/nut", "two/bolt", "two/ring"]
    mean = sum(one["auroc"] for one in found["left_out"]) / 3
    assert found["headline"]["auroc"] == {"value": pytest.approx(mean), "counted": 3, "of": 3}


@pytest.mark.parametrize("candidate", OPTIONS)
def test_a_row_is_what_evaluate_measures_alone(
    played: tuple[Path, str], roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path, candidate: str
) -> None:
    edge_uad("evaluate", roots[1], "--backbone", tiny_model, "--out", tmp_path, *RATE, *OPTIONS[candidate])
    rows = {one["set"]: one["figures"] for one in results(played[0])["results"] if one["candidate"] == candidate}
    for alone in results(tmp_path)["results"]:
        figures = rows[f"two/{alone['name']}"]
        assert figures["auroc"] == alone["image"]["auroc"]
        assert figures["aupro_03"] == alone["pixel"]["aupro_03"]
        assert figures["threshold"] == alone["threshold"]
        for name in ("recall", "false_alarm_rate", "false_alarm_low", "false_alarm_high"):
            assert figures[name] == alone["line"][name]
        truth = [one["anomalous"] for one in alone["samples"]]
        scores = [one["score"] for one in alone["samples"]]
        assert figures["at_05"]["recall"] == recall_at_rate(truth, scores, 0.05).recall


def test_tables_and_page_have_the_headline_every_set_and_the_defaults_faults(played: tuple[Path, str]) -> None:
    out, table = played
    found = results(out)
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    for heading in ("Sets and candidates", "Candidates over all sets", "Left out: on each set the candidate"):
        assert heading in table
        assert heading in page
    left_out = table[table.index("Left out") :].splitlines()
    assert [line.split()[0] for line in left_out[2:] if line] == ["one/nut", "two/bolt", "two/ring", "mean"]
    assert f"{found['headline']['auroc']['value']:.4f}" in left_out[5]
    auroc_ends = left_out[1].index("AUROC") + len("AUROC")
    assert all(line[auroc_ends - 1].isdigit() for line in left_out[2:6])
    missed = [one for one in found["results"] if one["candidate"] == "default" and one["figures"]["recall"] < 1]
    assert missed
    for one in missed:
        assert f"{one['set']}: worst misses" in page
    assert page.count("data:image/svg+xml") == 4
    assert "data:image/jpeg" in page


def test_killed_midway_and_started_again_it_goes_on_and_ends_with_the_same_numbers(
    played: tuple[Path, str], roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    with Running.edge_uad(*asked(roots, tiny_model, out)) as run:
        run.wait_for("^2 of 9: default on two/bolt")
        run.signal(signal.SIGKILL)
        run.ends(code=-signal.SIGKILL)
    assert not (out / "results.json").exists()
    done = edge_uad(*asked(roots, tiny_model, out))
    assert "steps were kept from before" in done.stderr
    assert without_times(results(out)) == without_times(results(played[0]))


def test_one_root_with_a_candidate_is_a_league_of_its_categories(
    roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    done = edge_uad(
        "evaluate", roots[1], "--candidate", "many: coreset=1", "--seeds", 1, "--json", "--no-pixels",
        "--backbone", tiny_model, "--out", tmp_path,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found == results(tmp_path)
    assert [one["name"] for one in found["sets"]] == ["two/bolt", "two/ring"]
    assert {one["spread"] for one in found["results"]} == {None}
    assert [one["wins"] for one in found["candidates"]] == [None, None]
    assert {one["figures"]["aupro_03"] for one in found["results"]} == {None}


def test_a_league_holds_every_score_that_its_figures_are_of(
    played: tuple[Path, str], roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    edge_uad("evaluate", roots[1], "--backbone", tiny_model, "--out", tmp_path, *RATE)
    rows = {one["set"]: one for one in results(played[0])["results"] if one["candidate"] == "default"}
    for alone in results(tmp_path)["results"]:
        scores = rows[f"two/{alone['name']}"]["scores"]
        assert scores["names"] == [one["name"] for one in alone["samples"]]
        assert scores["anomalous"] == [one["anomalous"] for one in alone["samples"]]
        assert scores["test"] == [one["score"] for one in alone["samples"]]
        assert len(scores["good"]) == alone["n_good"]
        assert scores["good"] == sorted(scores["good"])


def test_a_league_without_thresholds_and_times_has_the_same_scores(
    played: tuple[Path, str], roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    done = edge_uad(*asked(roots, tiny_model, tmp_path), "--no-calibrate", "--no-times")
    assert "Candidates over all sets" in done.stdout
    for light, full in zip(results(tmp_path)["results"], results(played[0])["results"], strict=True):
        assert light["time"] is light["figures"]["threshold"] is light["figures"]["recall"] is None
        assert light["scores"]["good"] == []
        assert light["scores"]["test"] == full["scores"]["test"]
        assert light["draws"] == full["draws"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidate", "a: kernel=1"], "with one of bpm-kernel"),
        (["--candidate", "a: bpm-kernel=2"], "the BPM kernel is 2"),
        (["--candidate", "a: layers=1"], "whose weights edge-uad cannot find by name"),
        (["--candidate", "a: levels=2"], "the model's patches have one level, 2 were asked for"),
        (["--candidate", "a: levels=x"], "the setting levels has the value 'x'"),
        (
            ["--candidate", "a: layers=5+x"],
            "the setting layers has the value '5+x'; give 0-based blocks as 2-9, or 2+5+8",
        ),
        (["--candidate", "default: seed=1"], "default names two candidates"),
        (["--task", "low-shot"], "give --task low-shot one root alone"),
        (["--categories", "nut"], "--categories chooses among those of one root"),
        (["--draw", "1.5"], "--draw is 1.5"),
    ],
)
def test_a_league_that_cannot_be_is_refused_before_any_work(
    roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = edge_uad("evaluate", *roots, *arguments, "--backbone", tiny_model, "--out", tmp_path, expect=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "image AUROC" not in done.stderr


def test_a_root_given_twice_is_refused(roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    done = edge_uad("evaluate", roots[0], roots[0], "--backbone", tiny_model, "--out", tmp_path, expect=2)
    assert "one/nut would be two sets of the league; give each root once" in done.stderr


def test_a_draw_without_a_league_is_refused(roots: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    done = edge_uad("evaluate", roots[0], "--draw", 0.5, "--backbone", tiny_model, "--out", tmp_path, expect=2)
    assert "--draw is of a league" in done.stderr
