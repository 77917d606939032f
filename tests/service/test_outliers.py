"""Odd images among the good ones, as the engineer who builds the bank meets them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.parts import draw_part, write_parts

RATE = ("--false-alarm-rate", 0.05)


@pytest.fixture(scope="module")
def with_odd_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 good parts and one photographed in another light."""
    folder = write_parts(tmp_path_factory.mktemp("parts") / "good", 24, seed=0)
    picture = draw_part(np.random.default_rng(9)).astype(np.float64) * (0.4, 0.7, 1.3)
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder / "odd.png")
    return folder


def test_what_the_outliers_cost_is_told_and_they_stay(tiny_model: Path, with_odd_one: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    done = edge_uad("build-bank", with_odd_one, "--model", tiny_model, "--out", out, *RATE)
    told = re.search(
        r"(\d+) images? scores? far above .* it is ([\d.]+) with (it|them) \(0 of the \d+ others above it\) and about "
        r"([\d.]+) without .*; check whether (it is|they are) good, see (it|them) with .*, or leave (it|them) out",
        done.stderr,
    )
    assert told is not None
    assert {*told.group(3, 5, 6, 7)} == ({"it", "it is"} if told[1] == "1" else {"them", "they are"})
    assert float(told[2]) > 3 * float(told[4])
    assert "--exclude-outliers" in done.stderr
    assert "odd.png" in done.stderr
    manifest = PatchBank.load(out).manifest
    assert (manifest.n_images, manifest.n_excluded) == (25, 0)
    assert manifest.threshold == pytest.approx(float(told[2]), abs=1e-4)


def test_with_the_users_word_they_leave_the_bank_and_its_calibration(
    tiny_model: Path, with_odd_one: Path, tmp_path: Path
) -> None:
    out, clean = tmp_path / "b.safetensors", tmp_path / "clean.safetensors"
    done = edge_uad(
        "build-bank", with_odd_one, "--model", tiny_model, "--out", out, *RATE, "--exclude-outliers", "--json"
    )
    printed = json.loads(done.stdout)
    names = [Path(one["name"]).name for one in printed["outliers"]]
    assert names[0] == "odd.png"
    assert all(name in done.stderr for name in names)
    assert printed["n_excluded"] == len(names)
    assert printed["threshold"] < printed["outlier_cost"]["threshold_with"] / 3

    kept = tmp_path / "kept"
    kept.mkdir()
    for file in with_odd_one.iterdir():
        if file.name not in names:
            (kept / file.name).symlink_to(file)
    edge_uad("build-bank", kept, "--model", tiny_model, "--out", clean, *RATE)
    found, expected = PatchBank.load(out), PatchBank.load(clean)
    np.testing.assert_array_equal(found.patches, expected.patches)
    np.testing.assert_array_equal(found.calibration, expected.calibration)
    assert found.manifest.threshold == expected.manifest.threshold
    assert found.manifest.pixel_threshold == expected.manifest.pixel_threshold
    assert found.manifest.source_digest == expected.manifest.source_digest
    assert found.manifest.n_images == expected.manifest.n_images == 25 - len(names)


@pytest.mark.parametrize("excluded", [(), ("--exclude-outliers",)])
def test_the_page_shows_each_next_to_its_heat(
    tiny_model: Path, with_odd_one: Path, tmp_path: Path, excluded: tuple[str, ...]
) -> None:
    pytest.importorskip("matplotlib", reason="the [evaluate] extra is not installed")
    out, page = tmp_path / "b.safetensors", tmp_path / "page.html"
    done = edge_uad(
        "build-bank", with_odd_one, "--model", tiny_model, "--out", out, *RATE, "--report", page, "--json", *excluded
    )
    outliers = json.loads(done.stdout)["outliers"]
    html = page.read_text(encoding="utf-8")
    pictures = re.findall(r'src="(data:image/jpeg[^"]+)"', html)
    assert len(pictures) == 2 * len(outliers)
    assert pictures[0] != pictures[1], "the second is drawn on"
    assert html.count("</span> its heat<") == len(outliers)
    assert "threshold without them" in html
    assert str(page) in done.stderr


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    tiny_model: Path, with_odd_one: Path, tmp_path: Path
) -> None:
    page = tmp_path / "none" / "page.html"
    out = tmp_path / "b.safetensors"
    done = edge_uad("build-bank", with_odd_one, "--model", tiny_model, "--out", out, "--report", page, expect=2)
    assert f"no page can be written to {page}" in done.stderr
    assert not out.exists()
