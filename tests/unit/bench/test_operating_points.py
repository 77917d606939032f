"""Which input size and precision a line's cycle leaves room for."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.bank.recipe import recipe_for
from bank_tools.bench.clock import Timing
from bank_tools.bench.operating_points import (
    MARGIN_RATIO,
    OperatingPoint,
    SamplePictures,
    choose_points,
    fastest_by_size,
    measure_points,
)
from edge_uad.errors import UsageError
from edge_uad.progress import SilentProgress
from edge_uad.records import Frame, UnreadableFrame
from tests.models import export_tiny_model

points_lists = st.lists(
    st.builds(
        lambda size, precision, median_ms, extra_ms: OperatingPoint(
            input_px=size, precision=precision, timing=Timing(15, median_ms, median_ms + extra_ms)
        ),
        st.sampled_from([224, 336, 448]),
        st.sampled_from(["fp32", "bf16", "int8"]),
        st.floats(1, 1000),
        st.floats(0, 50),
    ),
    min_size=1,
    max_size=9,
)


@given(points_lists, st.floats(1, 2000))
def test_what_is_chosen_fits_with_the_margin_and_the_finest_comes_first(
    points: list[OperatingPoint], cycle_ms: float
) -> None:
    fastest = fastest_by_size(points)
    if not any(one.fits(cycle_ms) for one in fastest):
        with pytest.raises(UsageError, match=r"no input size fits a cycle of"):
            choose_points(points, cycle_ms)
        return
    chosen = choose_points(points, cycle_ms)
    assert all(one.timing.p99_ms <= (1 - MARGIN_RATIO) * cycle_ms for one in chosen)
    sizes = [one.input_px for one in chosen]
    assert sizes == sorted(set(sizes), reverse=True)
    left_out = [one for one in fastest if one.input_px not in sizes]
    assert not any(one.fits(cycle_ms) for one in left_out)


@given(points_lists)
def test_no_other_precision_of_a_size_is_faster(points: list[OperatingPoint]) -> None:
    for one in fastest_by_size(points):
        alike = [other for other in points if other.input_px == one.input_px]
        assert one.timing.median_ms == min(other.timing.median_ms for other in alike)


def test_the_remedy_named_is_enough() -> None:
    point = OperatingPoint(input_px=224, precision="int8", timing=Timing(15, 40, 45.5))
    with pytest.raises(UsageError, match=r"224 px in int8 takes 46 ms .* at least 51 ms"):
        choose_points([point], 20)
    assert choose_points([point], 51) == [point]


def frame(number: int) -> Frame:
    image = np.random.default_rng(number).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    return Frame(station="s", frame_id=number, captured_at_ns=0, captured_mono_ns=0, image=image)


def unreadable(number: int) -> UnreadableFrame:
    return UnreadableFrame(station="s", frame_id=number, captured_at_ns=0, captured_mono_ns=0, reason="damaged")


def test_a_few_pictures_are_enough_and_damaged_ones_are_passed_over() -> None:
    frames = (unreadable(number) if number % 2 else frame(number) for number in count())
    found = SamplePictures.of(lambda: next(frames, None))
    assert len(found.images) == len(found.read_s) == 5
    with pytest.raises(UsageError, match="no picture can be read"):
        SamplePictures.of(lambda: None)


def test_each_size_is_timed_in_fp32(tmp_path: Path) -> None:
    models = {64: export_tiny_model(tmp_path / "a.onnx")}
    pictures = SamplePictures((frame(0).image,), (0.25,))
    (point,) = measure_points(models, (), pictures, recipe_for, threads=1, progress=SilentProgress())
    assert (point.input_px, point.precision, point.timing.n) == (64, "fp32", 15)
    assert point.timing.median_ms > 250  # what reading took is part of it
