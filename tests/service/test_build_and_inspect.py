"""The two commands of an engineer who sets up a station, run as processes."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.films import write_film
from tests.parts import draw_part


def verdicts(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in edge_uad("inspect", *arguments, "--json").stdout.splitlines()]


def test_good_parts_are_normal_and_scratched_ones_anomalous(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> None:
    good = verdicts(good_parts, "--bank", tiny_bank, "--model", tiny_model)
    bad = verdicts(scratched_parts, "--bank", tiny_bank, "--model", tiny_model)
    assert [one["decision"] for one in good] == ["normal"] * 24
    assert [one["decision"] for one in bad] == ["anomalous"] * 4


def test_json_lines_carry_every_field_of_the_verdict(tiny_model: Path, tiny_bank: Path, scratched_parts: Path) -> None:
    manifest = PatchBank.load(tiny_bank).manifest
    one = verdicts(scratched_parts / "0.png", "--bank", tiny_bank, "--model", tiny_model)[0]
    assert next(iter(one)) == "schema"
    assert set(one) == {
        "schema", "station", "frame_id", "part_id", "captured_at_ns", "decision", "reason", "score", "threshold",
        "p_value", "foreground_ratio", "peak", "latency_ms", "dropped_before", "model_id", "bank_id", "sequence",
    }  # fmt: skip
    assert one["score"] > one["threshold"] == manifest.threshold
    assert one["p_value"] == pytest.approx(1 / 25)
    assert one["bank_id"] == manifest.bank_id
    assert one["part_id"] == str(scratched_parts / "0.png")
    assert one["latency_ms"] > 0
    x, y = one["peak"]
    assert 0 <= x < 128
    assert 0 <= y < 128


@pytest.mark.parametrize("rate", ["1e-90", "1e-300"])
def test_a_rate_at_which_no_part_would_be_anomalous_makes_no_bank(
    tiny_model: Path, good_parts: Path, tmp_path: Path, rate: str
) -> None:
    """Extrapolated so far, the tail of 24 scores lies beyond the largest distance there is."""
    bank = tmp_path / "b.safetensors"
    done = edge_uad(
        "build-bank", good_parts, "--model", tiny_model, "--out", bank, "--false-alarm-rate", rate, expect=2
    )
    assert f"a false-alarm rate of {rate} cannot be had from 24 good images" in done.stderr
    assert "Warning" not in done.stderr
    assert not bank.exists()


@pytest.mark.parametrize("geometry", ["stretch", "paper", "cifar"])
def test_tiles_are_told_and_judge_in_every_geometry(
    tiny_model: Path, good_parts: Path, scratched_parts: Path, tmp_path: Path, geometry: str
) -> None:
    bank = tmp_path / "b.safetensors"
    how = ("--tiles", "2x1", "--geometry", geometry, "--false-alarm-rate", "0.05")
    built = edge_uad("build-bank", good_parts, "--model", tiny_model, "--out", bank, *how)
    assert "tiles      2×1, overlapping by 1 patches down and 1 across" in built.stdout
    bad = verdicts(scratched_parts, "--bank", bank, "--model", tiny_model)
    assert [one["decision"] for one in bad] == ["anomalous"] * 4
    assert all(30 <= place <= 98 for one in bad for place in one["peak"])


def write_half_dark_parts(folder: Path, turns: list[int]) -> Path:
    """Parts that are dark on one side, each turned by so many quarter turns."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for number, turn in enumerate(turns):
        image = draw_part(rng)
        image[:, :40] //= 3
        Image.fromarray(np.ascontiguousarray(np.rot90(image, turn))).save(folder / f"{number}.png")
    return folder


def test_parts_learned_in_all_orientations_are_normal_in_each(tiny_model: Path, tmp_path: Path) -> None:
    learned = write_half_dark_parts(tmp_path / "learned", [0] * 20)
    turned = write_half_dark_parts(tmp_path / "turned", [1, 2, 3])
    decisions = {}
    for rotations in ("none", "quarter"):
        bank = tmp_path / f"{rotations}.safetensors"
        how = ("--rotations", rotations, "--false-alarm-rate", "0.05")
        built = edge_uad("build-bank", learned, "--model", tiny_model, "--out", bank, *how)
        assert ("rotations  all four orientations learned\n" in built.stdout) == (rotations == "quarter")
        decisions[rotations] = {one["decision"] for one in verdicts(turned, "--bank", bank, "--model", tiny_model)}
    assert decisions == {"none": {"anomalous"}, "quarter": {"normal"}}


@pytest.mark.parametrize("lie_anyhow", [True, False])
def test_good_parts_decide_whether_they_lie_anyhow(tiny_model: Path, tmp_path: Path, lie_anyhow: bool) -> None:
    turns = [0, 1, 2, 3, 2, 0, 3, 1] if lie_anyhow else [2] * 8
    parts = write_half_dark_parts(tmp_path / "parts", turns)
    bank = tmp_path / "b.safetensors"
    how = ("--rotations", "auto", "--false-alarm-rate", "0.1")
    built = edge_uad("build-bank", parts, "--model", tiny_model, "--out", bank, *how)
    said = "all four orientations learned" if lie_anyhow else "none"
    assert re.search(rf"^rotations  {said}: unseen good parts score \d+\.\d\d times as high", built.stdout, re.M)
    manifest = PatchBank.load(bank).manifest
    assert (manifest.rotations == "quarter", manifest.n_images) == (lie_anyhow, 8)


def test_one_line_per_image_in_natural_order_and_a_summary(tiny_model: Path, tiny_bank: Path, good_parts: Path) -> None:
    done = edge_uad("inspect", good_parts, "--bank", tiny_bank, "--model", tiny_model)
    lines = done.stdout.splitlines()
    assert [Path(line.split()[-1]).name for line in lines] == [f"{index}.png" for index in range(24)]
    assert all(re.match(r"normal     +\d\.\d{6}  p=[01]\.\d{4}  +\d+,\d+  ", line) for line in lines)
    assert re.search(
        r"24 images: 24 normal, 0 anomalous, 0 invalid; threshold 0\.\d{6}; fp32; [\d.]+ images/s", done.stderr
    )


def test_what_a_folder_leaves_out_is_counted_and_named(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(good_parts, folder)
    (folder / "notes.txt").touch()
    (folder / "@eaDir").mkdir()
    shutil.copy(good_parts / "0.png", folder / "@eaDir" / "thumbnail.png")
    shutil.copy(good_parts / "0.png", folder / "picture")
    built = edge_uad("build-bank", folder, "--model", tiny_model, "--out", tmp_path / "b", "--false-alarm-rate", 0.05)
    inspected = edge_uad("inspect", folder, "--bank", tiny_bank, "--model", tiny_model)
    for done in (built, inspected):
        assert "warning: 3 files or folders left out: 1 of a file manager or network storage (" in done.stderr
        assert "1 without a known suffix (" in done.stderr
        assert "notes.txt" in done.stderr
    assert re.search("24 learned", built.stdout)
    assert len(inspected.stdout.splitlines()) == 24


def test_overlays_show_the_image_with_heat_on_the_scratch(
    tiny_model: Path, tiny_bank: Path, scratched_parts: Path, good_parts: Path, tmp_path: Path
) -> None:
    named = (scratched_parts, good_parts / "3.png")
    edge_uad("inspect", *named, "--bank", tiny_bank, "--model", tiny_model, "--heatmaps", tmp_path / "o")
    overlays = sorted(path.relative_to(tmp_path / "o").as_posix() for path in (tmp_path / "o").rglob("*.png"))
    assert len(overlays) == 5
    name = next(name for name in overlays if name.endswith("scratched/0.png"))
    with Image.open(tmp_path / "o" / name) as overlay, Image.open(scratched_parts / "0.png") as image:
        assert overlay.size == image.size
        changed = np.abs(np.asarray(overlay).astype(int) - np.asarray(image)).sum(axis=2)
    rows, columns = np.nonzero(changed > 30)
    # the scratch runs down the diagonal through the middle
    assert abs(np.average(rows) - 64) < 16
    assert abs(np.average(columns) - 64) < 16


def test_overlays_never_replace_the_images(tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(good_parts, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    asked = ("--bank", tiny_bank, "--model", tiny_model, "--heatmaps", folder)
    done = edge_uad("inspect", folder, *asked, expect=2)
    assert "would replace an image; name another folder" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_name_that_is_not_utf8_is_told_in_its_nearest_form(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    shutil.copy(good_parts / "0.png", os.fsencode(tmp_path) + b"/w\xff.png")
    [one] = verdicts(tmp_path, "--bank", tiny_bank, "--model", tiny_model)
    assert one["decision"] == "normal"
    assert one["part_id"].endswith("/w\\xff.png")


def test_a_full_disk_leaves_one_sentence_and_no_bank(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_uad", "build-bank", good_parts, "--model", tiny_model]
    done = subprocess.run(
        [*command, "--out", tmp_path / "b"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),  # no threads here
    )
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert_one_sentence(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_used_is_told_in_one_sentence(
    good_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_UAD_CACHE", str(tmp_path / "file"))
    done = edge_uad("build-bank", good_parts, "--out", tmp_path / "b", expect=3)
    assert "set EDGE_UAD_CACHE to another one" in done.stderr
    assert_one_sentence(done.stderr)


def test_the_same_images_and_seed_make_the_same_patches(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        edge_uad("build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / name)
    first, second = (PatchBank.load(tmp_path / name) for name in ("a", "b"))
    np.testing.assert_array_equal(first.patches, second.patches)
    assert first.manifest.source_digest == second.manifest.source_digest


def test_every_choice_is_kept_in_the_manifest(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    done = edge_uad(
        "build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / "b", "--coreset", 0.5, "--bpm-kernel", 3,
        "--bpm-threshold", 0.2, "--top-ratio", 0.1, "--neighbours", 2, "--geometry", "paper", "--roi", "8,9,100,110",
        "--false-alarm-rate", 0.1, "--seed", 7, "--json",
    )  # fmt: skip
    told = json.loads(done.stdout)
    manifest = PatchBank.load(tmp_path / "b").manifest
    assert (manifest.coreset_ratio, manifest.bpm_kernel, manifest.bpm_threshold) == (0.5, 3, 0.2)
    assert (manifest.top_ratio, manifest.neighbours, manifest.geometry) == (0.1, 2, "paper")
    assert (manifest.roi, manifest.false_alarm_rate, manifest.seed) == ((8, 9, 100, 110), 0.1, 7)
    assert told["bank_id"] == manifest.bank_id
    assert told["n_images"] == 24


def test_a_video_is_a_source_of_good_parts(tiny_model: Path, tmp_path: Path) -> None:
    video = tmp_path / "good.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 128))
    rng = np.random.default_rng(5)
    for _ in range(12):
        writer.write(draw_part(rng)[:, :, ::-1])
    writer.release()
    edge_uad("build-bank", video, "--model", tiny_model, "--out", tmp_path / "b")
    assert PatchBank.load(tmp_path / "b").manifest.n_images == 12


def test_a_video_cut_short_is_refused_unless_accepted(tiny_model: Path, tmp_path: Path) -> None:
    video = tmp_path / "good.avi"
    write_film(video, 16, codec="mjpeg", pix_fmt="yuvj420p", hw=(128, 160))
    payload = video.read_bytes()
    video.write_bytes(payload[: len(payload) * 3 // 4])
    asked = ("build-bank", video, "--model", tiny_model, "--out", tmp_path / "b")
    done = edge_uad(*asked, expect=2)
    assert "of the 16 frames that its header promises are in the file" in " ".join(done.stderr.split())
    assert "--accept-damaged" in done.stderr
    assert not (tmp_path / "b").exists()
    done = edge_uad(*asked, "--accept-damaged")
    assert "of the 16 frames that its header promises are in the file" in " ".join(done.stderr.split())
    manifest = PatchBank.load(tmp_path / "b").manifest
    assert 0 < manifest.n_images < 16
    assert manifest.image_hw == (128, 160)


def test_unreadable_images_are_listed_skipped_and_counted(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    shutil.copytree(good_parts, folder)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    done = edge_uad("build-bank", folder, "--model", tiny_model, "--out", tmp_path / "b", "--false-alarm-rate", 0.05)
    assert "warning: 2 images could not be read and were skipped:" in done.stderr
    assert "broken.png: the image is damaged or truncated" in done.stderr
    assert "empty.jpg: the image is empty (0 bytes)" in done.stderr
    manifest = PatchBank.load(tmp_path / "b").manifest
    assert (manifest.n_images, manifest.n_unreadable) == (24, 2)


def test_too_few_images_warn_with_the_number_needed(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    done = edge_uad(
        "build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / "b", "--false-alarm-rate", 0.01
    )
    assert "24 images are too few for a false-alarm rate of 0.01: 99 are needed" in " ".join(done.stderr.split())


def test_copies_and_outliers_among_the_good_parts_are_pointed_out(
    tiny_model: Path, good_parts: Path, scratched_parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "good"
    shutil.copytree(good_parts, folder)
    shutil.copy(folder / "0.png", folder / "again.png")
    shutil.copy(scratched_parts / "0.png", folder / "odd.png")
    done = edge_uad("build-bank", folder, "--model", tiny_model, "--out", tmp_path / "b", "--false-alarm-rate", 0.05)
    assert "1 image is a copy of another" in done.stderr
    assert "1 image scores far above the other good ones" in done.stderr
    assert re.search(r"odd\.png: \d\.\d{4}", done.stderr)


def test_one_image_cannot_make_a_bank(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    done = edge_uad("build-bank", good_parts / "0.png", "--model", tiny_model, "--out", tmp_path / "b", expect=2)
    assert "name at least 2 good ones" in done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coreset", 0], "the coreset ratio is 0; use above 0 to 1"),
        (["--bpm-kernel", 4], "the BPM kernel is 4; use an odd number"),
        (["--bpm-threshold", 1], "the BPM threshold is 1; use 0 to below 1"),
        (["--top-ratio", 1.5], "the top ratio is 1.5"),
        (["--false-alarm-rate", 0], "the false-alarm rate is 0"),
        (["--roi", "1,2,3"], "--roi is '1,2,3'; give four whole numbers"),
        (["--roi", "0,0,0,5"], "w and h at least 1 px"),
        (["--out", "/nowhere/b"], "the folder /nowhere is missing or read-only"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    tiny_model: Path, good_parts: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    out = [] if "--out" in arguments else ["--out", tmp_path / "b"]
    done = edge_uad("build-bank", good_parts, "--model", tiny_model, *out, *arguments, expect=2)
    assert message in done.stderr
    assert_one_sentence(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "choices"), [("--provider", "cuda"), ("--search-device", "gpu")])
def test_an_unknown_choice_shows_the_known_ones(tiny_model: Path, good_parts: Path, option: str, choices: str) -> None:
    done = edge_uad("build-bank", good_parts, "--model", tiny_model, option, "tpu", expect=2)
    assert "tpu" in done.stderr
    assert choices in done.stderr


@pytest.mark.parametrize("asked", [("--provider", "cuda"), ("--search-device", "gpu")])
def test_an_accelerator_that_is_not_there_is_an_error_and_never_a_silent_cpu(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, asked: tuple[str, str]
) -> None:
    done = edge_uad("inspect", good_parts, "--bank", tiny_bank, "--model", tiny_model, *asked, expect=3)
    assert "pip install 'edge-uad[gpu]'" in done.stderr
    assert_one_sentence(done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize("source", ["0", "rtsp://127.0.0.1/x", "tcp://127.0.0.1:5560"])
def test_a_bank_is_not_built_from_a_live_source(tiny_model: Path, tmp_path: Path, source: str) -> None:
    done = edge_uad("build-bank", source, "--model", tiny_model, "--out", tmp_path / "b", expect=2)
    assert f"{source}: a " in done.stderr
    assert "is no recording; name a folder, a glob or a video file" in done.stderr


def test_a_bank_of_another_model_is_refused_with_both_ids(
    other_tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    done = edge_uad("inspect", good_parts, "--bank", tiny_bank, "--model", other_tiny_model, expect=3)
    ours = PatchBank.load(tiny_bank).manifest
    assert f"bank {ours.bank_id[:12]} was built with model {ours.model_id[:12]}" in done.stderr
    assert "rerun edge-uad build-bank" in done.stderr
    assert_one_sentence(done.stderr)


def test_a_damaged_bank_is_refused(tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_bank.read_bytes())
    changed, truncated = tmp_path / "changed", tmp_path / "truncated"
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    content[8 + header_bytes + header["patches"]["data_offsets"][0]] ^= (
        1  # the last bit of the first patch's first value
    )
    changed.write_bytes(content)
    truncated.write_bytes(content[: len(content) // 2])
    for bank, message in ((changed, "changed after it was built"), (truncated, "cannot be read as a bank")):
        done = edge_uad("inspect", good_parts, "--bank", bank, "--model", tiny_model, expect=3)
        assert message in done.stderr
        assert_one_sentence(done.stderr)


def test_what_is_no_model_is_refused(tiny_bank: Path, good_parts: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"no model at all")
    for model in (tmp_path / "noise.onnx", tmp_path / "missing.onnx"):
        done = edge_uad("inspect", good_parts, "--bank", tiny_bank, "--model", model, expect=3)
        assert str(model) in done.stderr
        assert_one_sentence(done.stderr)


def test_a_path_that_is_not_there_is_a_usage_error(tiny_model: Path, tiny_bank: Path) -> None:
    done = edge_uad("inspect", "nowhere/", "--bank", tiny_bank, "--model", tiny_model, expect=2)
    assert "nowhere/: there is no such file or folder" in done.stderr
    assert_one_sentence(done.stderr)


def test_what_cannot_be_judged_is_invalid_with_its_reason_and_never_normal(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    whole = (good_parts / "0.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[:-500])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    bomb = bytearray(whole)
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # IHDR: width, height; and its check sum
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bomb)
    found = {Path(one["part_id"]).name: one for one in verdicts(tmp_path, "--bank", tiny_bank, "--model", tiny_model)}
    assert {name: one["decision"] for name, one in found.items()} == dict.fromkeys(found, "invalid")
    assert len(found) == 4
    assert all(one["score"] is None and one["p_value"] is None and one["peak"] is None for one in found.values())
    assert "truncated" in found["truncated.png"]["reason"]
    assert "empty" in found["empty.png"]["reason"]
    assert "not an image" in found["text.jpg"]["reason"]
    assert "claims 60000×60000 = 3600000000 pixels" in found["bomb.png"]["reason"]


def test_grey_deep_and_transparent_images_are_judged(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    with Image.open(good_parts / "0.png") as image:
        image.convert("L").save(tmp_path / "grey.png")
        image.convert("RGBA").save(tmp_path / "alpha.png")
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8).save(tmp_path / "deep.png")
    found = {Path(one["part_id"]).name: one for one in verdicts(tmp_path, "--bank", tiny_bank, "--model", tiny_model)}
    assert found["alpha.png"]["decision"] == "normal"
    assert found["grey.png"]["score"] == pytest.approx(found["deep.png"]["score"], abs=1e-6)


def assert_one_sentence(text: str) -> None:
    assert "Traceback" not in text
    told = [line for line in text.splitlines() if line.startswith("edge-uad: ")]
    assert len(told) == 1
