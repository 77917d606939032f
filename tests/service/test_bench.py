"""``edge-uad bench``, run as a process: a small model, few frames, a real daemon beside it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bank_tools.bench.line import ServedLine, line_content
from edge_uad.errors import EdgeUadError
from tests.conftest import edge_uad

STAGES = {"decode", "preprocess", "backbone", "masking", "search", "heatmap", "publish"}


@pytest.fixture(scope="module")
def measured(tiny_model: Path, tiny_bank: Path, good_parts: Path) -> dict[str, Any]:
    done = edge_uad(
        *("bench", good_parts, "--bank", tiny_bank, "--model", tiny_model, "--frames", 8, "--batch", "1,2", "--json"),
        timeout_s=220,
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


def test_the_line_is_measured_beside_the_backbone_and_beside_a_matrix_product(measured: dict[str, Any]) -> None:
    line = measured["line"]
    assert line["latency"]["n"] == line["bare"]["n"] == 8
    assert line["latency"]["median_ms"] > line["verdict_latency"]["median_ms"] > 0
    assert line["latency_ratio"] == pytest.approx(line["latency"]["median_ms"] / line["bare"]["median_ms"])
    assert line["throughput_ratio"] > 0
    assert line["product_hz"] > 0
    assert measured["backbone_of_limit"] > 0
    assert line["peak_rss_mib"] is None or line["peak_rss_mib"] > 10


def test_each_optional_setting_stands_beside_the_default(measured: dict[str, Any]) -> None:
    names = [one["name"] for one in measured["settings"]]
    assert "threads 1" in names
    assert "max_batch 2, 2 stations" in names
    assert {"heatmap never", "heatmap always", "audit log", "evidence of every frame", "metrics"} <= set(names)
    assert not any(name.startswith("max_batch 1") for name in names)
    assert all(one["rate_hz"] > 0 and one["rate_ratio"] > 0 for one in measured["settings"])


def test_without_frames_and_bank_it_runs_on_a_machine_that_has_nothing(tiny_model: Path) -> None:
    done = edge_uad("bench", "--model", tiny_model, "--frames", 4, "--no-settings")
    for told in ("instruction sets", "1280×960 px", "capture to verdict heard", "over backbone", "matrix product"):
        assert told in done.stdout
    assert "stages" in done.stderr


def test_what_cannot_be_benched_is_said_in_one_sentence(
    tiny_model: Path, other_tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((good_parts / "0.png").read_bytes()[:200])
    for arguments, told, code in (
        ((torn, "--model", tiny_model), "needs whole pictures", 2),
        ((good_parts / "0.png", "--model", tiny_model), "one frame makes no bank", 2),
        ((tmp_path / "nowhere", "--model", tiny_model), "there is no such file or folder", 2),
        ((good_parts, "--model", tiny_model, "--batch", "many"), "--batch is 'many'", 2),
        ((good_parts, "--model", tiny_model, "--batch", "65"), "64 stations at most", 2),
        ((good_parts, "--model", other_tiny_model, "--bank", tiny_bank), "was built with model", 3),
    ):
        done = edge_uad("bench", *arguments, expect=code)
        assert told in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_a_daemon_that_does_not_come_up_tells_why(tiny_model: Path, tmp_path: Path) -> None:
    content = line_content(tiny_model, tmp_path / "nowhere.safetensors")
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,  # short enough for a socket's name
        pytest.raises(EdgeUadError, match=r"ended with code 3; the end of its log:\n(.|\n)*there is no bank at"),
        ServedLine(content, Path(folder) / "line"),
    ):
        pytest.fail("it came up without a bank")
