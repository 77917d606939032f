"""A station: its source with the capture thread, its queue, its inspector, and its counters."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge_uad.errors import EdgeUadError
from edge_uad.inference.bank import short_id
from edge_uad.inference.inspector import Inspector
from edge_uad.inference.overlay import LONGEST_SIDE_PX
from edge_uad.interfaces import FrameSource, RemoteClockSource, TriggerReceivingSource
from edge_uad.records import (
    AnyFrame,
    Decision,
    Frame,
    QueueMode,
    StationState,
    StationStatus,
    Trigger,
    TriggerFailure,
    TriggerMode,
    UInt8,
    Verdict,
)
from edge_uad.runtime.reload import NewBank
from edge_uad.sources.capture import REPLACE_AFTER_S, Backoff, Capture
from edge_uad.sources.queues import BoundedFrameQueue, FrameQueue, LatestFrameQueue
from edge_uad.sources.triggers.pairing import HardwarePairing, Pairing, SoftwarePairing
from edge_uad.sources.triggers.queue import TriggeredFrameQueue

log = logging.getLogger("edge_uad.runtime.station")


class Station:
    """A place on the line.

    Args:
        name: of its topics.
        source: not open yet; used by the capture thread alone.
        inspector: judges its frames until another bank is loaded.
        mode: ``latest``: the newest frame wins; ``every``: none is lost, the source waits.
        queue_frames: capacity of the queue in mode ``every``; of a triggered station, triggers that may wait.
        backoff: waits between attempts at a lost source.
        deadline_ms: from trigger or, in free run, from capture to verdict at most; None: a frame is judged however long
            it takes.
        replace_after_s: a call into a camera or stream that takes longer is left behind and the source opened anew.
        bank: the inspector's file, where it may be replaced while the line runs.
        frozen_after_s: frames are invalid once the picture has been the same for so long; None: not checked.
        trigger_mode: whether each frame is judged, or one for each trigger; the latter needs mode ``every`` and a
            deadline.
        trigger_delay_ms: by how much the source's times of capture lag behind the exposure; see ``SoftwarePairing``.
        on_demand: the source gives a picture when it is read, as folders do: it is read once for each trigger.

    Raises:
        ValueError: it is triggered, and has mode ``latest`` or no deadline.
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
        trigger_mode: TriggerMode = "free_run",
        trigger_delay_ms: float = 0.0,
        on_demand: bool = False,
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
        self.on_acquired: Callable[[int], None] = _nothing_acquired
        """Called with a trigger's id when its frame is there, from the capture thread: it must not block."""
        self._triggers: TriggeredFrameQueue | None = None
        """The queue, where the station is triggered."""
        if trigger_mode != "free_run":
            if self._deadline_ns is None or mode != "every":
                raise ValueError(f"{name}: a triggered station has a deadline and judges every frame that is triggered")
            pairing: Pairing = HardwarePairing(settle_ns=self._deadline_ns)
            if trigger_mode == "software":
                pairing = SoftwarePairing(delay_ns=0 if on_demand else round(trigger_delay_ms * 1e6))
            self._triggers = TriggeredFrameQueue(
                name, self._frame_came, pairing, capacity=queue_frames, on_acquired=self._frame_acquired
            )
        self._queue: FrameQueue = self._triggers or (
            LatestFrameQueue(self._frame_came)
            if mode == "latest"
            else BoundedFrameQueue(self._frame_came, capacity=queue_frames)
        )
        if isinstance(source, TriggerReceivingSource):
            source.trigger_target = self._triggers  # what was sent before a stop is still answered, with its frame
        self._capture = Capture(
            station=name,
            source=source,
            queue=self._queue,
            prepare=self._preparation(on_demand),
            backoff=backoff or Backoff(),
            on_change=self._state_changed,
            replace_after_s=replace_after_s,
            frozen_after_s=frozen_after_s,
            wait_for_demand=self._triggers.wait_for_trigger if on_demand and self._triggers is not None else None,
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

    def _preparation(self, on_demand: bool) -> Callable[[AnyFrame], AnyFrame] | None:
        """What the capture thread does with each frame before it is queued."""
        if self.is_triggered:
            return _handed_out_now if on_demand else None
        # with latest, as with triggers, most of the frames preprocessed would never reach a worker
        return self._preprocessed if self.mode == "every" else None

    def _frame_acquired(self, trigger_id: int) -> None:
        self.on_acquired(trigger_id)

    def _state_changed(self) -> None:
        if self._triggers is not None:
            self._tell_triggers(self._triggers)
        self._on_change()

    def _tell_triggers(self, triggers: TriggeredFrameQueue) -> None:
        """What has become of the source, for the triggers that wait for its frames."""
        if self._capture.finished:
            if self._capture.stopping:
                triggers.end(TriggerFailure.STOPPING)
            else:
                triggers.end(TriggerFailure.NO_IMAGE if self.fault is None else TriggerFailure.CAMERA_GONE)
        elif self._capture.state[0] is StationState.RECONNECTING:
            triggers.lose_source()
        else:
            triggers.regain_source()

    # triggers; any thread may call these

    @property
    def is_triggered(self) -> bool:
        """Whether a frame is judged for each trigger, and none without."""
        return self._triggers is not None

    def trigger(self, trigger: Trigger, *, again: bool = False) -> bool:
        """Have one part judged: exactly one verdict with this ``trigger_id`` is published by the deadline.

        It is *invalid* with a ``TriggerFailure`` as its reason where no frame could be judged. A repeated id, of a
        trigger that waits or of the newest one, is not judged again: its one verdict stands, and may be out already.

        Args:
            trigger: to be judged.
            again: the newest one's id is judged anew, by a caller with a rule of its own for what is a repetition.

        Returns:
            False where the station is not triggered, has no room, or stops; there is no verdict then.
        """
        return (
            self._triggers is not None and not self._capture.stopping and self._triggers.trigger(trigger, again=again)
        )

    @property
    def trigger_ready(self) -> bool:
        """Whether a trigger would be accepted now, by a source that gives frames."""
        if self._triggers is None or self._capture.stopping or self.state[0] is not StationState.RUNNING:
            return False
        return self._triggers.has_room(time.monotonic_ns())

    def resynchronise(self) -> None:
        """Answer triggers that wait for their frames, *invalid*, and count frames and triggers anew from here.

        In mode hardware triggers fail for ``deadline_ms`` after it where frames may still be under way.
        """
        if self._triggers is not None:
            self._triggers.resynchronise()

    def refuse_trigger(self, trigger: Trigger, reason: str) -> bool:
        """Publish an *invalid* verdict for a trigger that was not accepted, for a sender that hears verdicts alone.

        Returns:
            False where there is no room for it: too many of them wait.
        """
        return self._triggers is not None and self._triggers.refuse_trigger(trigger, reason)

    def end_triggers(self) -> None:
        """Answer every trigger that waits for its frame; none is accepted any more."""
        if self._triggers is not None:
            self._triggers.end(TriggerFailure.STOPPING)

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
        if not self._capture.finished:  # asked first: the last frame comes before it
            return False
        return (self._queue.stats().waiting if self._triggers is None else self._triggers.outstanding) == 0

    @property
    def state(self) -> tuple[StationState, str | None]:
        """State, and a message for the operator where there is one."""
        state, message = self._capture.state
        if self._triggers is not None and message is None and state is StationState.RUNNING:
            message = self._triggers.remark(time.monotonic_ns())
        return state, message

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
        """Read no further frame and accept no trigger; those in the queue are still judged."""
        self._capture.request_stop()

    def release(self, timeout_s: float) -> bool:
        """Drop what is left in the queue and wait for the capture thread; False where it is stuck in its source."""
        self._capture.request_stop()
        self._queue.close()
        return self._capture.join(timeout_s)


def _nothing() -> None:
    """Before ``start`` nobody is notified."""


def _nothing_acquired(trigger_id: int) -> None:
    """Nobody waits for the end of the exposure."""


def _handed_out_now(frame: AnyFrame) -> AnyFrame:
    """A recording's picture counts from the moment at which it answers its trigger; a film's may be decoded before."""
    return replace(frame, captured_at_ns=time.time_ns(), captured_mono_ns=time.monotonic_ns())
