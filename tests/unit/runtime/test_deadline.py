"""A frame that cannot be judged in time is *invalid: deadline*, at the deadline, once, and in its order."""

import dataclasses
import itertools
import threading
import time

import numpy as np

from edge_uad.records import Decision
from tests.fakes import FakeBackbone, ScriptedSource, frame, until
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource

AN_HOUR_MS = 3_600_000.0


class Gate:
    """Holds up chosen inferences until opened; the first inference of each station is its warm-up."""

    def __init__(self, *held: int) -> None:
        self._held = held
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, inference: int) -> None:
        if inference in self._held:
            self.reached.set()
            assert self._open.wait(PATIENCE_S)

    def open(self) -> None:
        self._open.set()


def test_a_frame_in_a_long_inference_and_those_behind_it_are_told_at_their_deadline() -> None:
    """All of it while the inference still runs; what it says at last is thrown away, and the line goes on."""
    gate = Gate(2)
    source = ScriptedSource([frame(number) for number in range(5)], then_wait=True)
    line = Line(source, backbone=FakeBackbone(gate), deadline_ms=300)
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 5)
        told = list(line.sink.verdicts)
        gate.open()
    assert line.sink.verdicts == told
    assert [one.frame_id for one in told] == [0, 1, 2, 3, 4]
    assert [(one.decision, one.reason) for one in told] == [(Decision.INVALID, "deadline")] * 5
    assert all(one.latency_ms >= 300 for one in told)
    last = line.sink.statuses[-1]
    assert (last.frames_seen, last.judged, last.invalid, last.dropped) == (5, 5, 5, 0)


def test_a_frame_that_comes_too_late_already_never_reaches_the_judge() -> None:
    backbone = FakeBackbone()
    old = dataclasses.replace(frame(0), captured_mono_ns=time.monotonic_ns() - 10**12)
    line = Line(ScriptedSource([old, frame(1)]), backbone=backbone, deadline_ms=10**5)
    line.daemon.run()
    assert [(one.frame_id, one.reason) for one in line.sink.verdicts] == [(0, "deadline"), (1, None)]
    assert backbone.inferences == 2  # the warm-up and one frame


def test_a_frame_in_time_is_judged_and_without_a_deadline_every_one_is() -> None:
    for deadline_ms in (AN_HOUR_MS, None):
        old = dataclasses.replace(frame(0), captured_mono_ns=time.monotonic_ns() - 10**9)
        line = Line(ScriptedSource([old, frame(1)]), deadline_ms=deadline_ms)
        line.daemon.run()
        assert [one.decision for one in line.sink.verdicts] == [Decision.NORMAL] * 2


def test_a_younger_frame_waits_for_its_turn_even_where_its_sender_says_that_it_is_older() -> None:
    """Clocks of senders differ: the second frame's deadline comes first, its verdict does not."""
    gate = Gate(2)
    first, second = frame(0), dataclasses.replace(frame(1), captured_mono_ns=time.monotonic_ns() - 10**12)
    line = Line(
        ScriptedSource([first, second], then_wait=True), backbone=FakeBackbone(gate), deadline_ms=AN_HOUR_MS / 60
    )
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        until(lambda: line.stations[0].waiting == 1)
        assert line.sink.verdicts == []
        due_s = line.daemon._scheduler._next_deadline_s()
        assert due_s is not None
        assert due_s > 0  # else the loop would spin
        gate.open()
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
    assert [(one.frame_id, one.reason) for one in line.sink.verdicts] == [(0, None), (1, "deadline")]


def test_one_stations_deadline_is_not_anothers() -> None:
    gate = Gate(4)  # two warm-ups, then both first frames, in turn
    hasty, patient = [ScriptedSource([frame(n, station=name) for n in range(3)]) for name in ("line", "line2")]
    line = Line(hasty, patient, backbone=FakeBackbone(gate), deadline_ms=[200, None])
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        line.sink.wait_for(lambda: len(line.sink.of("line")) == 3)
        gate.open()
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 3)
    assert {one.reason for one in line.sink.of("line2")} == {None}


def test_in_a_race_of_judge_and_clock_each_frame_has_one_verdict_in_order() -> None:
    """Inferences that take about as long as the deadline allows."""
    dice = np.random.default_rng(0)

    def about_10_ms(inference: int) -> None:
        if inference > 1:
            time.sleep(dice.uniform(0.0, 0.02))

    source = EndlessSource(every_s=0.004)
    line = Line(source, backbone=FakeBackbone(about_10_ms), deadline_ms=12)
    with line.running():
        line.sink.wait_for(
            lambda: len(line.sink.verdicts) >= 150 and {one.reason for one in line.sink.verdicts} == {None, "deadline"}
        )
    verdicts = line.sink.verdicts
    assert [one.frame_id for one in verdicts] == list(range(source.given))
    late = [one.latency_ms for one in verdicts if one.reason == "deadline"]
    assert min(late) >= 12


def test_with_latest_a_frame_is_judged_late_or_skipped_once() -> None:
    source = EndlessSource(every_s=0.001)

    def slow(inference: int) -> None:
        time.sleep(0.02 if inference % 3 else 0.0)

    line = Line(source, mode="latest", backbone=FakeBackbone(slow), deadline_ms=10)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) >= 50)
    verdicts = line.sink.verdicts
    assert all(one.frame_id < other.frame_id for one, other in itertools.pairwise(verdicts))
    last = line.sink.statuses[-1]
    assert last.judged + last.dropped == last.frames_seen == source.given
    assert all(one.frame_id + 1 == n + dropped for n, one, dropped in _running_drops(verdicts))


def _running_drops(verdicts):  # type: ignore[no-untyped-def]  # pairs for one assertion
    dropped = itertools.accumulate(one.dropped_before for one in verdicts)
    return zip(itertools.count(1), verdicts, dropped, strict=False)


def test_a_hung_inference_at_the_stop_leaves_no_frame_without_a_verdict() -> None:
    gate = Gate(2)
    line = Line(ScriptedSource([frame(0), frame(1)], then_wait=True), backbone=FakeBackbone(gate), stop_timeout_s=0.05)
    with line.running():
        assert gate.reached.wait(PATIENCE_S)
        until(lambda: line.stations[0].waiting == 1)
    gate.open()
    [verdict] = line.sink.verdicts
    assert (verdict.frame_id, verdict.decision) == (0, Decision.INVALID)
    assert verdict.reason == "the daemon was stopped before this frame was judged"
    last = line.sink.statuses[-1]
    assert (last.frames_seen, last.judged, last.dropped) == (2, 1, 1)
    assert line.daemon.stuck_threads == ["inference"]
