"""A station: its source with the capture thread, its queue, its inspector, and its counters."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edge_uad.errors import EdgeUadError
from edge_uad.inference.bank import short_id
from edge_uad.inference.inspector import Inspector
from edge_uad.inference.overlay import LONGEST_SIDE_PX
from edge_uad.interfaces import FrameSource, RemoteClockSource
from edge_uad.records import AnyFrame, Decision, Frame, QueueMode, StationState, StationStatus, UInt8, Verdict
from edge_uad.runtime.reload import NewBank
from edge_uad.sources.capture import REPLACE_AFTER_S, Backoff, Capture
from edge_uad.sources.queues import BoundedFrameQueue, FrameQueue, LatestFrameQueue

log = logging.getLogger("edge_uad.runtime.station")


class Station:
    """A place on the line.

    Args:
        name: of its topics.
        source: not open yet; used by the capture thread alone.
        inspector: judges its frames until another bank is loaded.
        mode: ``latest``: the newest frame wins; ``every``: none is lost, the source waits.
        queue_frames: capacity of the queue in mode ``every``.
        backoff: waits between attempts at a lost source.
        deadline_ms: from capture to verdict at most; None: a frame is judged however long it takes.
        replace_after_s: a call into a camera or stream that takes longer is left behind and the source opened anew.
        bank: the inspector's file, where it may be replaced while the line runs.
        frozen_after_s: frames are invalid once the picture has been the same for so long; None: not checked.
    """

    def __init__(
        self,
        *,
        name: str,
        source: FrameSource,
        inspector: Inspector,
        mode: QueueMode,
        queue_frames: int = 8,
        backoff: Backoff | None = None,
        deadline_ms: float | None = None,
        bank: Path | None = None,
        replace_after_s: float = REPLACE_AFTER_S,
        frozen_after_s: float | None = None,
    ) -> None:
        self.name = name
        self.inspector = inspector
        self.bank = bank
        self.refused_bank: str | None = None
        """Why the newest bank file is not judged by."""
        self.mode = mode
        self._source = source
        self._deadline_ns = None if deadline_ms is None else round(deadline_ms * 1e6)
        self.decisions: Counter[Decision] = Counter()
        self._on_frame = self._on_change = _nothing
        self._queue: FrameQueue = (
            LatestFrameQueue(self._frame_came)
            if mode == "latest"
            else BoundedFrameQueue(self._frame_came, capacity=queue_frames)
        )
        self._capture = Capture(
            station=name,
            source=source,
            queue=self._queue,
            # with latest, most of the frames preprocessed would be replaced before a worker takes them
            prepare=self._preprocessed if mode == "every" else None,
            backoff=backoff or Backoff(),
            on_change=self._state_changed,
            replace_after_s=replace_after_s,
            frozen_after_s=frozen_after_s,
        )

    def start(self, *, on_frame: Callable[[], None], on_change: Callable[[], None]) -> None:
        """Begin to capture.

        Args:
            on_frame: called from the capture thread when a frame is in the queue.
            on_change: called from the capture thread when the state changes.
        """
        self._on_frame, self._on_change = on_frame, on_change
        self._capture.start()

    def _frame_came(self) -> None:
        self._on_frame()

    def _state_changed(self) -> None:
        self._on_change()

    def take(self) -> AnyFrame | None:
        """The next frame to judge, or None. Never blocks."""
        return self._queue.take()

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        return self._queue.stats().waiting

    def take_late(self, now_mono_ns: int) -> AnyFrame | None:
        """The next frame if its deadline has passed, else None. Never blocks."""
        return None if self._deadline_ns is None else self._queue.take_older(now_mono_ns - self._deadline_ns)

    def deadline_of(self, captured_mono_ns: int) -> int | None:
        """Deadline of a frame's verdict on the monotonic clock, in ns; None where there is none."""
        return None if self._deadline_ns is None else captured_mono_ns + self._deadline_ns

    @property
    def next_deadline_mono_ns(self) -> int | None:
        """Deadline of the next frame in the queue; None where there is no frame, or no deadline."""
        if self._deadline_ns is None:
            return None
        captured_mono_ns = self._queue.stats().next_frame_mono_ns
        return None if captured_mono_ns is None else self.deadline_of(captured_mono_ns)

    def change_bank(self, new: NewBank) -> None:
        """Judge by another bank from the next frame taken; a refused one changes ``refused_bank`` alone."""
        self.refused_bank = new.refused
        if new.inspector is None:
            log.warning(
                "%s: a new bank is refused, bank %s goes on: %s",
                self.name,
                short_id(self.inspector.bank_id),
                new.refused,
            )
            return
        log.info(
            "%s: bank %s follows bank %s", self.name, short_id(new.inspector.bank_id), short_id(self.inspector.bank_id)
        )
        self.inspector = new.inspector

    def _preprocessed(self, frame: AnyFrame) -> AnyFrame:
        """The frame, resized and normalised for the present bank by the capture thread."""
        return self.inspector.preprocessed(frame)

    def overlay(self) -> Callable[[Frame, Verdict], UInt8]:
        """A function that draws heat over a frame with the present bank's geometry, whatever bank is loaded later."""
        return partial(self.inspector.overlay, longest_side_px=LONGEST_SIDE_PX)

    def count(self, verdict: Verdict) -> int:
        """Count a verdict that is about to be published.

        Returns:
            Its number: 1 for the first of this run.
        """
        self.decisions[verdict.decision] += 1
        return self.decisions.total()

    @property
    def fault(self) -> EdgeUadError | None:
        """An error that no retry mends, such as an endpoint in use; None where there is none."""
        return self._capture.fault

    @property
    def ended(self) -> bool:
        """The source gives no more frames and the queue is empty."""
        return self._capture.finished and self._queue.stats().waiting == 0  # in this order: the last frame comes first

    @property
    def state(self) -> tuple[StationState, str | None]:
        """State, and a message for the operator where there is one."""
        return self._capture.state

    def status(self, *, ready: bool = True, stopping: bool = False) -> StationStatus:
        """The heartbeat to publish now.

        Args:
            ready: frames are judged.
            stopping: no more are taken.
        """
        state, message = self.state
        if not ready and state is StationState.RUNNING:
            state, message = StationState.STARTING, "warming up"
        if stopping and state is not StationState.ENDED:
            state = StationState.STOPPING
        counts = self._queue.stats()
        age_s = None
        if counts.last_frame_mono_ns is not None:
            age_s = max(time.monotonic_ns() - counts.last_frame_mono_ns, 0) / 1e9
        return StationStatus(
            station=self.name,
            at_ns=time.time_ns(),
            state=state,
            message=message,
            frames_seen=counts.taken + counts.dropped,
            judged=self.decisions.total(),
            dropped=counts.dropped,
            invalid=self.decisions[Decision.INVALID],
            last_frame_age_s=age_s,
            bank_id=self.inspector.bank_id,
            precision=self.inspector.precision,
            model_id=self.inspector.model_id,
            reconnects=self._capture.reconnects,
            hung_reads=self._capture.hung,
            refused_bank=self.refused_bank,
            sender_clock_offset_s=(
                self._source.sender_clock_offset_s if isinstance(self._source, RemoteClockSource) else None
            ),
            ready=ready and not stopping,
        )

    def replace_hung_reader(self) -> None:
        """Replace a source whose call does not come back. Never blocks."""
        self._capture.replace_hung_reader()

    def request_stop(self) -> None:
        """Read no further frame; those in the queue are still judged."""
        self._capture.request_stop()

    def release(self, timeout_s: float) -> bool:
        """Drop what is left in the queue and wait for the capture thread; False where it is stuck in its source."""
        self._capture.request_stop()
        self._queue.close()
        return self._capture.join(timeout_s)


def _nothing() -> None:
    """Before ``start`` nobody is notified."""
