"""A source that goes away is opened again, ever more patiently; whatever it does, the thread says how it stands."""

import itertools
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.errors import EndpointError, SourceLostError
from edge_uad.interfaces import FrameSource
from edge_uad.records import AnyFrame, Frame, StationState, UInt8, UnreadableFrame
from edge_uad.sources.capture import Backoff, Capture
from edge_uad.sources.queues import BoundedFrameQueue
from tests.fakes import GREEN, RED, BlockedSource, ScriptedSource, StuckCamera, frame, picture, until

QUICK = Backoff(first_s=0.001, max_s=0.002)
PATIENCE_S = 20


class Watched:
    """A capture whose changes of state can be waited for."""

    def __init__(self, source: FrameSource, backoff: Backoff = QUICK) -> None:
        self._changed = threading.Condition()
        self.states: list[tuple[StationState, str | None]] = []
        self.queue = BoundedFrameQueue(lambda: None, capacity=100)
        self.capture = Capture(
            station="line", source=source, queue=self.queue, backoff=backoff, on_change=self._on_change
        )

    def _on_change(self) -> None:
        with self._changed:
            self.states.append(self.capture.state)
            self._changed.notify_all()

    def wait_for(self, state: StationState) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: state in [one for one, _ in self.states], PATIENCE_S)

    def to_the_end(self) -> None:
        self.capture.start()
        assert self.capture.join(PATIENCE_S)

    def frame_ids(self) -> list[int]:
        return [taken.frame_id for taken in iter(self.queue.take, None)]


def test_frames_come_in_order_until_the_source_ends() -> None:
    source = ScriptedSource([frame(0), None, frame(1), frame(2)])
    watched = Watched(source)
    watched.to_the_end()
    assert watched.frame_ids() == [0, 1, 2]
    assert watched.capture.state == (StationState.ENDED, "the script is over")
    assert watched.capture.finished
    assert (source.opened, source.closed) == (1, 1)


def test_one_thread_alone_uses_the_source() -> None:
    source = ScriptedSource([frame(0), SourceLostError("gone"), frame(1)])
    Watched(source).to_the_end()
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_a_camera_missing_at_start_is_tried_again() -> None:
    missing = SourceLostError("camera 0: /dev/video0 is not there")
    source = ScriptedSource([frame(0)], open_faults=[missing, missing, missing])
    watched = Watched(source)
    watched.to_the_end()
    assert watched.frame_ids() == [0]
    assert source.opened == 4
    assert watched.capture.reconnects == 3
    assert [state for state, _ in watched.states[:4]] == [StationState.RECONNECTING] * 3 + [StationState.RUNNING]
    assert watched.states[0][1] == "camera 0: /dev/video0 is not there"


def test_a_lost_source_is_closed_and_opened_again() -> None:
    source = ScriptedSource([frame(0), SourceLostError("unplugged"), frame(1)])
    watched = Watched(source)
    watched.to_the_end()
    assert watched.frame_ids() == [0, 1]
    assert (source.opened, source.closed) == (2, 2)


def test_a_fault_in_a_driver_is_a_lost_source(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(ScriptedSource([ZeroDivisionError("in the driver"), frame(0)]))
    with caplog.at_level(logging.ERROR, "edge_uad"):
        watched.to_the_end()
    assert watched.frame_ids() == [0]
    assert (StationState.RECONNECTING, "fault inside the source: ZeroDivisionError: in the driver") in watched.states
    assert "ZeroDivisionError" in caplog.text


def test_what_no_retry_mends_ends_the_capture() -> None:
    fault = EndpointError("tcp://127.0.0.1:5560 is in use")
    watched = Watched(ScriptedSource(open_faults=[fault]))
    watched.to_the_end()
    assert watched.capture.fault is fault
    assert watched.capture.finished


@pytest.mark.parametrize("backoff", [QUICK, Backoff(first_s=3600, max_s=3600)], ids=["short waits", "an hour's wait"])
def test_a_stop_interrupts_a_wait(backoff: Backoff) -> None:
    lost = itertools.repeat(SourceLostError("gone"))
    watched = Watched(ScriptedSource(lost, then_wait=True), backoff)
    watched.capture.start()
    watched.wait_for(StationState.RECONNECTING)
    watched.capture.request_stop()
    assert watched.capture.join(PATIENCE_S)


def test_a_read_that_takes_too_long_is_told_until_it_comes_back() -> None:
    source = BlockedSource([frame(0)])
    capture = Capture(
        station="line",
        source=source,
        queue=BoundedFrameQueue(lambda: None, capacity=9),
        backoff=QUICK,
        on_change=lambda: None,
        silent_after_s=0.02,
    )
    capture.start()
    silent = (StationState.RECONNECTING, "the source has not answered for more than 0.02 s")
    until(lambda: capture.state == silent)
    source.let_go.set()
    until(lambda: capture.state == (StationState.RECONNECTING, "it came back after all"))
    capture.request_stop()
    assert capture.join(PATIENCE_S)


def test_a_read_that_never_returns_is_told_by_join() -> None:
    source = BlockedSource([frame(0)])
    watched = Watched(source)
    watched.capture.start()
    assert source.blocked.wait(PATIENCE_S)
    watched.capture.request_stop()
    assert not watched.capture.join(0.05)
    assert not watched.capture.finished
    source.let_go.set()
    assert watched.capture.join(PATIENCE_S)


def capture_of(source: FrameSource, **changed: float) -> tuple[Capture, BoundedFrameQueue]:
    queue = BoundedFrameQueue(lambda: None, capacity=1000)
    capture = Capture(station="line", source=source, queue=queue, backoff=QUICK, on_change=lambda: None, **changed)  # type: ignore[arg-type]
    capture.start()
    return capture, queue


def test_a_read_that_never_returns_is_given_up_and_the_camera_opened_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Frames go on in their count; what comes back too late is dropped, counted, and its thread ends."""
    camera = StuckCamera([3, 2])
    capture, queue = capture_of(camera, replace_after_s=0.4)  # more than a busy machine pauses a thread
    ids: list[int] = []

    def healed() -> bool:
        capture.replace_hung_reader()
        ids.extend(taken.frame_id for taken in iter(queue.take, None))
        return len(ids) >= 20

    until(healed)
    assert ids == list(range(len(ids)))
    assert capture.state == (StationState.RUNNING, None)
    assert (capture.hung, capture.reconnects) == (2, 2)
    assert "its thread is detached, the source opened anew (2 of 3)" in caplog.text
    dropped = queue.stats().dropped
    assert dropped == 0
    camera.let_go.set()
    until(lambda: capture.hung == 0)

    def reported() -> bool:
        while queue.take() is not None:  # a full queue would keep the reader from reporting
            pass
        return queue.stats().dropped == 2

    until(reported)
    capture.request_stop()
    assert capture.join(PATIENCE_S)
    assert min(camera.closed, camera.replacements[0].closed) >= 1


def test_a_camera_that_always_hangs_leaves_a_bounded_number_of_threads() -> None:
    before = threading.active_count()
    camera = StuckCamera([0] * 20)
    capture, _ = capture_of(camera, replace_after_s=0.02, max_hung=3)

    def full() -> bool:
        capture.replace_hung_reader()
        return capture.hung == 3

    until(full)
    until(lambda: "has not answered for more than" in str(capture.state[1]))
    for _ in range(50):
        capture.replace_hung_reader()
    assert threading.active_count() == before + 4
    assert capture.state[0] is StationState.RECONNECTING
    capture.request_stop()
    assert not capture.join(0.01)
    camera.let_go.set()
    assert capture.join(PATIENCE_S)
    assert threading.active_count() == before


def numbered_frames(images: list[UInt8], rate_hz: float) -> list[AnyFrame]:
    steps_ns = [round(number / rate_hz * 1e9) for number in range(len(images))]
    return [
        Frame(station="line", frame_id=number, captured_at_ns=at_ns, captured_mono_ns=at_ns, image=image)
        for number, (at_ns, image) in enumerate(zip(steps_ns, images, strict=True))
    ]


def test_a_frozen_picture_is_a_message_and_its_frames_are_unreadable(caplog: pytest.LogCaptureFixture) -> None:
    still, other = picture(GREEN), picture(RED)
    messages: list[str | None] = []
    queue = BoundedFrameQueue(lambda: None, capacity=100)
    capture = Capture(
        station="line",
        source=ScriptedSource(numbered_frames([still] * 30 + [other], 10)),
        queue=queue,
        backoff=QUICK,
        on_change=lambda: messages.append(capture.state[1]),
        frozen_after_s=2,
    )
    capture.start()
    assert capture.join(PATIENCE_S)
    frames = list(iter(queue.take, None))
    assert [isinstance(one, UnreadableFrame) for one in frames] == [False] * 20 + [True] * 10 + [False]
    assert messages == [None, "the picture has not changed for 2 s", None, "the script is over", "the script is over"]
    assert "line: the picture changes again" in caplog.text


def test_a_changed_size_is_logged_once_for_each_change(caplog: pytest.LogCaptureFixture) -> None:
    small, large = picture(hw=(24, 32)), picture(hw=(48, 64))
    capture, queue = capture_of(ScriptedSource(numbered_frames([small, small, large, large, small], 10)))
    assert capture.join(PATIENCE_S)
    assert [one.image.shape[:2] for one in iter(queue.take, None) if isinstance(one, Frame)] == [
        (24, 32),
        (24, 32),
        (48, 64),
        (48, 64),
        (24, 32),
    ]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "line: the picture changes its size from 32×24 to 64×48 pixels",
        "line: the picture changes its size from 64×48 to 32×24 pixels",
    ]


def test_a_source_that_cannot_be_replaced_is_only_told_of() -> None:
    source = BlockedSource()
    capture, _ = capture_of(source, replace_after_s=0.02)
    assert source.blocked.wait(PATIENCE_S)
    until(lambda: capture.state[0] is StationState.RECONNECTING)
    capture.replace_hung_reader()
    assert capture.hung == 0
    source.let_go.set()
    capture.request_stop()
    assert capture.join(PATIENCE_S)


def test_a_stop_takes_what_the_source_has_taken_from_its_senders() -> None:
    class Mailbox(ScriptedSource):
        """Senders fill it; it gives nothing before it is shut."""

        shut_at = -1

        def shut(self) -> None:
            self.shut_at = self.given

        def read(self, timeout_s: float) -> AnyFrame | None:
            return super().read(timeout_s) if self.shut_at >= 0 else None

    mailbox = Mailbox([frame(0), frame(1), None, frame(2)])
    capture, queue = capture_of(mailbox)
    until(lambda: capture.state[0] is StationState.RUNNING)
    capture.request_stop()
    assert capture.join(PATIENCE_S)
    assert mailbox.shut_at == 0
    assert [taken.frame_id for taken in iter(queue.take, None)] == [0, 1, 2]
    assert capture.state[0] is StationState.RUNNING  # the daemon says that it stops


@given(first_s=st.floats(0.001, 10), ratio=st.floats(1, 1000), jitter=st.floats(0, 1), dice=st.lists(st.floats(0, 1)))
def test_waits_double_up_to_the_cap_and_jitter_only_shortens(
    first_s: float, ratio: float, jitter: float, dice: list[float]
) -> None:
    backoff = Backoff(first_s=first_s, max_s=first_s * ratio, jitter_ratio=jitter)
    thrown = itertools.chain(dice, itertools.repeat(0.5))
    delays_s = list(itertools.islice(backoff.delays_s(lambda: next(thrown)), 12))
    for attempt, delay_s in enumerate(delays_s):
        full_s = min(first_s * 2**attempt, first_s * ratio)
        assert full_s * (1 - jitter) * 0.999 <= delay_s <= full_s * 1.001


def test_a_frame_makes_the_waits_short_again() -> None:
    """Were it not so, the second loss would wait for an hour."""
    source = ScriptedSource([frame(0), SourceLostError("one"), frame(1), SourceLostError("two"), frame(2)])
    watched = Watched(source, Backoff(first_s=0.001, max_s=3600, jitter_ratio=0))
    watched.to_the_end()
    assert watched.frame_ids() == [0, 1, 2]
