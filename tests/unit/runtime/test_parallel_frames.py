"""Frames judged side by side, each on one core: where enough of them wait, with the verdicts of each alone."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from edge_uad.inference.inspector import Inspector
from edge_uad.records import AnyFrame, Decision, Embedding, Float32
from edge_uad.runtime.assemble import load_inspector, parallel_frame_count
from edge_uad.runtime.backbones import Backbones
from edge_uad.runtime.settings import make_settings
from edge_uad.runtime.workers import available_cores
from edge_uad.sources.decode import read_image
from tests.fakes import GREEN, RED, FakeBackbone, ScriptedSource, frame, inspector_of, until
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource

STATIONS = ("line", "line2")


class Gate:
    """Holds the first frame at a worker, judged with all cores, until opened."""

    def __init__(self, warm_ups: int = 1) -> None:
        self._first = warm_ups + 1
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, inference: int) -> None:
        if inference == self._first:
            self.reached.set()
            assert self.open.wait(PATIENCE_S)

    def then(self, *frames: AnyFrame) -> Iterator[AnyFrame]:
        """These, but not before the first frame is at a worker."""
        assert self.reached.wait(PATIENCE_S)
        yield from frames


class ColouredBackbone(FakeBackbone):
    """Does something special for pictures of one colour."""

    def __init__(self, colour: tuple[int, int, int], then: Callable[[], object]) -> None:
        super().__init__()
        self._mean = mean_of(colour)
        self._then = then

    def embed(self, pixels: Float32) -> list[Embedding]:
        if np.isclose(pixels.mean(), self._mean):
            self._then()
        return super().embed(pixels)


def mean_of(colour: tuple[int, int, int]) -> float:
    """Of the model's input; that of the warm-up's noise is another."""
    return float(inspector_of(GREEN).pixels(frame(0, colour)).mean())


def paired(all_cores: FakeBackbone, one_core: FakeBackbone) -> Inspector:
    return inspector_of(GREEN, backbone=all_cores, on_one_core=inspector_of(GREEN, backbone=one_core))


def wait_for_n(line: Line, n: int) -> None:
    line.sink.wait_for(lambda: len(line.sink.verdicts) == n)


def test_frames_that_come_while_another_is_judged_are_judged_at_the_same_time_each_on_one_core() -> None:
    gate, both = Gate(), threading.Barrier(2, timeout=PATIENCE_S)
    one_core = FakeBackbone(lambda _: both.wait())  # passes only where two are at it at the same time
    all_cores = FakeBackbone(gate)
    source = ScriptedSource(chain([frame(0)], gate.then(*(frame(n) for n in range(1, 5)))), then_wait=True)
    line = Line(source, inspector=paired(all_cores, one_core), parallel_frames=2)
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        until(lambda: line.stations[0].waiting == 3)  # the second worker has taken one
        gate.open.set()
        wait_for_n(line, 5)
    assert (all_cores.inferences, one_core.inferences) == (1 + 1, 2 + 4)  # warm-ups first
    assert [(one.frame_id, one.decision) for one in line.sink.verdicts] == [(n, Decision.NORMAL) for n in range(5)]
    assert [one.sequence for one in line.sink.verdicts] == [1, 2, 3, 4, 5]


def test_a_frame_alone_has_all_cores() -> None:
    all_cores, one_core, first_done = FakeBackbone(), FakeBackbone(), threading.Event()

    def after_the_first() -> Iterator[AnyFrame]:
        yield frame(0)
        assert first_done.wait(PATIENCE_S)
        yield frame(1)

    line = Line(
        ScriptedSource(after_the_first(), then_wait=True), inspector=paired(all_cores, one_core), parallel_frames=2
    )
    with line.running():
        wait_for_n(line, 1)
        until(lambda: line.daemon._scheduler.oldest_running is None)
        first_done.set()
        wait_for_n(line, 2)
    assert (all_cores.inferences, one_core.inferences) == (1 + 2, 2)


def test_no_core_waits_for_the_slowest_frame() -> None:
    """While one frame takes for ever, the other worker judges all that comes, of every station."""
    let_go = threading.Event()
    hanging = ColouredBackbone(RED, lambda: let_go.wait(PATIENCE_S))
    inspector = paired(hanging, hanging)
    red_first = ScriptedSource([frame(0, RED, station="line2"), frame(1, station="line2")], then_wait=True)
    others = EndlessSource(every_s=0.001)
    line = Line(others, red_first, inspector=inspector, parallel_frames=2)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.of("line")) > 50)
        assert line.sink.of("line2") == []  # its first frame is still judged, its second is done and waits
        let_go.set()
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 2)
    assert [one.frame_id for one in line.sink.of("line2")] == [0, 1]


def test_of_a_latest_station_one_frame_at_a_time_is_judged_so_that_the_next_is_the_newest() -> None:
    gate = Gate()
    source = ScriptedSource(chain([frame(0)], gate.then(*(frame(n) for n in range(1, 6)))), then_wait=True)
    line = Line(source, inspector=paired(FakeBackbone(gate), FakeBackbone()), parallel_frames=3, mode="latest")
    with line.running():
        until(lambda: source.given == 6)
        assert line.stations[0].waiting == 1
        gate.open.set()
        wait_for_n(line, 2)
    assert [(one.frame_id, one.dropped_before) for one in line.sink.verdicts] == [(0, 0), (5, 4)]


def test_three_live_stations_on_four_cores_are_judged_at_the_same_time() -> None:
    three = threading.Barrier(3, timeout=PATIENCE_S)
    together = ColouredBackbone(RED, three.wait)  # passes only where three are at it
    names = ("line", "line2", "line3")
    line = Line(
        *(ScriptedSource([frame(0, RED, station=name)], then_wait=True) for name in names),
        inspector=paired(together, together),
        parallel_frames=4,
        mode="latest",
    )
    with line.running():
        wait_for_n(line, 3)
    assert {one.decision for one in line.sink.verdicts} == {Decision.ANOMALOUS}


def test_verdicts_of_a_station_are_in_order_though_its_second_frame_is_done_first() -> None:
    green_done = threading.Event()

    class RedWaits(FakeBackbone):
        """The red frame waits until the green one behind it is done."""

        def embed(self, pixels: Float32) -> list[Embedding]:
            if np.isclose(pixels.mean(), mean_of(RED)):
                assert green_done.wait(PATIENCE_S)
            embedded = super().embed(pixels)
            if np.isclose(pixels.mean(), mean_of(GREEN)):
                green_done.set()
            return embedded

    red_waits = RedWaits()
    source = ScriptedSource([frame(1, RED), frame(2, GREEN)], then_wait=True)
    line = Line(source, inspector=paired(red_waits, red_waits), parallel_frames=2)
    with line.running():
        wait_for_n(line, 2)
    published = [(one.frame_id, one.decision) for one in line.sink.verdicts]
    assert published == [(1, Decision.ANOMALOUS), (2, Decision.NORMAL)]


def test_a_fault_stays_with_its_frame() -> None:
    def fail() -> None:
        raise ZeroDivisionError("inside")

    failing = ColouredBackbone(RED, fail)
    source = ScriptedSource([frame(0), frame(1, RED), frame(2)], then_wait=True)
    line = Line(source, inspector=paired(failing, failing), parallel_frames=2)
    with line.running():
        wait_for_n(line, 3)
    reasons = [one.reason for one in line.sink.verdicts]
    assert reasons == [None, "fault inside: ZeroDivisionError: inside", None]


def test_a_daemon_that_cannot_judge_side_by_side_is_not_ready() -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError("inside")

    line = Line(ScriptedSource(then_wait=True), inspector=paired(FakeBackbone(), FakeBackbone(fail)), parallel_frames=2)
    with pytest.raises(ZeroDivisionError):
        line.daemon.run()


def test_a_flooding_station_does_not_starve_another() -> None:
    line = Line(
        EndlessSource(every_s=0.0),
        ScriptedSource([frame(n, station="line2") for n in range(20)], then_wait=True),
        parallel_frames=3,
    )
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 20)
        until(lambda: len(line.sink.of("line")) >= 20)
    for name in STATIONS:
        assert [one.frame_id for one in line.sink.of(name)] == list(range(len(line.sink.of(name))))


def test_verdicts_are_the_same_to_the_last_bit(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> None:
    inspector = load_inspector(Backbones(tiny_model, threads=2, side_by_side=2), tiny_bank)
    assert inspector.on_one_core is not inspector
    assert inspector.on_one_core.bank.patches is inspector.bank.patches
    for n, path in enumerate([*sorted(good_parts.glob("*.png"))[:6], *sorted(scratched_parts.glob("*.png"))]):
        asked = dataclasses.replace(frame(n), image=read_image(path))
        prepared = inspector.preprocessed(asked)
        verdict, same = inspector.inspect(asked), inspector.on_one_core.inspect(prepared)
        assert (same.score, same.decision, same.peak) == (verdict.score, verdict.decision, verdict.peak)
        assert verdict.heatmap is not None
        assert same.heatmap is not None
        np.testing.assert_array_equal(same.heatmap, verdict.heatmap)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, available_cores()),
        ({"threads": 3}, 3),
        ({"threads": 1}, 1),
        ({"threads": 3, "provider": "openvino"}, 3),
        ({"threads": 3, "parallel_frames": False}, 1),
        ({"threads": 3, "max_batch": 4}, 1),
        ({"threads": 3, "provider": "cuda"}, 1),
        ({"threads": 3, "search_device": "gpu"}, 1),
    ],
)
def test_as_many_as_there_are_cores_to_work_on(content: dict[str, object], expected: int) -> None:
    station = {"name": "line", "source": "parts", "bank": "bank.safetensors"}
    assert parallel_frame_count(make_settings({"stations": [station], **content}, name="test")) == expected


def test_never_where_a_frame_must_be_judged_in_time() -> None:
    stations = [
        {"name": name, "source": "parts", "bank": "b", "deadline_ms": deadline_ms}
        for name, deadline_ms in (("a", None), ("b", 100))
    ]
    assert parallel_frame_count(make_settings({"stations": stations, "threads": 2}, name="test")) == 1
