"""``edge-uad bench``, run as a process: a small model, few frames, a real daemon."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bank_tools.bench.frames import frames_from_files
from bank_tools.bench.line import ServedLine, line_content
from bank_tools.bench.results import BenchOptions
from bank_tools.bench.run import measure_settings, settings_to_compare
from edge_uad.errors import EdgeUadError
from edge_uad.progress import SilentProgress
from tests.conftest import edge_uad


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Short enough for a socket's name, which pytest's folders may not be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


STAGES = {"decode", "preprocess", "backbone", "masking", "search", "heatmap", "publish"}


@pytest.fixture(scope="module")
def measured(tiny_model: Path, tiny_bank: Path, good_parts: Path) -> dict[str, Any]:
    done = edge_uad(
        *("bench", good_parts, "--bank", tiny_bank, "--model", tiny_model),
        *("--frames", 8, "--live", 2, "--no-settings", "--json"),
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_stage_is_timed_and_the_backbone_is_a_part_of_the_whole(measured: dict[str, Any]) -> None:
    stages = measured["stages"]
    assert set(stages["stages"]) >= STAGES
    assert next(iter(stages["stages"])) == "decode"
    assert all(one["n"] == 8 and 0 < one["median_ms"] <= one["p99_ms"] for one in stages["stages"].values())
    assert stages["stages"]["backbone"]["median_ms"] < stages["whole"]["median_ms"]
    assert sum(stages["decisions"].values()) == 8
    assert stages["decisions"].get("invalid", 0) == 0


def test_the_line_is_measured_in_turns_with_the_backbone_and_a_matrix_product(measured: dict[str, Any]) -> None:
    line = measured["line"]
    assert line["latency"]["n"] == line["bare"]["n"] == 8
    assert line["latency"]["median_ms"] > line["verdict_latency"]["median_ms"] > 0
    assert line["latency_ratio"] == pytest.approx(line["latency"]["median_ms"] / line["bare"]["median_ms"])
    assert line["throughput_ratio"] > 0
    assert line["product_hz"] > 0
    assert measured["backbone_of_limit"] > 0
    assert line["peak_rss_mib"] is None or line["peak_rss_mib"] > 10


def test_a_bank_of_tiles_is_measured_with_all_of_them(
    tiny_model: Path, good_parts: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    bank = tmp_path / "b.safetensors"
    edge_uad("build-bank", good_parts, "--model", tiny_model, "--out", bank, "--tiles", "2x2")
    done = edge_uad(
        *("bench", good_parts, "--bank", bank, "--model", tiny_model),
        *("--frames", 4, "--live", 0, "--no-settings", "--json"),
    )
    result = json.loads(done.stdout)
    assert result["stages"]["decisions"].get("invalid", 0) == 0
    assert result["line"]["bare"]["n"] == 4
    assert result["arithmetic"]["backbone"] == 4 * measured["arithmetic"]["backbone"]


def test_live_stations_share_the_rate_and_none_is_left_out(measured: dict[str, Any]) -> None:
    (live,) = measured["live"]
    assert live["n_stations"] == 2
    assert 0 < live["slowest_hz"] <= live["rate_hz"] / 2
    assert live["rate_hz"] <= 2 * live["camera_hz"] * 1.1
    assert 0 < live["latency"]["median_ms"] <= live["latency"]["p99_ms"]


def test_settings_are_measured_in_turns_with_the_default(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, short_folder: Path
) -> None:
    """Batches of several stations, and what is written to disk: the rest of the list is checked as configs in unit/."""
    options = BenchOptions(
        model=tiny_model, bank=tiny_bank, frames=frames_from_files([str(good_parts)]), n_frames=4, folder=short_folder
    )
    listed = settings_to_compare(n_cores=1, batches=(2,), folder=short_folder)
    chosen = [one for one in listed if one.name in {"max_batch 2, 2 stations", "evidence of every frame"}]
    batched, kept = measure_settings(options, chosen, SilentProgress())

    assert (batched.name, kept.name) == ("max_batch 2, 2 stations", "evidence of every frame")
    assert all(one.rate_hz > 0 and one.rate_ratio > 0 and one.latency_ratio > 0 for one in (batched, kept))
    assert any(file.suffix == ".png" for file in (short_folder / "evidence").rglob("*"))


def test_without_frames_and_bank_it_runs_on_a_machine_that_has_nothing(tiny_model: Path) -> None:
    done = edge_uad("bench", "--model", tiny_model, "--frames", 4, "--no-settings", "--live", 0)
    for shown in ("instruction sets", "1280×960 px", "capture to verdict received", "over backbone", "matrix product"):
        assert shown in done.stdout
    assert "live" not in done.stdout
    assert "stages" in done.stderr


def test_what_cannot_be_benched_is_said_in_one_sentence(
    tiny_model: Path, other_tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((good_parts / "0.png").read_bytes()[:200])
    for arguments, message, code in (
        ((torn, "--model", tiny_model), "needs whole pictures", 2),
        ((good_parts / "0.png", "--model", tiny_model), "one frame makes no bank", 2),
        ((tmp_path / "nowhere", "--model", tiny_model), "there is no such file or folder", 2),
        ((good_parts, "--model", tiny_model, "--batch", "many"), "--batch is 'many'", 2),
        ((good_parts, "--model", tiny_model, "--batch", "65"), "64 stations at most", 2),
        ((good_parts, "--model", tiny_model, "--live", "3,65"), "64 stations at most", 2),
        ((good_parts, "--model", other_tiny_model, "--bank", tiny_bank), "was built with model", 3),
    ):
        done = edge_uad("bench", *arguments, expect=code)
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_a_daemon_that_does_not_start_is_reported_with_its_log(
    tiny_model: Path, tmp_path: Path, short_folder: Path
) -> None:
    content = line_content(tiny_model, tmp_path / "nowhere.safetensors")
    with (
        pytest.raises(EdgeUadError, match=r"ended with code 3; the end of its log:\n(.|\n)*there is no bank at"),
        ServedLine(content, short_folder / "line"),
    ):
        pytest.fail("it started without a bank")
