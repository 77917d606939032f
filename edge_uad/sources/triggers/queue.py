"""A triggered station's queue: triggers and frames go in, frames with their trigger come out, one for each trigger.

``put`` waits for nothing but room for messages that are no frames: a camera goes on whether it is triggered or not.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from edge_uad.records import NO_FRAME_ID, AnyFrame, Trigger, TriggerFailure, UnreadableFrame
from edge_uad.sources.queues import QueueStats
from edge_uad.sources.triggers.pairing import Answer, Pairing

_ANSWERS_RATIO = 2
"""How many answers may wait, as a multiple of the triggers that are accepted: the rest is for refused messages."""


class TriggeredFrameQueue:
    """Holds triggers that wait for their frames, and frames that wait for inspection.

    A trigger without a frame comes out as an ``UnreadableFrame`` with a ``TriggerFailure`` as its reason. In the
    statistics, taken are the answers given to inspection, dropped the frames that no trigger used.

    Args:
        station: of the frames made here.
        wake: called after each change, to wake a worker and the publisher.
        pairing: decides which frame belongs to which trigger.
        capacity: triggers that are not taken for inspection yet; one more is refused.
        on_acquired: called with a trigger's id when its frame is there: the part may move.
    """

    def __init__(
        self,
        station: str,
        wake: Callable[[], None],
        pairing: Pairing,
        *,
        capacity: int,
        on_acquired: Callable[[int], None],
    ) -> None:
        if capacity < 1:
            raise ValueError(f"a queue of {capacity} triggers holds none")
        self._station = station
        self._wake = wake
        self._pairing = pairing
        self._capacity = capacity
        self._on_acquired = on_acquired
        self._changed = threading.Condition()
        self._ready: deque[AnyFrame] = deque()
        self._last_trigger_id: int | None = None
        self._lost = False
        self._ended = False
        self._taken = 0
        self._dropped = 0
        self._skipped = 0
        """Frames dropped since the one that a trigger had."""
        self._last_mono_ns: int | None = None

    # triggers

    def trigger(self, trigger: Trigger, *, again: bool = False) -> bool:
        """Accept a trigger; any thread may call it.

        A repeated id, of a trigger that waits or of the newest one, is accepted and not judged again: the one verdict
        stands for both.

        Args:
            trigger: to be judged.
            again: the newest one's id is judged anew once it has its verdict, by a caller with a rule of its own for
                what is a repetition.

        Returns:
            Whether it has or will have its verdict; False where there is no room, or no frame will come.
        """
        with self._changed:
            if self._ended:
                return False
            if self._waits(trigger.trigger_id) or (not again and trigger.trigger_id == self._last_trigger_id):
                return True
            if self._n_waiting() >= self._capacity:
                return False
            self._last_trigger_id = trigger.trigger_id
            if self._lost:
                self._answer([Answer(trigger, failure=TriggerFailure.CAMERA_GONE)])
            else:
                self._answer(self._pairing.add_trigger(trigger))
            self._changed.notify_all()
        self._wake()
        return True

    def has_room(self, now_mono_ns: int) -> bool:
        """Whether a trigger at that moment would be accepted and could be given a frame."""
        with self._changed:
            return (
                not (self._ended or self._lost or self._pairing.in_doubt(now_mono_ns))
                and self._n_waiting() < self._capacity
            )

    def wait_for_trigger(self, timeout_s: float) -> bool:
        """Whether a trigger waits for a frame, waiting for one: for a source that gives a picture when it is asked."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended or bool(self._pairing.pending), timeout_s)

    def resynchronise(self) -> None:
        """Answer the triggers that wait for frames, *invalid*, and count frames and triggers anew."""
        with self._changed:
            answers = self._fail(TriggerFailure.ABORTED)
        self._wake_for(answers)

    def refuse_trigger(self, trigger: Trigger, reason: str) -> bool:
        """Queue an *invalid* answer to a trigger that was not accepted; False where there is no room. Never blocks."""
        return self.put_answer(no_frame_for(trigger, station=self._station, reason=reason))

    def lose_source(self) -> None:
        """The source is lost: triggers are answered at once, until ``regain_source``."""
        with self._changed:
            self._lost = True
            answers = self._fail(TriggerFailure.CAMERA_GONE)
        self._wake_for(answers)

    def regain_source(self) -> None:
        """The source is there again."""
        with self._changed:
            self._lost = False

    def end(self, reason: TriggerFailure) -> None:
        """No more frames will come: triggers that wait are answered, and none is accepted."""
        with self._changed:
            self._ended = True
            answers = self._fail(reason)
            self._changed.notify_all()
        self._wake_for(answers)

    def remark(self, now_mono_ns: int) -> str | None:
        """What the operator should know about frames and triggers; None where all is well."""
        with self._changed:
            return self._pairing.remark(now_mono_ns)

    # frames

    def put(self, frame: AnyFrame) -> bool:
        """Give a frame to the trigger that it belongs to, or drop and count it; returns False where it was dropped.

        What stands for a message that was no frame is answered by itself, after waiting for room.
        """
        if isinstance(frame, UnreadableFrame) and frame.frame_id == NO_FRAME_ID:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._has_room_for_answer())
            return self.put_answer(frame)
        with self._changed:
            self._last_mono_ns = frame.captured_mono_ns
            self._dropped += frame.dropped_before
            self._skipped += frame.dropped_before
            answers = [] if self._ended else self._pairing.add_frame(frame)
            used = [one.trigger.trigger_id for one in answers if one.frame is not None]
            if not used:
                self._dropped += 1
                self._skipped += 1
            self._answer(answers)
        for trigger_id in used:
            self._on_acquired(trigger_id)
        self._wake_for(answers)
        return bool(used)

    def put_answer(self, answer: UnreadableFrame) -> bool:
        """Queue what stands for a message or trigger that was refused; False where there is no room. Never blocks."""
        with self._changed:
            if self._ended or not self._has_room_for_answer():
                return False
            self._ready.append(answer)
        self._wake()
        return True

    def take(self) -> AnyFrame | None:
        """The next answer, once."""
        with self._changed:
            return self._give() if self._ready else None

    def take_older(self, mono_ns: int) -> AnyFrame | None:
        """The next answer, once, where its trigger was received at that moment or before, or it holds no picture.

        Triggers of that age that still wait for a frame are answered first.
        """
        with self._changed:
            self._answer(self._pairing.expire(mono_ns))
            head = self._ready[0] if self._ready else None
            if isinstance(head, UnreadableFrame):  # it needs no inference, and so waits for no worker
                return self._give()
            return None if head is None or head.counted_from_mono_ns > mono_ns else self._give()

    def close(self) -> None:
        """Take no more; what waits has been taken by then, or is dropped."""
        with self._changed:
            self._ended = True
            self._dropped += len(self._ready)
            self._ready.clear()
            self._changed.notify_all()

    @property
    def outstanding(self) -> int:
        """Triggers accepted and frames that inspection has not taken yet."""
        with self._changed:
            return self._n_waiting()

    def stats(self) -> QueueStats:
        """A consistent reading of the counters."""
        with self._changed:
            counted_from = [one.counted_from_mono_ns for one in list(self._ready)[:1]]
            if not counted_from:
                counted_from = [one.received_mono_ns for one in self._pairing.pending]
            return QueueStats(
                taken=self._taken,
                dropped=self._dropped,
                waiting=len(self._ready),
                last_frame_mono_ns=self._last_mono_ns,
                next_frame_mono_ns=min(counted_from, default=None),
            )

    def _n_waiting(self) -> int:
        return len(self._pairing.pending) + len(self._ready)

    def _waits(self, trigger_id: int) -> bool:
        return any(one.trigger_id == trigger_id for one in (*self._pairing.pending, *self._ready))

    def _fail(self, reason: TriggerFailure) -> list[Answer]:
        answers = self._pairing.fail(reason, time.monotonic_ns())
        self._answer(answers)
        return answers

    def _wake_for(self, answers: list[Answer]) -> None:
        """Called without the lock: whoever is woken asks this queue while it holds its own."""
        if answers:
            self._wake()

    def _has_room_for_answer(self) -> bool:
        return self._n_waiting() < self._capacity * _ANSWERS_RATIO

    def _answer(self, answers: list[Answer]) -> None:
        """Queue the frames of these triggers, and what stands for those that have none."""
        for one in answers:
            if one.frame is None:
                self._ready.append(self._without_frame(one))
                continue
            skipped, self._skipped = self._skipped, 0
            part_id = one.frame.part_id if one.trigger.part_id is None else one.trigger.part_id
            self._ready.append(
                replace(
                    one.frame,
                    part_id=part_id,
                    dropped_before=skipped,
                    trigger_id=one.trigger.trigger_id,
                    triggered_mono_ns=one.trigger.received_mono_ns,
                )
            )

    def _without_frame(self, answer: Answer) -> UnreadableFrame:
        trigger = answer.trigger
        return no_frame_for(
            trigger, station=self._station, frame_id=answer.frame_id, reason=answer.failure or TriggerFailure.NO_IMAGE
        )

    def _give(self) -> AnyFrame:
        self._taken += 1
        self._changed.notify_all()
        return self._ready.popleft()


def no_frame_for(trigger: Trigger, *, station: str, reason: str, frame_id: int = NO_FRAME_ID) -> UnreadableFrame:
    """What stands for the frame of a trigger that has none; its verdict is *invalid* with that reason."""
    age_ns = time.monotonic_ns() - trigger.received_mono_ns
    return UnreadableFrame(
        station=station,
        frame_id=frame_id,
        captured_at_ns=time.time_ns() - age_ns,
        captured_mono_ns=trigger.received_mono_ns,
        part_id=trigger.part_id,
        trigger_id=trigger.trigger_id,
        triggered_mono_ns=trigger.received_mono_ns,
        reason=str(reason),
    )
