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
from edge_uad.runtime.assemble import load_backbone, load_inspector, parallel_frame_count
from edge_uad.runtime.cores import available_cores
from edge_uad.runtime.settings import make_settings
from edge_uad.sources.decode import read_image
from tests.fakes import GREEN, RED, FakeBackbone, ScriptedSource, frame, inspector_of, until
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource

STATIONS = ("line", "line2")


class Gate:
    """Holds the first frame up, on its way to all cores, until enough others wait."""

    def __init__(self, warm_ups: int) -> None:
        self._first = warm_ups + 1
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, inference: int) -> None:
        if inference == self._first:
            self.reached.set()
            assert self.open.wait(PATIENCE_S)

    def then(self, *frames: AnyFrame) -> Iterator[AnyFrame]:
        """These, but not before the first frame is held up."""
        assert self.reached.wait(PATIENCE_S)
        yield from frames


class ColouredBackbone(FakeBackbone):
    """Does something special for pictures of one colour."""

    def __init__(self, colour: tuple[int, int, int], then: Callable[[], None]) -> None:
        super().__init__()
        self._mean = float(inspector_of(GREEN).pixels(frame(0, colour)).mean())
        self._then = then
        self.armed = False

    def embed(self, pixels: Float32) -> list[Embedding]:
        if self.armed and np.isclose(pixels.mean(), self._mean):
            self._then()
        return super().embed(pixels)


def paired(all_cores: FakeBackbone, one_core: FakeBackbone) -> Inspector:
    return inspector_of(GREEN, backbone=all_cores, on_one_core=inspector_of(GREEN, backbone=one_core))


def judged_behind_the_first(line: Line, gate: Gate, n: int) -> None:
    """Let the first frame go when ``n`` wait behind it."""
    assert gate.reached.wait(PATIENCE_S)
    until(lambda: sum(station.waiting for station in line.stations) == n)
    gate.open.set()
    line.sink.wait_for(lambda: len(line.sink.verdicts) == n + 1)


def test_where_frames_wait_two_are_at_work_at_the_same_time() -> None:
    gate, both = Gate(1), threading.Barrier(2, timeout=PATIENCE_S)
    one_core = FakeBackbone(lambda _: both.wait() and None)  # passes only where two come to it together
    all_cores = FakeBackbone(gate)
    source = ScriptedSource(chain([frame(0)], gate.then(*(frame(n) for n in range(1, 5)))), then_wait=True)
    line = Line(source, inspector=paired(all_cores, one_core), parallel_frames=2)
    with line.running():
        judged_behind_the_first(line, gate, 4)
    assert (all_cores.inferences, one_core.inferences) == (1 + 1, 2 + 4)  # warm-ups first
    assert [(one.frame_id, one.decision) for one in line.sink.verdicts] == [(n, Decision.NORMAL) for n in range(5)]


def test_a_frame_alone_has_all_cores() -> None:
    gate = Gate(1)
    all_cores, one_core = FakeBackbone(gate), FakeBackbone()
    source = ScriptedSource(chain([frame(0)], gate.then(frame(1))), then_wait=True)
    line = Line(source, inspector=paired(all_cores, one_core), parallel_frames=2)
    with line.running():
        judged_behind_the_first(line, gate, 1)
    assert (all_cores.inferences, one_core.inferences) == (1 + 2, 2)


def test_a_station_is_heard_in_order_though_its_second_frame_is_done_first() -> None:
    gate, second_done = Gate(1), threading.Event()

    class Watched(FakeBackbone):
        def embed(self, pixels: Float32) -> list[Embedding]:
            embedded = super().embed(pixels)
            second_done.set()
            return embedded

    slow = ColouredBackbone(RED, lambda: second_done.wait(PATIENCE_S) and None)

    class Both(FakeBackbone):
        """The red frame waits until the green one behind it has gone through."""

        def embed(self, pixels: Float32) -> list[Embedding]:
            return slow.embed(pixels) if np.isclose(pixels.mean(), slow._mean) else watched.embed(pixels)

    watched = Watched()
    source = ScriptedSource(chain([frame(0)], gate.then(frame(1, RED), frame(2))), then_wait=True)
    line = Line(source, inspector=paired(FakeBackbone(gate), Both()), parallel_frames=2)
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        second_done.clear()  # the warm-up's
        slow.armed = True
        judged_behind_the_first(line, gate, 2)
    assert second_done.is_set()
    told = [(one.frame_id, one.decision) for one in line.sink.verdicts]
    assert told == [(0, Decision.NORMAL), (1, Decision.ANOMALOUS), (2, Decision.NORMAL)]


def test_a_frame_that_is_done_does_not_wait_for_one_behind_it_that_hangs() -> None:
    gate, let_go = Gate(2), threading.Event()
    hanging = ColouredBackbone(RED, lambda: let_go.wait(PATIENCE_S) and None)
    sources = [
        ScriptedSource(chain([frame(0)], gate.then(frame(1, RED))), then_wait=True),
        ScriptedSource(gate.then(frame(0, station="line2")), then_wait=True),
    ]
    line = Line(*sources, inspector=paired(FakeBackbone(gate), hanging), parallel_frames=2)
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        hanging.armed = True
        until(lambda: sum(station.waiting for station in line.stations) == 2)
        gate.open.set()
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 1)  # line had its turn
        assert len(line.sink.of("line")) == 1
        let_go.set()
        line.sink.wait_for(lambda: len(line.sink.of("line")) == 2)


def test_a_fault_stays_with_its_frame() -> None:
    def fail() -> None:
        raise ZeroDivisionError("inside")

    gate, failing = Gate(1), ColouredBackbone(RED, fail)
    source = ScriptedSource(chain([frame(0)], gate.then(frame(1, RED), frame(2))), then_wait=True)
    line = Line(source, inspector=paired(FakeBackbone(gate), failing), parallel_frames=2)
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        failing.armed = True
        judged_behind_the_first(line, gate, 2)
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
    inspector = load_inspector(
        load_backbone(tiny_model, threads=2), tiny_bank, on_one_core=load_backbone(tiny_model, threads=1)
    )
    assert inspector.on_one_core is not inspector
    assert inspector.on_one_core.bank.patches is inspector.bank.patches
    for n, path in enumerate([*sorted(good_parts.glob("*.png"))[:6], *sorted(scratched_parts.glob("*.png"))]):
        asked = dataclasses.replace(frame(n), image=read_image(path))
        prepared = inspector.prepared(asked)
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
