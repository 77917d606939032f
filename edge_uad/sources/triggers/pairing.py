"""Which frame belongs to which trigger. No thread, no clock, no socket: times come as arguments.

Both ways keep the same promise: each trigger is answered exactly once, with a frame or with the reason why there is
none, and never with a frame that was exposed before it.
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from edge_uad.records import NO_FRAME_ID, AnyFrame, Trigger, TriggerFailure

MAX_COUNTED_GAP = 1_000_000
"""A larger jump of frame ids is a camera or sender that restarted its count, not frames lost."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A trigger with its frame, or with the reason why it has none."""

    trigger: Trigger
    frame: AnyFrame | None = None
    failure: TriggerFailure | None = None
    """None where there is a frame."""
    frame_id: int = NO_FRAME_ID
    """Of the missing frame, where its number is known."""


class Pairing(Protocol):
    """Triggers that wait for their frames, in order."""

    @property
    def pending(self) -> tuple[Trigger, ...]:
        """Those not answered yet, oldest first."""

    def remark(self, now_mono_ns: int) -> str | None:
        """What the operator should know; None where all is well."""

    def add_trigger(self, trigger: Trigger) -> list[Answer]:
        """Take a trigger; it waits unless it is answered at once."""

    def add_frame(self, frame: AnyFrame) -> list[Answer]:
        """Take a frame; it is unused where no answer holds it."""

    def expire(self, until_mono_ns: int) -> list[Answer]:
        """Answer the triggers received at that moment or before: no frame has come for them in time."""

    def fail(self, reason: TriggerFailure, now_mono_ns: int) -> list[Answer]:
        """Answer all that wait, and count frames and triggers anew."""

    def in_doubt(self, now_mono_ns: int) -> bool:
        """Whether a trigger received at that moment would fail at once."""


class SoftwarePairing:
    """Each trigger takes the first frame exposed after it.

    Args:
        delay_ns: by how much the time of capture lags behind the exposure: a frame is used that is so much younger than
            its trigger.
    """

    def __init__(self, *, delay_ns: int = 0) -> None:
        self._delay_ns = delay_ns
        self._pending: deque[Trigger] = deque()

    @property
    def pending(self) -> tuple[Trigger, ...]:
        """Those not answered yet, oldest first."""
        return tuple(self._pending)

    def remark(self, now_mono_ns: int) -> str | None:  # noqa: ARG002  (frames are not counted)
        """None."""
        return None

    def add_trigger(self, trigger: Trigger) -> list[Answer]:
        """It waits."""
        self._pending.append(trigger)
        return []

    def add_frame(self, frame: AnyFrame) -> list[Answer]:
        """The oldest trigger's, where it was exposed after that; a frame serves one trigger."""
        if not self._pending or frame.captured_mono_ns < self._pending[0].received_mono_ns + self._delay_ns:
            return []
        return [Answer(self._pending.popleft(), frame)]

    def expire(self, until_mono_ns: int) -> list[Answer]:
        """``NO_IMAGE`` for those received at that moment or before."""
        late = [one for one in self._pending if one.received_mono_ns <= until_mono_ns]
        if late:
            self._pending = deque(one for one in self._pending if one.received_mono_ns > until_mono_ns)
        return [Answer(one, failure=TriggerFailure.NO_IMAGE) for one in late]

    def in_doubt(self, now_mono_ns: int) -> bool:  # noqa: ARG002  (frames are not counted)
        """Never."""
        return False

    def fail(self, reason: TriggerFailure, now_mono_ns: int) -> list[Answer]:  # noqa: ARG002
        """Answer all that wait."""
        failed = [Answer(one, failure=reason) for one in self._pending]
        self._pending.clear()
        return failed


@dataclass(slots=True)
class _Announced:
    """A place in the camera's count."""

    trigger: Trigger
    answered: bool = False
    """Its time is over; the frame that comes for it is still its own, and nobody else's."""


class HardwarePairing:
    """The n-th trigger announces the n-th frame; whatever casts doubt on the count makes triggers fail, never slip.

    * A gap in the frame ids fails one trigger for each missing frame.
    * A frame that comes after its trigger's time is over is dropped, and no other trigger gets it. Where it never
      comes, the camera missed a pulse: then each later trigger lacks its frame too, until ``fail`` counts anew.
    * A frame that nobody announced, one exposed before its announcement, a first frame of all that may be the second
      trigger's, and frame ids that jump back or by more than a million leave the count in doubt: all triggers fail,
      until neither a frame nor a trigger came for ``settle_ns``.

    Args:
        settle_ns: longest time from an announcement to the exposure of its frame.
    """

    def __init__(self, *, settle_ns: int) -> None:
        self._settle_ns = settle_ns
        self._announced: deque[_Announced] = deque()
        self._n_owed = 0
        """Frames that belong to triggers before those in ``_announced``, all answered."""
        self._doubt_until_mono_ns: int | None = None
        self._last_frame_id: int | None = None

    @property
    def pending(self) -> tuple[Trigger, ...]:
        """Those not answered yet, oldest first."""
        return tuple(one.trigger for one in self._announced if not one.answered)

    def remark(self, now_mono_ns: int) -> str | None:
        """That the count is in doubt, or frames are still owed to triggers whose time is over."""
        if self.in_doubt(now_mono_ns):
            return (
                "which frame belongs to which trigger is in doubt: triggers fail until neither came for "
                f"{self._settle_ns / 1e9:g} s; each pulse needs its trigger before it"
            )
        if not self._n_owed:
            return None
        return (
            "an announced frame has not come: the next one is taken for it and dropped; "
            "resynchronise frames and triggers while the line stands"
        )

    def in_doubt(self, now_mono_ns: int) -> bool:
        """Whether a trigger received at that moment would fail, because its frame could be confused with another's."""
        return self._doubt_until_mono_ns is not None and now_mono_ns <= self._doubt_until_mono_ns

    def add_trigger(self, trigger: Trigger) -> list[Answer]:
        """It waits; ``ID_GAP`` while the count is in doubt."""
        if self.in_doubt(trigger.received_mono_ns):
            self._doubt(trigger.received_mono_ns)
            return [Answer(trigger, failure=TriggerFailure.ID_GAP)]
        self._announced.append(_Announced(trigger))
        return []

    def add_frame(self, frame: AnyFrame) -> list[Answer]:
        """The next announced trigger's, after those of the frames missing before it have failed."""
        last_id, self._last_frame_id = self._last_frame_id, frame.frame_id
        step = 1 if last_id is None else frame.frame_id - last_id
        if self.in_doubt(frame.captured_mono_ns):
            if not self._announced:
                self._doubt(frame.captured_mono_ns)
            return []
        if not 0 < step <= MAX_COUNTED_GAP:
            return self._doubt(frame.captured_mono_ns)
        return self._skip(frame, by_id=step - 1) + self._pair(frame, is_first=last_id is None)

    def expire(self, until_mono_ns: int) -> list[Answer]:
        """``NO_IMAGE`` for those received at that moment or before; their frames stay theirs."""
        answers = []
        for one in self._announced:
            if not one.answered and one.trigger.received_mono_ns <= until_mono_ns:
                one.answered = True
                answers.append(Answer(one.trigger, failure=TriggerFailure.NO_IMAGE))
        while self._announced and self._announced[0].answered:
            self._announced.popleft()
            self._n_owed += 1
        return answers

    def fail(self, reason: TriggerFailure, now_mono_ns: int) -> list[Answer]:
        """Answer all that wait, and count anew; in doubt where frames of theirs may still come."""
        self._last_frame_id = None
        if self._announced or self._n_owed:
            return self._doubt(now_mono_ns, reason)
        return []

    def _pair(self, frame: AnyFrame, *, is_first: bool) -> list[Answer]:
        """The answer to the frame's place in the count."""
        if self._n_owed:
            self._n_owed -= 1
            return []
        captured_mono_ns = frame.captured_mono_ns
        if not self._announced or (is_first and self._is_second_announced(captured_mono_ns)):
            return self._doubt(captured_mono_ns)
        head = self._announced[0]
        if head.answered:
            self._announced.popleft()
            return []
        if captured_mono_ns < head.trigger.received_mono_ns:
            return self._doubt(captured_mono_ns)
        self._announced.popleft()
        return [Answer(head.trigger, frame)]

    def _is_second_announced(self, mono_ns: int) -> bool:
        """Whether the first frame of all may be the second trigger's, the one before it lost."""
        return len(self._announced) > 1 and self._announced[1].trigger.received_mono_ns <= mono_ns

    def _doubt(self, since_mono_ns: int, reason: TriggerFailure = TriggerFailure.ID_GAP) -> list[Answer]:
        """Fail all that wait; what comes within ``settle_ns`` may be theirs."""
        failed = self.pending
        latest_mono_ns = max([since_mono_ns, *(one.received_mono_ns for one in failed)])
        self._announced.clear()
        self._n_owed = 0
        self._doubt_until_mono_ns = max(self._doubt_until_mono_ns or 0, latest_mono_ns + self._settle_ns)
        return [Answer(one, failure=reason) for one in failed]

    def _skip(self, frame: AnyFrame, *, by_id: int) -> list[Answer]:
        """Pass over the places of the frames that are missing before this one."""
        n_missing = max(by_id, frame.dropped_before)
        n_owed = min(n_missing, self._n_owed)
        self._n_owed -= n_owed
        answers = []
        for number in range(n_owed, min(n_missing, n_owed + len(self._announced))):
            skipped = self._announced.popleft()
            if not skipped.answered:
                missing_id = frame.frame_id - n_missing + number if n_missing == by_id else NO_FRAME_ID
                answers.append(Answer(skipped.trigger, failure=TriggerFailure.ID_GAP, frame_id=missing_id))
        return answers
