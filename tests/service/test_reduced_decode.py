"""Large JPEG pictures decoded at a part of their size: the bank says so, and whoever judges by it follows."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.parts import draw_part
from tests.processes import Running

SIDE_PX = 640


def write_photographs(folder: Path, n: int, *, seed: int, scratched: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(n):
        image = draw_part(rng, scratched=scratched, side_px=SIDE_PX)
        Image.fromarray(image).save(folder / f"{index}.jpg", quality=92)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Good parts and scratched ones."""
    folder = tmp_path_factory.mktemp("photographs")
    good = write_photographs(folder / "good", 24, seed=0)
    return good, write_photographs(folder / "scratched", 4, seed=1, scratched=True)


@pytest.fixture(scope="module")
def banks(
    tiny_model: Path, photographs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """One of reduced pictures, one of whole ones."""
    folder = tmp_path_factory.mktemp("banks")
    paths = folder / "reduced.safetensors", folder / "whole.safetensors"
    for path, more in zip(paths, (["--reduced-decode"], []), strict=True):
        edge_uad("build-bank", photographs[0], "--model", tiny_model, "--out", path, "--false-alarm-rate", 0.05, *more)
    return paths


def verdicts(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in edge_uad("inspect", *arguments, "--json").stdout.splitlines()]


def test_verdicts_are_the_same_and_point_into_the_whole_picture(
    tiny_model: Path, photographs: tuple[Path, Path], banks: tuple[Path, Path], tmp_path: Path
) -> None:
    reduced, whole = (verdicts(*photographs, "--bank", bank, "--model", tiny_model) for bank in banks)
    assert [one["decision"] for one in reduced] == ["normal"] * 24 + ["anomalous"] * 4
    assert [one["decision"] for one in whole] == [one["decision"] for one in reduced]
    for one, other in zip(reduced[24:], whole[24:], strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=0.1)
        assert max(abs(a - b) for a, b in zip(one["peak"], other["peak"], strict=True)) < SIDE_PX / 8
    edge_uad("inspect", photographs[1], "--bank", banks[0], "--model", tiny_model, "--heatmaps", tmp_path / "overlays")
    with Image.open(next((tmp_path / "overlays").rglob("*.png"))) as overlay:
        assert overlay.size == (SIDE_PX // 4, SIDE_PX // 4)


def test_a_daemon_follows_its_bank_and_refuses_another_one_of_whole_pictures(
    tiny_model: Path, photographs: tuple[Path, Path], banks: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    bank, frames_in = run_dir / "bank.safetensors", f"ipc://{run_dir}/in"
    shutil.copy(banks[0], bank)
    serve = ["serve", "--bank", bank, "--model", tiny_model, "--publish", "tcp://127.0.0.1:*", "--threads", 2]
    with Running.edge_uad(*serve, "--source", frames_in) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with Running.edge_uad("watch", endpoint, "--json") as watch:
            watch.wait_for('"state": "running"')
            edge_uad("send", *photographs, "--to", frames_in)
            watch.wait_for('"judged": 28, ')
            shutil.copy(banks[1], run_dir / "new")
            (run_dir / "new").replace(bank)
            daemon.signal(signal.SIGHUP)
            watch.wait_for('"refused_bank": ".*built on pictures decoded at full size')
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
    told = [one for one in map(json.loads, watch.out) if "decision" in one]
    expected = verdicts(*photographs, "--bank", banks[0], "--model", tiny_model)
    assert [(one["score"], one["decision"], one["peak"]) for one in told] == [
        (one["score"], one["decision"], one["peak"]) for one in expected
    ]
    assert {one["bank_id"] for one in told} == {PatchBank.load(banks[0]).manifest.bank_id}


def test_not_with_a_region_of_interest(tiny_model: Path, photographs: tuple[Path, Path], tmp_path: Path) -> None:
    asked = ["build-bank", photographs[0], "--model", tiny_model, "--out", tmp_path / "b", "--reduced-decode"]
    done = edge_uad(*asked, "--roi", "0,0,64,64", expect=2)
    assert "cannot be decoded at a part of their size with a region of interest" in done.stderr
    assert not (tmp_path / "b").exists()
