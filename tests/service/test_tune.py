"""``edge-uad tune``, run as a process on small drawn parts."""

import html
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bank_tools.metrics.image import image_auroc
from edge_uad.inference.scoring import conformal_threshold
from tests.conftest import edge_uad
from tests.parts import write_parts

pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")

RATE = ("--false-alarm-rate", 0.1)
CANDIDATES = ("--candidate", "few: top-ratio=0.1", "--candidate", "kernel: bpm-threshold=0.1 bpm-kernel=3")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of embeddings for all tests here, apart from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EDGE_UAD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("normals") / "good parts", 10, seed=0)


@pytest.fixture(scope="module")
def rejects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("rejects") / "rejects", 4, seed=1, scratched=True)


@pytest.fixture(scope="module")
def tuned(
    normals: Path, rejects: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, str]:
    """The folder of a finished choice among our candidates, its stdout and stderr."""
    out = tmp_path_factory.mktemp("out") / "tuning"
    done = edge_uad(*asked(normals, rejects, tiny_model, out))
    return out, done.stdout, done.stderr


@pytest.fixture(scope="module")
def parts(normals: Path, rejects: Path) -> tuple[Path, Path]:
    return normals, rejects


def asked(normals: Path, rejects: Path, model: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("tune", normals, "--rejects", rejects, "--backbone", model, "--out", out, *RATE, *more)


def results(out: Path) -> Any:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_every_candidate_is_measured_or_left_out_with_its_reason(tuned: tuple[Path, str, str]) -> None:
    out, table, said = tuned
    found = results(out)
    left_out = {one["name"]: one["reason"] for one in found["left_out"]}
    assert left_out["levels=1"] == left_out["top-ratio=0.05"] == "it is the default's own setting"
    assert "whose weights edge-uad cannot find by name" in left_out["input=224"]
    assert sum(name.startswith("bpm-threshold") for name in left_out) == 1  # what the good parts decided
    names = [one["name"] for one in found["candidates"]]
    assert names[:3] == ["default", "top-ratio=0.005", "top-ratio=0.02"]
    assert len(names) + len(left_out) == 8
    assert all(f"left out: {name}: {reason}" in said for name, reason in left_out.items())
    rows = [line for line in table.splitlines() if line.startswith(("default", "top-ratio", "bpm-threshold"))]
    assert [row.split()[0] for row in rows] == names
    masks = [row.replace(" * ", " ").split()[1] for row in rows]
    assert masks == [f"{one['bpm_threshold']:g}" if one["bpm_threshold"] else "none" for one in found["candidates"]]
    assert len(set(masks)) == 2


def test_the_figures_are_those_of_the_scores(tuned: tuple[Path, str, str]) -> None:
    for one in results(tuned[0])["candidates"]:
        good, bad = one["good_scores"], one["reject_scores"]
        assert (len(good), len(bad)) == (10, 4)
        assert one["auroc"]["value"] == pytest.approx(image_auroc([False] * 10 + [True] * 4, [*good, *bad]))
        threshold = conformal_threshold(np.sort(np.asarray(good, np.float32)), 0.1)
        assert one["threshold"] == threshold
        assert one["recall"]["value"] == np.mean(np.asarray(bad) > threshold)
        assert one["auroc"]["low"] <= one["auroc"]["value"] <= one["auroc"]["high"]


def test_good_parts_are_scored_as_build_bank_calibrates(
    tuned: tuple[Path, str, str], normals: Path, tiny_model: Path, tmp_path: Path
) -> None:
    done = edge_uad(
        "build-bank", normals, "--model", tiny_model, "--out", tmp_path / "b.safetensors", *RATE, "--json"
    )  # fmt: skip
    manifest = json.loads(done.stdout)
    default = results(tuned[0])["candidates"][0]
    assert default["threshold"] == pytest.approx(manifest["threshold"], rel=1e-6)
    assert default["n_patches"] == manifest["n_patches"]


def test_a_sentence_decides_and_its_command_builds_the_bank(
    tuned: tuple[Path, str, str], tmp_path: Path, tiny_model: Path, normals: Path
) -> None:
    out, said, _ = tuned
    found = results(out)
    assert found["decision"] in said.splitlines()
    assert found["chosen"] == "default"
    assert found["decision"].startswith("The default stays")
    [command] = found["commands"]
    assert f"  {command}" in said.splitlines()
    words = shlex.split(command)
    assert words == ["edge-uad", "build-bank", str(normals), "--model", str(tiny_model), "--false-alarm-rate", "0.1"]
    edge_uad(*words[1:], "--out", tmp_path / "bank.safetensors")


def test_the_page_shows_why(tuned: tuple[Path, str, str]) -> None:
    out, _, _ = tuned
    found = results(out)
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    assert found["decision"] in page
    assert found["commands"][0] in page.replace("<wbr>", "")
    assert page.count("data:image/svg+xml") == 3
    assert page.count("data:image/jpeg") == 2 * 4
    for heading in ("Candidates (* chosen)", "Gains over the default", "Scores", "Rejects: default", "nearest to it"):
        assert heading in page


def test_started_again_it_searches_nothing_and_ends_with_the_same(
    tuned: tuple[Path, str, str], normals: Path, rejects: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(tuned[0] / "steps", out / "steps")
    done = edge_uad(*asked(normals, rejects, tiny_model, out))
    assert "calibrating" in tuned[2]
    assert "calibrating" not in done.stderr
    assert results(out) == results(tuned[0])


def test_candidates_that_are_named_replace_ours(normals: Path, rejects: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = edge_uad(*asked(normals, rejects, tiny_model, tmp_path, *CANDIDATES, "--json"))
    found = json.loads(done.stdout)
    assert found == results(tmp_path)
    assert [one["name"] for one in found["candidates"]] == ["default", "few", "kernel"]
    assert found["needed_share"] == 1 - 0.05 / 4
    assert found["left_out"] == []


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("a: turn-good=yes", "with which no bank can be built"),
        ("a: bpm-threshold=soft", "with which no bank can be built"),
        ("a: levels=2", "the model's patches have one level, 2 were asked for"),
        ("a: input=224", "whose weights edge-uad cannot find by name"),
        ("a: kernel=1", "with one of bpm-kernel"),
    ],
)
def test_a_candidate_that_cannot_be_is_refused_before_any_work(
    parts: tuple[Path, Path], tiny_model: Path, tmp_path: Path, candidate: str, message: str
) -> None:
    done = edge_uad(*asked(*parts, tiny_model, tmp_path, "--candidate", candidate), expect=2)
    assert message in done.stderr
    assert "embedding" not in done.stderr


def test_what_cannot_be_read_is_named_and_does_not_count(
    normals: Path, rejects: Path, tiny_model: Path, tmp_path: Path
) -> None:
    few, good = tmp_path / "few", tmp_path / "good"
    shutil.copytree(rejects, few)
    shutil.copytree(normals, good)
    (few / "0.png").write_bytes(b"no picture")
    (good / "3.png").write_bytes(b"no picture")
    shutil.copy(few / "1.png", few / "copy.png")
    done = edge_uad(*asked(good, few, tiny_model, tmp_path / "out", "--candidate", "top-ratio=0.1"))
    assert "1 reject cannot be read and left out: 0.png" in done.stderr
    assert "1 reject left out as copies of others: copy.png" in done.stderr
    assert "1 good part cannot be read and left out: 3.png" in done.stderr
    found = results(tmp_path / "out")
    assert found["rejects"]["names"] == ["1.png", "2.png", "3.png"]
    assert len(found["candidates"][0]["good_scores"]) == 9
    (few / "1.png").unlink()
    (few / "2.png").unlink()
    refused = edge_uad(*asked(good, few, tiny_model, tmp_path / "out"), expect=2)
    assert f"{few} holds 2 pictures of rejects to choose by, 3 are needed; add some" in refused.stderr
    assert "0.png" in refused.stderr


def test_rejects_among_the_good_parts_are_refused(normals: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = edge_uad(*asked(normals, normals, tiny_model, tmp_path), expect=2)
    assert "10 rejects are among the good parts, too: 0.png, 1.png, 2.png, 3.png, …" in done.stderr
