"""A bench computes and reports its measurements correctly, and sends whole pictures."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bank_tools.bench.clock import StageClock, Timing, median_ratio
from bank_tools.bench.frames import bank_of_size, decoded, frames_from_picture, stamped_now
from bank_tools.bench.line import line_content
from bank_tools.bench.machine import MatrixProduct, OtherPrograms, arithmetic_of, machine
from bank_tools.bench.results import BenchResult, LineResult, LiveResult, Round, StageResult, tables_of
from bank_tools.bench.run import settings_to_compare, thread_counts
from edge_uad.records import ModelCard
from edge_uad.runtime.settings import Settings, make_settings
from tests.banks import random_bank
from tests.parts import draw_part

CARD = ModelCard(
    model_id="0" * 64,
    backbone="dinov2_vits14",
    input_hw=(224, 224),
    grid_hw=(16, 16),
    patch_px=14,
    dim=384,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    layers=(2, 3, 4, 5, 6, 7, 8, 9),
    attention_layer=9,
    precision="fp32",
    licence="Apache-2.0",
    weights_sha256="0" * 64,
)


def test_the_arithmetic_of_ten_blocks_is_the_one_of_the_text_books() -> None:
    tokens, dim = 257, 384
    block = 24 * tokens * dim**2 + 4 * tokens**2 * dim
    embed = 2 * 256 * 3 * 14**2 * dim
    work = arithmetic_of(CARD, n_queries=100, n_bank=5000)
    assert work.backbone == pytest.approx(10 * block + embed)
    assert work.search == 2 * 100 * 5000 * 384
    assert work.total == work.backbone + work.search


def test_a_later_attention_layer_costs_its_keys_alone() -> None:
    ten = arithmetic_of(CARD, n_queries=1, n_bank=1).backbone
    attending = arithmetic_of(replace(CARD, attention_layer=10), n_queries=1, n_bank=1).backbone
    eleven = arithmetic_of(replace(CARD, attention_layer=10, layers=(10,)), n_queries=1, n_bank=1).backbone
    assert ten < attending < ten + 0.1 * (eleven - ten)


def test_concatenating_blocks_makes_the_search_wider_and_not_the_backbone() -> None:
    mean = arithmetic_of(CARD, n_queries=10, n_bank=10)
    wide = arithmetic_of(replace(CARD, join="concat", dim=384 * len(CARD.layers)), n_queries=10, n_bank=10)
    assert wide.backbone == mean.backbone
    assert wide.search == len(CARD.layers) * mean.search


def test_a_matrix_product_has_a_rate_again_and_again() -> None:
    with MatrixProduct(threads=1, side=64) as product:
        assert all(product.rate_hz() > 0 for _ in range(3))


def test_median_and_p99_are_those_of_numpy() -> None:
    timing = Timing.of([0.001, 0.002, 0.003, 0.100])
    assert (timing.n, timing.median_ms) == (4, pytest.approx(2.5))
    assert 3 < timing.p99_ms <= 100


def test_a_ratio_of_neighbours_does_not_mind_a_machine_that_slows_down() -> None:
    assert median_ratio([10, 5, 1], [20, 10, 2]) == 0.5
    assert np.isnan(median_ratio([], []))


def test_a_clock_drops_its_warm_up_and_does_not_count_what_failed() -> None:
    clock = StageClock()
    clock("backbone", 9.0)
    clock.clear()
    with clock.timed("decode"):
        pass
    with pytest.raises(ZeroDivisionError), clock.timed("search"):
        _ = 1 / 0
    assert list(clock.stages) == ["decode"]


def test_drawn_frames_are_pictures_of_the_cameras_size_and_no_two_alike() -> None:

    buffer = BytesIO()
    Image.fromarray(draw_part(np.random.default_rng(0))).save(buffer, "PNG")
    frames = frames_from_picture(buffer.getvalue(), 3, hw=(96, 128))
    images = [decoded(message).image for message in frames.messages]
    assert [image.shape for image in images] == [(96, 128, 3)] * 3
    assert len({image.tobytes() for image in images}) == 3
    assert frames_from_picture(buffer.getvalue(), 3, hw=(96, 128)).messages[2].payload == frames.messages[2].payload
    assert [message.frame_id for message in frames.first(5)] == [0, 1, 2, 0, 1]
    sent = stamped_now(frames.messages[1], station="line2", frame_id=7)
    assert (sent.station, sent.frame_id, sent.payload) == ("line2", 7, frames.messages[1].payload)


def test_threads_are_compared_up_to_all_cores() -> None:
    assert thread_counts(2) == [1, 2]
    assert thread_counts(24) == [1, 2, 4, 8, 16, 24]


def test_each_compared_setting_is_a_config_that_differs_from_the_default_in_what_its_name_says(tmp_path: Path) -> None:
    default = configured({}, tmp_path)
    settings = {one.name: one for one in settings_to_compare(n_cores=2, batches=(1, 4), folder=tmp_path)}
    configs = {name: configured(dict(one.content), tmp_path, one.n_stations) for name, one in settings.items()}

    changed = {
        name: {key for key in type(one).model_fields if getattr(one, key) != getattr(default, key)}
        for name, one in configs.items()
    }
    assert changed == {
        "threads 1": {"threads"},
        "threads 2": {"threads"},
        "parallel_frames false": {"parallel_frames"},
        "max_batch 4, 4 stations": {"max_batch", "stations"},
        "heatmap never": {"publish"},
        "heatmap always": {"publish"},
        "audit log": {"audit"},
        "evidence of every frame": {"evidence"},
        "metrics": {"metrics"},
    }
    assert len(configs["max_batch 4, 4 stations"].stations) == configs["max_batch 4, 4 stations"].max_batch == 4


def configured(content: dict[str, Any], folder: Path, n_stations: int = 1) -> Settings:
    """The daemon's settings of a bench's line."""
    line = line_content(folder / "model.onnx", folder / "bank.safetensors", n_stations=n_stations, **content)
    for station in line["stations"]:
        station["source"] = f"ipc://{folder}/{station['name']}"
    return make_settings(line, name="bench")


def test_live_stations_are_in_mode_latest(tmp_path: Path) -> None:
    content = line_content(tmp_path / "m", tmp_path / "b", n_stations=3, mode="latest")
    assert [(one["name"], one["mode"]) for one in content["stations"]] == [
        ("bench", "latest"),
        ("bench2", "latest"),
        ("bench3", "latest"),
    ]


def test_a_bank_of_any_size_has_the_distribution_of_the_one_it_was_made_of() -> None:
    bank = random_bank(n_patches=50)
    large = bank_of_size(bank, 400)
    distances = 2 - 2 * (large.patches @ bank.patches.T).max(axis=1)
    assert large.patches.shape == (400, bank.patches.shape[1])
    assert large.manifest.n_patches == 400
    np.testing.assert_allclose(np.linalg.norm(large.patches, axis=1), 1, atol=1e-5)
    assert 0 < np.median(distances) < 0.1  # a step of length 0.2 away


def test_the_tables_show_what_was_measured() -> None:
    timing = Timing(4, 12.0, 15.0)
    rounds = [Round(bare_hz=10.0, line_hz=9.0, product_hz=1e11), Round(bare_hz=20.0, line_hz=18.0, product_hz=2e11)]
    result = BenchResult(
        frames="8 frames",
        card=CARD,
        stages=StageResult(
            stages={"decode": Timing(4, 3.0, 4.0), "heatmap": timing, "overlay": timing},
            whole=timing,
            foreground_ratio=0.5,
            grid_hw=(16, 16),
            tiling=None,
            decisions={"normal": 4},
            n_bank=5000,
        ),
        line=LineResult(
            bare=timing,
            latency=Timing(4, 13.2, 16.0),
            verdict_latency=Timing(4, 12.8, 15.5),
            rounds=rounds,
            bare_hz=15.0,
            line_hz=13.5,
            throughput_ratio=0.9,
            latency_ratio=1.1,
            peak_rss_mib=None,
            product_hz=1.5e11,
        ),
        arithmetic=arithmetic_of(CARD, n_queries=128, n_bank=5000),
        live=[
            LiveResult(
                n_stations=3, camera_hz=13.5, rate_hz=12.0, slowest_hz=3.9, latency=Timing(9, 180.0, 250.0),
                peak_rss_mib=430.4,
            )
        ],
    )  # fmt: skip
    cells = {row[0]: row[1:] for table in tables_of(result) for row in table.rows}
    assert cells["decode"] == ("3.00", "4.00", "25.0%")
    assert cells["capture to verdict received"] == ("13.20 ms", "16.00 ms", "1.100 (goal 1.10 at most)")
    assert cells["3 stations live"] == ("13.5", "12.00", "3.90", "180.0", "250.0", "430")
    assert cells["peak memory of the daemon"][0] == "-"
    assert result.backbone_of_limit == pytest.approx(result.arithmetic.backbone * 10 / 1e11)
    assert cells["backbone alone"][-1] == f"{result.backbone_of_limit:.1%}"


def test_the_machine_has_a_name_and_other_programs_take_a_part_of_it() -> None:
    named = machine()
    assert named["CPU"]
    assert "onnxruntime" in named["versions"]
    others = OtherPrograms()
    sum(range(10**6))
    share = others.share()
    assert share is None or 0 <= share <= 1
