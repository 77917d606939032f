"""One trigger, one result, by the deadline: through the real capture, scheduler, workers and publisher."""

import dataclasses
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edge_uad.errors import SourceLostError
from edge_uad.records import (
    NO_FRAME_ID,
    Decision,
    StationState,
    Trigger,
    TriggerFailure,
    TriggerMode,
    UnreadableFrame,
)
from edge_uad.runtime.station import Station
from edge_uad.sources.video import VideoSource
from tests.fakes import GREEN, RED, FakeBackbone, ScriptedSource, frame, green_inspector, until
from tests.films import write_film
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource, PushedSource
from tests.unit.runtime.test_deadline import Gate

LONG_MS = 60_000.0
BOTH: list[TriggerMode] = ["software", "hardware"]


def trigger(number: int, *, age_s: float = 0.0) -> Trigger:
    return Trigger(number, f"SN-{number}", time.monotonic_ns() - round(age_s * 1e9))


def answers(line: Line) -> list[tuple[int | None, Decision, str | None]]:
    return [(one.trigger_id, one.decision, one.reason) for one in line.sink.verdicts]


def running(line: Line) -> None:
    until(lambda: line.stations[0].trigger_ready)


@pytest.mark.parametrize("mode", BOTH)
def test_each_trigger_has_the_verdict_of_its_own_frame_and_both_ids(mode: TriggerMode) -> None:
    source = PushedSource()
    line = Line(source, trigger_mode=mode, deadline_ms=LONG_MS)
    acquired: list[int] = []
    line.stations[0].on_acquired = acquired.append
    with line.running():
        running(line)
        for number, colour in enumerate([GREEN, RED, GREEN], start=1):
            assert line.stations[0].trigger(trigger(number))
            source.push(frame(10 + number, colour))
            line.sink.wait_for(lambda number=number: len(line.sink.verdicts) == number)  # type: ignore[misc]
    found = [(one.trigger_id, one.part_id, one.frame_id, one.decision) for one in line.sink.verdicts]
    normal, anomalous = Decision.NORMAL, Decision.ANOMALOUS
    assert found == [(1, "SN-1", 11, normal), (2, "SN-2", 12, anomalous), (3, "SN-3", 13, normal)]
    assert [one.sequence for one in line.sink.verdicts] == [1, 2, 3]
    assert acquired == [1, 2, 3]


def test_a_frame_from_before_the_trigger_is_dropped_and_counted() -> None:
    source = PushedSource()
    line = Line(source, trigger_mode="software", deadline_ms=LONG_MS)
    with line.running():
        running(line)
        old = frame(0, RED)
        assert line.stations[0].trigger(trigger(1))
        source.push(old)
        source.push(dataclasses.replace(frame(1), captured_mono_ns=time.monotonic_ns() - 10**9))
        source.push(frame(2))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
    [verdict] = line.sink.verdicts
    assert (verdict.frame_id, verdict.decision, verdict.dropped_before) == (2, Decision.NORMAL, 2)
    last = line.sink.statuses[-1]
    assert (last.frames_seen, last.judged, last.dropped) == (3, 1, 2)


def test_with_a_delay_the_frame_is_so_much_younger_than_its_trigger() -> None:
    source = EndlessSource(every_s=0.005)
    line = Line(source, trigger_mode="software", trigger_delay_ms=100, deadline_ms=LONG_MS)
    with line.running():
        running(line)
        sent = trigger(1)
        assert line.stations[0].trigger(sent)
        line.sink.wait_for(lambda: bool(line.sink.verdicts))
    assert line.sink.verdicts[0].latency_ms >= 100


@pytest.mark.parametrize("mode", BOTH)
def test_without_a_frame_the_answer_comes_at_the_deadline(mode: TriggerMode) -> None:
    line = Line(PushedSource(), trigger_mode=mode, deadline_ms=100)
    with line.running():
        running(line)
        assert all(line.stations[0].trigger(trigger(number)) for number in (1, 2))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
    assert answers(line) == [(number, Decision.INVALID, "no image") for number in (1, 2)]
    for one in line.sink.verdicts:
        assert (one.frame_id, one.part_id) == (NO_FRAME_ID, f"SN-{one.trigger_id}")
        assert one.latency_ms >= 100
        assert abs(one.captured_at_ns - time.time_ns()) < 60e9


def test_the_deadline_counts_from_the_trigger_not_from_the_frame() -> None:
    """The frame is of this moment, the trigger has waited for longer than the deadline allows."""
    gate = Gate(2)
    source = PushedSource()
    line = Line(source, backbone=FakeBackbone(gate), trigger_mode="software", deadline_ms=300)
    with line.running():
        running(line)
        assert line.stations[0].trigger(trigger(1, age_s=0.2))
        source.push(frame(0))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
        gate.open()
    assert answers(line) == [(1, Decision.INVALID, "deadline")]
    assert line.sink.verdicts[0].latency_ms >= 300


def test_what_needs_no_inference_waits_for_no_worker() -> None:
    """The only worker hangs in one station's frame; the other's lost source is told meanwhile."""
    gate = Gate(3)  # after two warm-ups
    first, second = PushedSource(), PushedSource()
    line = Line(first, second, backbone=FakeBackbone(gate), trigger_mode="software", deadline_ms=LONG_MS)
    with line.running():
        running(line)
        assert line.stations[0].trigger(trigger(1))
        first.push(frame(0))
        assert gate.reached.wait(PATIENCE_S)
        until(lambda: line.stations[1].trigger_ready)
        assert line.stations[1].trigger(trigger(2))
        second.push(SourceLostError("unplugged"))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
        assert answers(line) == [(2, Decision.INVALID, "camera gone")]
        gate.open()


@pytest.mark.parametrize("mode", BOTH)
def test_a_lost_source_fails_what_waits_and_what_comes_until_it_is_back(mode: TriggerMode) -> None:
    source = PushedSource()
    line = Line(source, trigger_mode=mode, deadline_ms=LONG_MS)
    with line.running():
        running(line)
        assert all(line.stations[0].trigger(trigger(number)) for number in (1, 2))
        source.back = False
        source.push(SourceLostError("unplugged"))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
        assert not line.stations[0].trigger_ready
        assert line.stations[0].trigger(trigger(3))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 3)
        source.back = True
        until(lambda: line.stations[0].state[0] is StationState.RUNNING)
    assert answers(line) == [(number, Decision.INVALID, "camera gone") for number in (1, 2, 3)]


def test_a_gap_in_the_cameras_count_fails_the_missing_ones_alone() -> None:
    source = PushedSource()
    line = Line(source, trigger_mode="hardware", deadline_ms=LONG_MS)
    with line.running():
        running(line)
        for numbers, frame_id in (((1,), 4), ((2, 3), 6)):
            assert all(line.stations[0].trigger(trigger(number)) for number in numbers)
            source.push(frame(frame_id))
            line.sink.wait_for(lambda numbers=numbers: len(line.sink.verdicts) == numbers[-1])  # type: ignore[misc]
    assert answers(line) == [(1, Decision.NORMAL, None), (2, Decision.INVALID, "id gap"), (3, Decision.NORMAL, None)]
    assert [one.frame_id for one in line.sink.verdicts] == [4, 5, 6]


def test_resynchronising_answers_what_waits() -> None:
    line = Line(PushedSource(), trigger_mode="hardware", deadline_ms=LONG_MS)
    with line.running():
        running(line)
        assert line.stations[0].trigger(trigger(1))
        line.stations[0].resynchronise()
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
        assert not line.stations[0].trigger_ready  # a frame of the aborted trigger may still come
        line.sink.wait_for(lambda: any("in doubt" in (one.message or "") for one in line.sink.statuses))
    assert answers(line) == [(1, Decision.INVALID, "aborted")]


@pytest.mark.parametrize("mode", BOTH)
def test_a_stop_answers_what_waits_for_a_frame_and_what_waits_for_a_worker(mode: TriggerMode) -> None:
    gate = Gate(2)
    source = PushedSource()
    line = Line(source, backbone=FakeBackbone(gate), trigger_mode=mode, deadline_ms=LONG_MS, stop_timeout_s=0.2)
    with line.running():
        running(line)
        for number in (1, 2):
            assert line.stations[0].trigger(trigger(number))
            source.push(frame(number))
            until(lambda number=number: line.stations[0].waiting == number - 1)  # type: ignore[misc]
            assert number > 1 or gate.reached.wait(PATIENCE_S)
        assert line.stations[0].trigger(trigger(3))
        line.stop.handle()
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 3)
        assert not line.stations[0].trigger(trigger(4))
        gate.open()
    assert answers(line) == [(number, Decision.INVALID, "stopping") for number in (1, 2, 3)]


def test_a_full_queue_refuses_and_a_repeated_trigger_is_not_judged_again() -> None:
    source = PushedSource()
    line = Line(source, trigger_mode="software", queue_frames=2, deadline_ms=LONG_MS)
    station = line.stations[0]
    with line.running():
        running(line)
        assert [station.trigger(trigger(number)) for number in (1, 2, 3)] == [True, True, False]
        assert not station.trigger_ready
        assert station.trigger(trigger(1))  # it waits already
        source.push(frame(0))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
        source.push(frame(1))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
        assert station.trigger(trigger(2))  # the newest, answered already
        assert station.trigger(trigger(4))
        source.push(frame(2))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 3)
        assert station.trigger(trigger(4), again=True)  # the caller says that it is another part
        source.push(frame(3))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 4)
    assert [one.trigger_id for one in line.sink.verdicts] == [1, 2, 4, 4]


def test_a_recording_gives_one_picture_for_each_trigger_and_says_when_it_has_ended() -> None:
    source = ScriptedSource(frame(number) for number in range(2))  # made when they are read
    line = Line(source, trigger_mode="software", on_demand=True, deadline_ms=LONG_MS)
    with line.running():
        running(line)
        assert source.given == 0
        for number in (1, 2, 3):
            assert line.stations[0].trigger(trigger(number))
            line.sink.wait_for(lambda number=number: len(line.sink.verdicts) == number)  # type: ignore[misc]
        assert not line.stations[0].trigger(trigger(4))
    assert answers(line) == [
        (1, Decision.NORMAL, None),
        (2, Decision.NORMAL, None),
        (3, Decision.INVALID, "no image"),
    ]
    assert line.sink.verdicts[0].captured_at_ns > 0


def test_a_film_gives_its_pictures_in_order_though_some_are_decoded_ahead(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", 9, b_frames=2)
    line = Line(
        VideoSource("line", tmp_path / "film.mp4"), trigger_mode="software", on_demand=True, deadline_ms=LONG_MS
    )
    with line.running():
        running(line)
        for number in range(1, 10):
            assert line.stations[0].trigger(trigger(number))
            line.sink.wait_for(lambda number=number: len(line.sink.verdicts) == number)  # type: ignore[misc]
    assert [(one.trigger_id, one.frame_id) for one in line.sink.verdicts] == [(n, n - 1) for n in range(1, 10)]


def test_a_damaged_picture_and_a_fault_inside_are_the_answers_to_their_triggers() -> None:
    def break_down(inference: int) -> None:
        if inference == 2:
            raise RuntimeError("it broke")

    source = PushedSource()
    line = Line(source, backbone=FakeBackbone(break_down), trigger_mode="software", deadline_ms=LONG_MS)
    with line.running():
        running(line)
        assert line.stations[0].trigger(trigger(1))
        now_ns = time.monotonic_ns()
        source.push(
            UnreadableFrame(station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=now_ns, reason="damaged")
        )
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
        assert line.stations[0].trigger(trigger(2))
        source.push(frame(4))
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
    assert answers(line) == [
        (1, Decision.INVALID, "damaged"),
        (2, Decision.INVALID, "fault inside: RuntimeError: it broke"),
    ]


@pytest.mark.parametrize("parallel_frames", [1, 3])
@pytest.mark.parametrize("mode", BOTH)
def test_from_many_threads_under_load_each_accepted_trigger_has_one_verdict(
    mode: TriggerMode, parallel_frames: int
) -> None:
    """Threads that trigger at once, a camera that is lost now and then, inferences about as long as the deadline."""
    dice = np.random.default_rng(0)

    def about_10_ms(inference: int) -> None:
        if inference > 1:
            time.sleep(float(dice.uniform(0.0, 0.02)))

    lost = SourceLostError("unplugged")
    steps = (lost if number % 50 == 49 else None for number in range(10**9))

    class Camera(EndlessSource):
        def read(self, timeout_s: float):  # type: ignore[no-untyped-def]  # as its base
            if (step := next(steps)) is not None:
                raise step
            return super().read(timeout_s)

    line = Line(
        Camera(every_s=0.003),
        backbone=FakeBackbone(about_10_ms),
        trigger_mode=mode,
        deadline_ms=15,
        parallel_frames=parallel_frames,
    )
    accepted: list[int] = []
    with line.running():
        running(line) if mode == "software" else until(lambda: line.stations[0].state[0] is StationState.RUNNING)

        def send(first: int) -> None:
            for number in range(first, first + 60):
                if line.stations[0].trigger(trigger(number)):
                    accepted.append(number)
                time.sleep(0.002)

        threads = [threading.Thread(target=send, args=(first,)) for first in (1, 1001, 2001)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = Counter(one.trigger_id for one in line.sink.verdicts)
    assert found == Counter(accepted)
    assert accepted
    assert {one.reason for one in line.sink.verdicts} <= {None, *map(str, TriggerFailure)}


def test_free_run_takes_no_trigger() -> None:
    line = Line(ScriptedSource([frame(0)]))
    assert not line.stations[0].trigger(trigger(1))
    assert not line.stations[0].trigger_ready
    line.daemon.run()
    assert answers(line) == [(None, Decision.NORMAL, None)]


def test_a_triggered_station_needs_a_deadline_and_every_frame() -> None:
    for mode, deadline_ms in (("every", None), ("latest", 100.0)):
        with pytest.raises(ValueError, match="has a deadline"):
            Station(
                name="line",
                source=PushedSource(),
                inspector=green_inspector(),
                mode=mode,  # type: ignore[arg-type]
                deadline_ms=deadline_ms,
                trigger_mode="software",
            )
