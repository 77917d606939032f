"""``edge-uad evaluate`` and ``ablate``, run as processes on small drawn datasets."""

import html
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.processes import Running
from tests.trees import write_tree

pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree") / "drawn", {"nut": 1, "ring": 2})


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of embeddings for all tests here, apart from the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EDGE_UAD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def evaluated(tree: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished evaluation, and its stdout."""
    out = tmp_path_factory.mktemp("out") / "defect"
    done = edge_uad("evaluate", tree, "--backbone", tiny_model, "--out", out, "--false-alarm-rate", 0.2)
    return out, done.stdout


def results(out: Path) -> Any:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_the_scores_are_those_of_build_bank_and_inspect(
    evaluated: tuple[Path, str], tree: Path, tiny_model: Path, tmp_path: Path
) -> None:
    nut = results(evaluated[0])["results"][0]
    bank = tmp_path / "bank.safetensors"
    edge_uad("build-bank", tree / "nut/train/good", "--model", tiny_model, "--out", bank, "--false-alarm-rate", 0.2)
    lines = edge_uad("inspect", tree / "nut/test/**/*.png", "--bank", bank, "--model", tiny_model, "--json").stdout
    told = {
        Path(one["part_id"]).relative_to(tree / "nut").as_posix(): one for one in map(json.loads, lines.splitlines())
    }
    assert nut["threshold"] == PatchBank.load(bank).manifest.threshold
    assert len(told) == len(nut["samples"]) == 9
    for sample in nut["samples"]:
        verdict = told[sample["name"]]
        assert (sample["score"], sample["decision"]) == (verdict["score"], verdict["decision"])


def test_every_metric_is_in_the_table_the_json_and_the_page(evaluated: tuple[Path, str]) -> None:
    out, table = evaluated
    for heading in ("AUROC", "F1-max", "recall", "precision", "false alarms", "AUPRO 0.3", "AUPRO 0.05", "SegF1"):
        assert heading in table
    found = results(out)
    assert [one["name"] for one in found["results"]] == ["nut", "ring"]
    assert {"auroc", "ap", "f1_max"} <= set(found["results"][0]["image"])
    assert {"auroc", "ap", "f1_max", "aupro_03", "aupro_005", "segf1"} <= set(found["results"][0]["pixel"])
    assert {"recall", "precision", "false_alarm_rate"} <= set(found["results"][0]["line"])
    assert found["settings"]["seed"] == 0
    assert found["model"]["model_id"]
    assert found["packages"]["numpy"]
    assert len(found["dataset"]["digest"]) == 64
    page = (out / "report.html").read_text(encoding="utf-8")
    for heading in ("Images", "Pixels", "Worst misses", "Worst false alarms", "Best hits", "Settings"):
        assert heading in page
    assert "data:image/jpeg" in page
    assert f"{found['results'][0]['image']['auroc']:.4f}" in page


def test_the_columns_of_the_table_are_aligned(evaluated: tuple[Path, str]) -> None:
    images = evaluated[1].split("\n\n")[0].splitlines()
    assert images[0] == "Images"
    assert [line.split()[0] for line in images[1:]] == ["category", "nut", "ring", "mean"]
    auroc_ends = images[1].index("AUROC") + len("AUROC")
    assert all(line[auroc_ends - 1].isdigit() and line[auroc_ends] == " " for line in images[2:])


def test_killed_midway_and_started_again_it_goes_on_and_ends_with_the_same_numbers(
    evaluated: tuple[Path, str], tree: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    asked = ("evaluate", tree, "--backbone", tiny_model, "--out", out, "--false-alarm-rate", 0.2)
    with Running.edge_uad(*asked) as run:
        run.wait_for("^nut: image AUROC")
        run.signal(signal.SIGKILL)
        run.ends(code=-signal.SIGKILL)
    assert not (out / "results.json").exists()
    done = edge_uad(*asked)
    assert "steps were kept from before" in done.stderr
    assert results(out) == results(evaluated[0])


def test_a_changed_setting_is_not_taken_from_an_earlier_run(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    asked = ("evaluate", tree, "--categories", "nut", "--no-pixels", "--backbone", tiny_model, "--out", tmp_path)
    edge_uad(*asked)
    first = results(tmp_path)["results"][0]
    done = edge_uad(*asked, "--bpm-threshold", 0, "--coreset", 1)
    changed = results(tmp_path)["results"][0]
    assert "steps were kept" not in done.stderr
    assert changed["n_patches"] == 6 * 16 > first["n_patches"]
    done = edge_uad(*asked, "--top-ratio", 0.5)
    assert "1 steps were kept from before" in done.stderr  # the search does not depend on it, the scores do
    assert results(tmp_path)["results"][0]["samples"] != first["samples"]


def test_numbers_do_not_depend_on_the_cache(
    evaluated: tuple[Path, str], tree: Path, tiny_model: Path, tmp_path: Path
) -> None:
    edge_uad("evaluate", tree, "--backbone", tiny_model, "--out", tmp_path, "--false-alarm-rate", 0.2, "--cache-gib", 0)
    assert results(tmp_path)["results"] == results(evaluated[0])["results"]


def test_multi_class_has_one_bank_and_one_threshold(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    edge_uad("evaluate", tree, "--task", "multi-class", "--backbone", tiny_model, "--out", tmp_path, "--no-pixels")
    nut, ring = results(tmp_path)["results"]
    assert nut["threshold"] == ring["threshold"]
    assert nut["n_good"] == ring["n_good"] == 12
    assert (len(nut["samples"]), len(ring["samples"])) == (9, 9)


def test_semantic_anomalies_are_the_other_classes(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    for split, kinds in (("train", ("good",)), ("test", ("good", "dark"))):
        for kind in kinds:
            shutil.copytree(tree / "nut" / split / kind, tmp_path / "set" / split / kind)
    shutil.copytree(tree / "nut" / "test" / "dark", tmp_path / "set" / "train" / "dark")
    out = tmp_path / "out"
    edge_uad(
        "evaluate",
        tmp_path / "set",
        "--task",
        "semantic",
        "--layout",
        "classes",
        "--backbone",
        tiny_model,
        "--out",
        out,
    )
    dark, good = results(out)["results"]
    assert (dark["name"], good["name"]) == ("dark", "good")
    assert {one["kind"]: one["anomalous"] for one in good["samples"]} == {"good": False, "dark": True}
    assert {one["kind"]: one["anomalous"] for one in dark["samples"]} == {"good": True, "dark": False}
    assert good["pixel"] is None
    assert good["image"]["auroc"] == 1


def test_low_shot_has_mean_and_spread_over_seeds(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = edge_uad(
        "evaluate", tree, "--task", "low-shot", "--shots", "1,4,50", "--seeds", 2, "--categories", "nut",
        "--backbone", tiny_model, "--out", tmp_path,
    )  # fmt: skip
    found = results(tmp_path)["results"]
    assert [(one["n_good"], one["seed"]) for one in found] == [(1, 0), (1, 1), (4, 0), (4, 1)]
    assert [one["threshold"] is None for one in found] == [True, True, False, False]
    one, four = [line for line in done.stdout.splitlines() if line.startswith("nut")]
    assert (one.split()[:3], four.split()[:3]) == (["nut", "1", "2"], ["nut", "4", "2"])
    assert one.endswith("- (0 of 2)")  # one good image calibrates nothing
    assert not four.endswith("- (0 of 2)")
    assert "nut: 6 good images are fewer than the 50 of --shots" in done.stderr


def test_clustering_compares_three_kinds_of_features_and_draws_them(
    tree: Path, tiny_model: Path, tmp_path: Path
) -> None:
    edge_uad("evaluate", tree, "--task", "cluster", "--categories", "nut", "--backbone", tiny_model, "--out", tmp_path)
    found = results(tmp_path)["results"]
    assert [one["features"] for one in found] == ["all patches", "the farthest patch", "top 0.05", "top 0.01"]
    assert {one["n_clusters"] for one in found} == {3}
    # nine images, three of a kind: at most two lie in the wrong cluster, by every choice of features
    assert all(7 / 9 <= one["f1"] <= 1 for one in found)
    assert "data:image/svg+xml" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_turned_good_images_make_a_bank_four_times_as_large(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    asked = ("evaluate", tree, "--categories", "nut", "--backbone", tiny_model, "--no-pixels", "--coreset", 1)
    edge_uad(*asked, "--bpm-threshold", 0, "--turn-good", "--out", tmp_path)
    nut = results(tmp_path)["results"][0]
    assert (nut["n_good"], nut["n_patches"]) == (6, 4 * 6 * 16)


def test_an_ablation_has_a_row_for_each_point(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = edge_uad(
        "ablate", tree, "--sweep", "bpm-threshold=0.9,soft", "--sweep", "top-ratio=0.1", "--backbone", tiny_model,
        "--out", tmp_path, "--calibrate",
    )  # fmt: skip
    rows = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert rows == ["Ablation", "setting", "default", "bpm-threshold=0.9", "bpm-threshold=soft", "top-ratio=0.1"]
    found = {one["label"]: one["categories"] for one in results(tmp_path)["results"]}
    assert found["bpm-threshold=0.9"][0]["foreground_ratio"] < found["default"][0]["foreground_ratio"]
    assert found["bpm-threshold=soft"][0]["foreground_ratio"] == 1
    assert [one["name"] for one in found["default"]] == ["nut", "ring"]
    assert "data:image/svg+xml" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "bpm-kernel=2"], "the BPM kernel is 2"),
        (["--sweep", "kernel=1"], "with a knob of bpm-kernel"),
        (["--sweep", "layers=x"], "give 0-based blocks"),
        (["--sweep", "levels=1,2"], "the model's patches have one level, 2 were asked for"),
        (["--levels", "3", "--sweep", "seed=1"], "the model's patches have one level, 3 were asked for"),
        (["--sweep", "layers=1"], "whose weights edge-uad cannot find by name"),
    ],
)
def test_an_ablation_that_cannot_be_is_refused_before_any_work(
    tree: Path, tiny_model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = edge_uad("ablate", tree, *arguments, "--backbone", tiny_model, "--out", tmp_path, expect=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "image AUROC" not in done.stderr


def test_what_is_odd_is_counted_on_the_terminal_in_the_json_and_in_the_report(
    tree: Path, tiny_model: Path, tmp_path: Path
) -> None:
    odd, out = tmp_path / "odd", tmp_path / "out"
    shutil.copytree(tree, odd)
    for emptied in ("nut/test/scratch", "nut/test/dark", "nut/ground_truth"):
        shutil.rmtree(odd / emptied)
    masks = odd / "ring/ground_truth/scratch"
    outline = np.asarray(Image.open(masks / "0_mask.png"))
    (odd / "ring/test/scratch/0.png").write_bytes(b"no picture")
    Image.new("L", (8, 8), 255).save(masks / "1_mask.png")
    Image.new("L", outline.shape, 0).save(masks / "2_mask.png")
    masks = odd / "ring/ground_truth/dark"
    (masks / "0_mask.png").unlink()
    Image.fromarray(outline).save(masks / "0_mask.jpg", quality=60)
    Image.fromarray(np.dstack([np.zeros_like(outline)] * 3 + [outline])).save(masks / "1_mask.png")
    Image.fromarray((outline > 0).astype(np.uint16)).save(masks / "2_mask.png")
    shutil.copy(odd / "ring/test/dark/2.png", odd / "ring/test/dark/2.bmp")
    (odd / "ring/ground_truth/good").mkdir()
    Image.fromarray(outline).save(odd / "ring/ground_truth/good/0.png")
    done = edge_uad("evaluate", odd, "--backbone", tiny_model, "--out", out, "--false-alarm-rate", 0.2)
    nut, ring = results(out)["results"]
    assert nut["image"]["auroc"] is None
    assert nut["pixel"] is None
    assert ring["n_invalid"] == 1
    # of ten images one is unreadable, one mask has another size, one is black, one lies over a good image
    assert ring["pixel"]["n_images"] == 6
    assert ring["pixel"]["n_regions"] == 4
    by_name = {one["name"]: one for one in ring["samples"]}
    assert by_name["test/scratch/0.png"]["decision"] == "invalid"
    assert by_name["test/scratch/0.png"]["score"] is None
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    for sentence in (
        "nut: no test image is anomalous",
        "ring: 1 test image that cannot be judged, counted as rejected: test/scratch/0.png (",
        "ring: 2 images with a mask that is another image's too: test/dark/2.bmp, test/dark/2.png",
        "ring: 1 mask of another size than the image, left out of the pixel metrics: test/scratch/1.png (8×8, ",
        "ring: 1 mask all black on an anomalous image, left out of the pixel metrics: test/scratch/2.png",
        "ring: 1 mask with defects on a good image, left out of the pixel metrics: test/good/0.png",
        "ring: 1 mask in a lossy format, thresholded at half (",
        "ring: 1 mask with the outline in the alpha channel alone, read from there: test/dark/1.png",
    ):
        assert any(line.startswith(f"warning: {sentence}") for line in done.stderr.splitlines()), sentence
        assert any(warning.startswith(sentence) for warning in results(out)["warnings"]), sentence
        assert sentence in page
    assert ring["odd_masks"]["all black on an anomalous image, left out of the pixel metrics"] == ["test/scratch/2.png"]
    mean = next(line for line in done.stdout.splitlines() if line.startswith("mean"))
    assert f"{ring['image']['auroc']:.4f}" in mean


def test_names_of_any_bytes_end_no_evaluation(tree: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A damaged good image, a damaged test image and a category, each with a name that is no UTF-8."""
    odd, out = tmp_path / "odd", tmp_path / "out"
    name = os.fsdecode(b"\xff\x1b[2J\n")
    shutil.copytree(tree / "ring", odd / f"ring{name}")
    (odd / f"ring{name}" / "train/good" / f"{name}.png").write_bytes(b"no picture")
    (odd / f"ring{name}" / "test/dark" / f"{name}.png").write_bytes(b"no picture")
    done = edge_uad("evaluate", odd, "--backbone", tiny_model, "--out", out, "--false-alarm-rate", 0.2)
    [ring] = results(out)["results"]
    assert ring["name"] == "ring\ufffd\x1b[2J\n"
    assert [one["name"] for one in ring["skipped_good"]] == ["train/good/\ufffd\x1b[2J\n.png"]
    assert "1 good image not learned" in done.stderr
    assert "1 good image not learned" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "0,1"], "--shots is '0,1'"),
        (["--categories", "bolt"], "there is no category 'bolt'; there are nut, ring"),
        (["--bpm-kernel", "2"], "the BPM kernel is 2"),
        (["--task", "semantic"], "its categories are products, read as mvtec; use --task defect"),
        (["--task", "low-shot", "--shots", "50"], "--shots asks for at least 50 good images and there are 6"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    tree: Path, tiny_model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = edge_uad("evaluate", tree, *arguments, "--backbone", tiny_model, "--out", tmp_path, expect=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
