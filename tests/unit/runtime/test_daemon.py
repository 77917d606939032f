"""The daemon's promises, with the real inspector and threads: only camera, ViT and subscriber are fakes."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_uad.errors import EndpointError, SourceLostError
from edge_uad.records import Decision, Frame, QueueMode, StationState, StationStatus, UnreadableFrame
from edge_uad.runtime.systemd import Notifier
from tests.fakes import (
    GREEN,
    RED,
    BlockedSource,
    FakeBackbone,
    RecordingSink,
    ScriptedSource,
    frame,
    until,
)
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource


def test_one_verdict_for_each_frame_in_order_until_the_source_ends() -> None:
    line = Line(ScriptedSource([frame(0), frame(1, RED), None, frame(2), frame(3, RED)]))
    assert line.daemon.run() == 0
    assert [(one.frame_id, one.decision) for one in line.sink.verdicts] == [
        (0, Decision.NORMAL),
        (1, Decision.ANOMALOUS),
        (2, Decision.NORMAL),
        (3, Decision.ANOMALOUS),
    ]
    assert line.sink.closed
    last = line.sink.statuses[-1]
    assert (last.state, last.frames_seen, last.judged, last.dropped, last.invalid) == (StationState.ENDED, 4, 4, 0, 0)
    assert (last.bank_id, last.model_id) == (line.sink.verdicts[0].bank_id, line.sink.verdicts[0].model_id)


@pytest.mark.parametrize(("mode", "ready"), [("every", True), ("latest", False)])
def test_frames_that_wait_to_be_judged_are_made_ready_meanwhile(mode: QueueMode, ready: bool) -> None:
    (station,) = Line(ScriptedSource([frame(0)]), mode=mode).stations
    station.start(on_frame=lambda: None, on_change=lambda: None)
    until(lambda: station.waiting == 1)
    waiting = station.take()
    assert station.release(PATIENCE_S)
    assert isinstance(waiting, Frame)
    assert (waiting.preprocessed is not None) is ready


def test_until_the_first_inference_is_done_the_stations_say_that_they_start() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(inference: int) -> None:
        begun.set()
        assert inference > 1 or go_on.wait(PATIENCE_S)

    line = Line(ScriptedSource([frame(0)], then_wait=True), backbone=FakeBackbone(wait))
    with line.running():
        assert begun.wait(PATIENCE_S)
        line.sink.wait_for(lambda: any(one.message == "warming up" for one in line.sink.statuses))
        assert {(one.state, one.ready) for one in line.sink.statuses} == {(StationState.STARTING, False)}
        go_on.set()
        line.sink.wait_for(lambda: bool(line.sink.verdicts))
    states = [(one.state, one.ready) for one in line.sink.statuses]
    assert (StationState.RUNNING, True) in states
    assert (StationState.RUNNING, False) not in states
    assert states[-1] == (StationState.STOPPING, False)


def test_a_sink_that_does_not_close_does_not_keep_a_second_signal_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """A disk that does not answer, when the line is stopped."""
    closing, go_on = threading.Event(), threading.Event()

    class StuckSink(RecordingSink):
        def close(self) -> None:
            closing.set()
            go_on.wait()

    line = Line(ScriptedSource([frame(0)], then_wait=True), sink=StuckSink())
    with caplog.at_level(logging.WARNING, "edge_uad"), line.running():
        line.sink.wait_for(lambda: bool(line.sink.verdicts))
        line.stop.handle()
        assert closing.wait(PATIENCE_S)
        line.stop.handle()
    go_on.set()
    assert line.daemon.stuck_threads == ["outputs"]
    assert "the outputs do not close in time" in caplog.text


def test_a_fault_of_a_sink_at_the_end_is_not_hushed_up() -> None:
    class BrokenSink(RecordingSink):
        def close(self) -> None:
            raise OSError("the socket is gone")

    with pytest.raises(OSError, match="the socket is gone"):
        Line(ScriptedSource([frame(0)]), sink=BrokenSink()).daemon.run()


def test_an_unreadable_frame_is_invalid_with_its_reason() -> None:
    bad = UnreadableFrame(station="line", frame_id=1, captured_at_ns=1, captured_mono_ns=1, reason="it is torn")
    line = Line(ScriptedSource([frame(0), bad, frame(2)]))
    line.daemon.run()
    assert [one.decision for one in line.sink.verdicts] == [Decision.NORMAL, Decision.INVALID, Decision.NORMAL]
    assert line.sink.verdicts[1].reason == "it is torn"
    assert line.sink.statuses[-1].invalid == 1


def test_a_fault_inside_makes_one_frame_invalid_and_the_line_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def fault(inference: int) -> None:
        if inference == 3:  # the first is the warm-up
            raise ZeroDivisionError("inside")

    line = Line(ScriptedSource([frame(0), frame(1), frame(2)]), backbone=FakeBackbone(fault))
    with caplog.at_level(logging.ERROR, "edge_uad"):
        assert line.daemon.run() == 0
    assert [one.decision for one in line.sink.verdicts] == [Decision.NORMAL, Decision.INVALID, Decision.NORMAL]
    assert line.sink.verdicts[1].reason == "fault inside: ZeroDivisionError: inside"
    assert "Traceback" in caplog.text


def test_a_sink_that_chokes_on_one_verdict_does_not_stop_the_line(caplog: pytest.LogCaptureFixture) -> None:
    class ChokingSink(RecordingSink):
        def publish(self, verdict, frame) -> None:  # type: ignore[no-untyped-def]
            super().publish(verdict, frame)
            if verdict.frame_id == 0:
                raise ZeroDivisionError("while drawing")

    line = Line(ScriptedSource([frame(0), frame(1)]), sink=ChokingSink())
    with caplog.at_level(logging.ERROR, "edge_uad"):
        assert line.daemon.run() == 0
    assert [one.frame_id for one in line.sink.verdicts] == [0, 1]
    assert "could not be published in full" in caplog.text


def test_a_sink_that_is_dead_ends_the_daemon_and_leaves_no_thread() -> None:
    class DeadSink(RecordingSink):
        def publish_status(self, status: StationStatus) -> None:
            super().publish_status(status)
            if len(self.statuses) > 2:
                raise OSError("the socket is gone")

    before = set(threading.enumerate())
    line = Line(EndlessSource(), sink=DeadSink())
    with pytest.raises(OSError, match="the socket is gone"):
        line.daemon.run()
    assert line.sink.closed
    until(lambda: set(threading.enumerate()) <= before)


def test_with_latest_every_frame_is_judged_or_counted() -> None:
    going = threading.Event()
    source = ScriptedSource([frame(number) for number in range(50)])

    def slow(inference: int) -> None:
        if inference > 1:  # the first is the warm-up
            going.wait(PATIENCE_S)

    line = Line(source, mode="latest", backbone=FakeBackbone(slow))
    with line.running():
        until(lambda: source.given == 50)
        going.set()
        line.sink.wait_for(lambda: bool(line.sink.verdicts) and line.sink.verdicts[-1].frame_id == 49)
    ids = [one.frame_id for one in line.sink.verdicts]
    assert ids == sorted(ids)
    assert len(ids) + sum(one.dropped_before for one in line.sink.verdicts) == 50
    assert len(ids) < 50
    last = line.sink.statuses[-1]
    assert (last.frames_seen, last.judged, last.dropped) == (50, len(ids), 50 - len(ids))


def test_with_every_a_slow_inspection_holds_the_source_back_and_loses_nothing() -> None:
    line = Line(ScriptedSource([frame(number) for number in range(40)]), queue_frames=1)
    line.daemon.run()
    assert [one.frame_id for one in line.sink.verdicts] == list(range(40))
    assert line.sink.statuses[-1].dropped == 0


def test_a_camera_missing_at_start_is_waited_for_and_told() -> None:
    missing = SourceLostError("camera 0: /dev/video0 is not there")
    line = Line(ScriptedSource([frame(0)], open_faults=[missing] * 3))
    assert line.daemon.run() == 0
    assert [one.frame_id for one in line.sink.verdicts] == [0]


def test_a_station_without_a_camera_says_so_while_the_others_work() -> None:
    missing = [SourceLostError("camera 0: /dev/video0 is not there")] * 100_000
    line = Line(ScriptedSource([frame(0), frame(1)], then_wait=True), ScriptedSource(open_faults=missing))
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.of("line")) == 2)
        line.sink.wait_for(
            lambda: any(
                status.station == "line2"
                and status.state is StationState.RECONNECTING
                and status.message == "camera 0: /dev/video0 is not there"
                for status in line.sink.statuses
            )
        )


def test_a_flooding_station_does_not_starve_another() -> None:
    flood = (frame(number) for number in range(10**9))
    line = Line(ScriptedSource(flood), ScriptedSource([frame(n, station="line2") for n in range(20)]))
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 20)
        before_last = line.sink.verdicts.index(line.sink.of("line2")[-1])
    assert len([one for one in line.sink.verdicts[:before_last] if one.station == "line2"]) == 19
    assert [one.frame_id for one in line.sink.of("line")] == list(range(len(line.sink.of("line"))))


def test_a_stop_judges_what_the_source_has_given() -> None:
    judging, going = threading.Event(), threading.Event()

    def slow(inference: int) -> None:
        if inference > 1:
            judging.set()
            going.wait(PATIENCE_S)

    source = ScriptedSource([frame(number) for number in range(5)], then_wait=True)
    line = Line(source, backbone=FakeBackbone(slow))
    with line.running():
        assert judging.wait(PATIENCE_S)
        until(lambda: source.given == 5)
        line.stop.handle()
        going.set()
    assert [one.frame_id for one in line.sink.verdicts] == [0, 1, 2, 3, 4]
    assert line.sink.statuses[-1].state is StationState.STOPPING
    assert line.sink.closed
    assert line.daemon.stuck_threads == []


def test_a_second_signal_leaves_the_queue_and_counts_it() -> None:
    judging, going = threading.Event(), threading.Event()

    def slow(inference: int) -> None:
        if inference > 1:
            judging.set()
            going.wait(PATIENCE_S)

    source = ScriptedSource([frame(number) for number in range(5)], then_wait=True)
    line = Line(source, backbone=FakeBackbone(slow))
    with line.running():
        assert judging.wait(PATIENCE_S)
        until(lambda: source.given == 5)
        line.stop.handle()
        line.stop.handle()
        going.set()
    assert [one.frame_id for one in line.sink.verdicts] == [0]
    last = line.sink.statuses[-1]
    assert (last.frames_seen, last.judged, last.dropped) == (5, 1, 4)
    assert line.daemon.stuck_threads == []


def test_a_read_that_never_returns_does_not_hold_up_the_stop(caplog: pytest.LogCaptureFixture) -> None:
    source = BlockedSource([frame(0)])
    line = Line(source, stop_timeout_s=0.05)
    with caplog.at_level(logging.WARNING, "edge_uad"), line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
        assert source.blocked.wait(PATIENCE_S)
    assert line.daemon.stuck_threads == ["line"]
    assert "line: the source does not return its thread; it is left behind" in caplog.text
    source.let_go.set()


def test_a_blocked_station_leaves_the_others_untouched() -> None:
    blocked = BlockedSource()
    line = Line(blocked, ScriptedSource([frame(n, station="line2") for n in range(5)]), stop_timeout_s=0.05)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 5)
    blocked.let_go.set()


def test_a_stop_before_the_start_judges_nothing_and_ends_well() -> None:
    backbone = FakeBackbone()
    line = Line(ScriptedSource([], then_wait=True), backbone=backbone)
    line.stop.handle()
    assert line.daemon.run() == 0
    assert backbone.inferences == 0
    assert line.sink.closed


def test_what_no_retry_mends_is_raised_after_everything_is_let_go() -> None:
    line = Line(ScriptedSource(open_faults=[EndpointError("tcp://127.0.0.1:5560 is in use")]))
    with pytest.raises(EndpointError, match="in use"):
        line.daemon.run()
    assert line.sink.closed


class Manager:
    """A service manager's socket, and everything it has received."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)
        self._address = str(folder / "notify")
        self._heard: list[str] = []

    def notifier(self, *, watchdog_us: int) -> Notifier:
        return Notifier({"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": str(watchdog_us)})

    @property
    def heard(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard.append(self._socket.recv(4096).decode())
        return self._heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path)) as manager:
        yield manager


def test_the_service_manager_hears_of_it_in_order(manager: Manager) -> None:
    backbone = FakeBackbone()
    line = Line(
        ScriptedSource([frame(0), frame(1, GREEN)], then_wait=True),
        notifier=manager.notifier(watchdog_us=3_600_000_000),
        backbone=backbone,
    )
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
        until(lambda: "WATCHDOG=1" in manager.heard)
    states = [message for message in manager.heard if not message.startswith("STATUS")]
    assert manager.heard[0] == "STATUS=warming up"
    assert states == ["READY=1", "WATCHDOG=1", "STOPPING=1"]
    assert "STATUS=line running" in manager.heard
    assert backbone.inferences == 3  # the warm-up and two frames


@pytest.mark.parametrize("deadline_ms", [None, 1.0])
@pytest.mark.parametrize("parallel_frames", [1, 3])
def test_a_hung_inference_starves_the_watchdog(
    manager: Manager, deadline_ms: float | None, parallel_frames: int
) -> None:
    """Even where deadlines go on giving verdicts, and other workers go on judging frames of other stations."""
    warm_ups = 2 * (1 + (parallel_frames if parallel_frames > 1 else 0))
    hung, going = threading.Event(), threading.Event()

    def hang(inference: int) -> None:
        if inference == warm_ups + 1:
            hung.set()
            going.wait(PATIENCE_S)

    line = Line(
        EndlessSource(),
        EndlessSource(station="line2"),
        backbone=FakeBackbone(hang),
        notifier=manager.notifier(watchdog_us=1),
        deadline_ms=deadline_ms,
        parallel_frames=parallel_frames,
    )
    with line.running():
        assert hung.wait(PATIENCE_S)
        until(lambda: line.daemon._oldest_running is not None)  # the main thread has seen it
        fed, heartbeats, verdicts = manager.heard.count("WATCHDOG=1"), len(line.sink.statuses), len(line.sink.verdicts)
        line.sink.wait_for(lambda: len(line.sink.statuses) > heartbeats + 1)  # one per station and second
        if deadline_ms is not None or parallel_frames > 1:
            line.sink.wait_for(lambda: len(line.sink.verdicts) > verdicts + 2)
        assert manager.heard.count("WATCHDOG=1") == fed
        going.set()
        until(lambda: manager.heard.count("WATCHDOG=1") > fed)
