"""Results as a PLC gets them, the numbers for why one is invalid, and the buffer they wait in."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from edge_uad.records import Decision, Verdict

BUFFERED_RESULTS = 8


class Reason(IntEnum):
    """Why a result is invalid."""

    NONE = 0
    """It is not."""
    DEADLINE = 1
    """There was no verdict in time."""
    NO_IMAGE = 2
    """The camera works and gave no image for this trigger."""
    DAMAGED = 3
    """The image cannot be decoded, or is damaged."""
    LOST_PACKETS = 4
    """Part of the image was lost on the network."""
    CAMERA_GONE = 5
    """The camera went away before the result was there."""
    ABORTED = 6
    """Abort, another recipe, or a PLC that went silent."""
    STOPPING = 7
    """The daemon was stopped."""
    ID_GAP = 8
    """The camera's frame numbers have a gap: this part's frame is missing."""
    FROZEN = 9
    """The camera gives the same picture again and again."""
    OTHER = 99
    """See the verdict's text on the other outputs."""


_REASONS = (
    (r"^deadline", Reason.DEADLINE),
    (r"^no (image|frame)", Reason.NO_IMAGE),
    (r"^camera gone", Reason.CAMERA_GONE),
    (r"^aborted", Reason.ABORTED),
    (r"^the daemon was stopped|^stopping", Reason.STOPPING),
    (r"^(id|frame id) gap|^a gap in the", Reason.ID_GAP),
    (r"^the picture has not changed", Reason.FROZEN),
    (r"\blost\b", Reason.LOST_PACKETS),
    (r"damaged|truncated|cannot be (decoded|read)|cut short|not an image|is empty|has no pixels", Reason.DAMAGED),
)


def reason_of(text: str | None) -> Reason:
    """The number that stands for a verdict's text; OTHER where none fits."""
    if text is None:
        return Reason.NONE
    return next((reason for pattern, reason in _REASONS if re.search(pattern, text)), Reason.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One trigger's answer, or in free run one frame's."""

    sequence: int
    """Never 0."""
    trigger_id: int
    """0 in free run."""
    part_id: str | None
    decision: Decision
    reason: Reason
    score: float | None = None
    threshold: float | None = None
    peak: tuple[int, int] | None = None
    latency_ms: float = 0.0

    @property
    def is_pass(self) -> bool:
        """Only a part judged normal passes."""
        return self.decision is Decision.NORMAL


def result_of(verdict: Verdict, *, sequence: int, trigger_id: int, part_id: str | None) -> Result:
    """The answer that a verdict is."""
    is_invalid = verdict.decision is Decision.INVALID
    return Result(
        sequence=sequence,
        trigger_id=trigger_id,
        part_id=part_id,
        decision=verdict.decision,
        reason=reason_of(verdict.reason or "") if is_invalid else Reason.NONE,
        score=verdict.score,
        threshold=verdict.threshold,
        peak=verdict.peak,
        latency_ms=verdict.latency_ms,
    )


class ResultBuffer:
    """Results that the PLC has not acknowledged: the newest one, or up to eight in their order."""

    def __init__(self) -> None:
        self.buffered = False
        """Whether BufferResults is set."""
        self._waiting: deque[Result] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._waiting)

    @property
    def full(self) -> bool:
        """No room for one more without a loss; never where only the newest is kept."""
        return self.buffered and len(self._waiting) >= BUFFERED_RESULTS

    @property
    def head(self) -> Result | None:
        """The one to show next."""
        return self._waiting[0] if self._waiting else None

    def give(self, result: Result) -> bool:
        """Add a result.

        Returns:
            Whether one was lost by that: the older one, or, where eight wait, this one.
        """
        if self.full:
            return True
        lost = False if self.buffered else self.clear()
        self._waiting.append(result)
        return lost

    def acknowledge(self) -> None:
        """The PLC has read the one shown."""
        self._waiting.popleft()

    def clear(self) -> bool:
        """Forget all; whether there was any."""
        held = bool(self._waiting)
        self._waiting.clear()
        return held

    def set_buffered(self, buffered: bool) -> bool:
        """Follow BufferResults.

        Returns:
            Whether results were lost by that: of several that waited, the newest stays.
        """
        self.buffered = buffered
        if buffered or len(self._waiting) < 2:
            return False
        newest = self._waiting[-1]
        self._waiting.clear()
        self._waiting.append(newest)
        return True
