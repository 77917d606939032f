"""Queues between capture and inspection: one that keeps the newest frame, one that makes capture wait.

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
    """A queue's counters."""

    taken: int
    """Frames given to inspection."""
    dropped: int
    """Frames without a verdict: replaced, left over at the close, or skipped by the source itself."""
    waiting: int
    last_frame_mono_ns: int | None
    """When the newest frame was captured, on the monotonic clock."""
    next_frame_mono_ns: int | None
    """When the frame was captured that ``take`` would return; of a triggered station, when the trigger was received
    that is answered next."""


class FrameQueue(Protocol):
    """One station's frames, between its capture thread and the workers."""

    def put(self, frame: AnyFrame) -> bool:
        """Add a frame; returns False where the queue is closed and the frame was dropped."""

    def take(self) -> AnyFrame | None:
        """The next frame to judge, or None. Never blocks."""

    def take_older(self, mono_ns: int) -> AnyFrame | None:
        """The next frame, where it was captured at that moment or before; else None. Never blocks."""

    def close(self) -> None:
        """Drop what is left; a ``put`` that waits returns."""

    def stats(self) -> QueueStats:
        """A consistent reading of the counters."""


class LatestFrameQueue:
    """Holds the newest frame, with the number of frames that it replaced (``latest``).

    Args:
        wake: called after each frame, to wake a worker.
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
        """Replace the frame that waits, if any, and add its count of drops."""
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
        """The newest frame, once, where it was captured at that moment or before."""
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
    """Keeps every frame in order; ``put`` waits while the queue is full: back-pressure for the source (``every``).

    Args:
        wake: called after each frame, to wake a worker.
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
        """Wait for room, at the longest until ``close``."""
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
        """The oldest frame, once, where it was captured at that moment or before."""
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
