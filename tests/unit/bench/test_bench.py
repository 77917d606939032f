"""What a bench says of its measurements is right, and what it sends are whole pictures."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bank_tools.bench.arithmetic import MatrixProduct, arithmetic_of
from bank_tools.bench.clock import StageClock, Timing, median_ratio
from bank_tools.bench.frames import decoded, frames_from_picture, sent_now
from bank_tools.bench.machine import OtherPrograms, machine
from bank_tools.bench.settings import settings_to_compare, thread_counts
from edge_uad.records import ModelCard
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


def test_joining_blocks_side_by_side_makes_the_search_wider_and_not_the_backbone() -> None:
    mean = arithmetic_of(CARD, n_queries=10, n_bank=10)
    beside = arithmetic_of(replace(CARD, join="concat", dim=384 * len(CARD.layers)), n_queries=10, n_bank=10)
    assert beside.backbone == mean.backbone
    assert beside.search == len(CARD.layers) * mean.search


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


def test_a_clock_forgets_its_warm_up_and_tells_nothing_of_what_failed() -> None:
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
    sent = sent_now(frames.messages[1], station="line2", frame_id=7)
    assert (sent.station, sent.frame_id, sent.payload) == ("line2", 7, frames.messages[1].payload)


def test_threads_are_compared_up_to_all_cores(tmp_path: Path) -> None:
    assert thread_counts(2) == [1, 2]
    assert thread_counts(24) == [1, 2, 4, 8, 16, 24]
    settings = settings_to_compare(n_cores=2, batches=(1, 4), folder=tmp_path)
    assert [one.n_stations for one in settings if "max_batch" in one.content] == [4]


def test_the_machine_has_a_name_and_other_programs_take_a_part_of_it() -> None:
    named = machine()
    assert named["CPU"]
    assert "onnxruntime" in named["versions"]
    others = OtherPrograms()
    sum(range(10**6))
    share = others.share()
    assert share is None or 0 <= share <= 1
