"""Between capture and inspection: a slot where the newest frame wins, or a queue that holds capture back.

Both count. At every moment: frames put = taken + dropped + waiting, and the sources' own drops add to ``dropped``.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from edge_uad.records import AnyFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """What a queue has seen so far."""

    taken: int
    """Frames that inspection accepted."""
    dropped: int
    """Frames that came to no verdict: replaced, left over at the close, or skipped by the source itself."""
    waiting: int
    last_frame_mono_ns: int | None
    """When the newest frame was captured, on the monotonic clock."""
    next_frame_mono_ns: int | None
    """When the frame was captured that ``take`` would give."""


class FrameQueue(Protocol):
    """One station's way from its capture thread to the inspection loop."""

    def put(self, frame: AnyFrame) -> bool:
        """Hand over a frame; False where the queue is closed and the frame was dropped."""

    def take(self) -> AnyFrame | None:
        """The next frame to judge, or None. Never blocks."""

    def take_older(self, mono_ns: int) -> AnyFrame | None:
        """The next frame, where it was captured at that moment or before; else None. Never blocks."""

    def close(self) -> None:
        """Drop what is left and let go of a ``put`` that waits."""

    def stats(self) -> QueueStats:
        """A consistent reading of the counters."""


class LatestFrameQueue:
    """Holds one frame: the newest wins, and tells how many it skipped (``latest``).

    Args:
        wake: called after each frame, to wake the inspection loop.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._frame: AnyFrame | None = None
        self._closed = False
        self._taken = 0
        self._dropped = 0
        self._last_mono_ns: int | None = None

    def put(self, frame: AnyFrame) -> bool:
        """Take the place of the frame that waits, if any; its count of drops is inherited."""
        with self._lock:
            self._last_mono_ns = frame.captured_mono_ns
            self._dropped += frame.dropped_before
            if self._closed:
                self._dropped += 1
                return False
            if self._frame is not None:
                self._dropped += 1
                frame = replace(frame, dropped_before=frame.dropped_before + self._frame.dropped_before + 1)
            self._frame = frame
        self._wake()
        return True

    def take(self) -> AnyFrame | None:
        """The newest frame, once."""
        with self._lock:
            return self._give()

    def take_older(self, mono_ns: int) -> AnyFrame | None:
        """The newest frame, once, where it is so old."""
        with self._lock:
            return self._give() if self._frame is not None and self._frame.captured_mono_ns <= mono_ns else None

    def close(self) -> None:
        """Drop the frame that waits."""
        with self._lock:
            self._closed = True
            self._dropped += self._frame is not None
            self._frame = None

    def stats(self) -> QueueStats:
        """A consistent reading of the counters."""
        with self._lock:
            return QueueStats(
                taken=self._taken,
                dropped=self._dropped,
                waiting=int(self._frame is not None),
                last_frame_mono_ns=self._last_mono_ns,
                next_frame_mono_ns=None if self._frame is None else self._frame.captured_mono_ns,
            )

    def _give(self) -> AnyFrame | None:
        frame, self._frame = self._frame, None
        self._taken += frame is not None
        return frame


class BoundedFrameQueue:
    """Keeps every frame in order; a full queue makes ``put`` wait: back-pressure for the source (``every``).

    Args:
        wake: called after each frame, to wake the inspection loop.
        capacity: frames held at most.
    """

    def __init__(self, wake: Callable[[], None], *, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue of {capacity} frames holds none")
        self._wake = wake
        self._capacity = capacity
        self._room = threading.Condition()
        self._frames: deque[AnyFrame] = deque()
        self._closed = False
        self._taken = 0
        self._dropped = 0
        self._last_mono_ns: int | None = None

    def put(self, frame: AnyFrame) -> bool:
        """Wait for room, until ``close`` if it must be."""
        with self._room:
            self._last_mono_ns = frame.captured_mono_ns
            self._dropped += frame.dropped_before
            self._room.wait_for(lambda: self._closed or len(self._frames) < self._capacity)
            if self._closed:
                self._dropped += 1
                return False
            self._frames.append(frame)
        self._wake()
        return True

    def take(self) -> AnyFrame | None:
        """The oldest frame, once."""
        with self._room:
            return self._give() if self._frames else None

    def take_older(self, mono_ns: int) -> AnyFrame | None:
        """The oldest frame, once, where it is so old."""
        with self._room:
            return self._give() if self._frames and self._frames[0].captured_mono_ns <= mono_ns else None

    def close(self) -> None:
        """Drop the frames that wait."""
        with self._room:
            self._closed = True
            self._dropped += len(self._frames)
            self._frames.clear()
            self._room.notify_all()

    def stats(self) -> QueueStats:
        """A consistent reading of the counters."""
        with self._room:
            return QueueStats(
                taken=self._taken,
                dropped=self._dropped,
                waiting=len(self._frames),
                last_frame_mono_ns=self._last_mono_ns,
                next_frame_mono_ns=self._frames[0].captured_mono_ns if self._frames else None,
            )

    def _give(self) -> AnyFrame:
        self._taken += 1
        self._room.notify()
        return self._frames.popleft()
