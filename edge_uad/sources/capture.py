"""A station's capture thread: opens its source, reads frames into the queue, reconnects, replaces a hung reader."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from edge_uad.errors import EdgeUadError, SourceEndedError, SourceLostError
from edge_uad.interfaces import DrainableSource, FrameSource, ReplaceableSource
from edge_uad.records import AnyFrame, Frame, StationState
from edge_uad.sources.frozen import FrozenPictureCheck
from edge_uad.sources.queues import FrameQueue

READ_TIMEOUT_S = 0.2
"""Longest wait of one read; between reads a requested stop is noticed."""
SILENT_AFTER_S = 15.0
"""Longer than any time-out of the drivers themselves."""
REPLACE_AFTER_S = 30.0
MAX_HUNG = 3
"""Most threads of one station that may be stuck inside a driver."""

log = logging.getLogger("edge_uad.capture")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubling from ``first_s`` to ``max_s``, each shortened by a random part.

    The jitter spreads the stations of a line, which all reconnect at once after a power cut.
    """

    first_s: float = 0.5
    max_s: float = 30.0
    jitter_ratio: float = 0.25
    """The largest part by which a wait is shortened."""

    def delays_s(self, random_ratio: Callable[[], float] = random.random) -> Iterator[float]:
        """Endless; at most ``max_s`` each.

        Args:
            random_ratio: gives numbers in 0..1.
        """
        delay_s = self.first_s
        while True:
            yield min(delay_s, self.max_s) * (1 - self.jitter_ratio * random_ratio())
            delay_s = min(delay_s * 2, self.max_s)


class Capture:
    """One source's reader thread, replaced by another where a call into the source does not return.

    Every call into a source is made in its reader thread.

    Args:
        station: for log lines and thread names.
        source: not open yet.
        queue: receives the frames.
        backoff: waits between attempts to open a lost source.
        on_change: called from the reader thread when the state changes.
        prepare: applied to each frame before it is queued; must not raise.
        silent_after_s: a call into the source that takes longer is reported as RECONNECTING.
        replace_after_s: the reader of a call that takes longer is detached, where the source can be replaced.
        max_hung: most detached readers at a time; with so many no further one is detached.
        frozen_after_s: frames are unreadable once the picture has been the same for so long; None: not checked.
        wait_for_demand: returns whether a frame is wanted, waiting for that up to a number of seconds; None: frames are
            read as they come.
    """

    def __init__(
        self,
        *,
        station: str,
        source: FrameSource,
        queue: FrameQueue,
        backoff: Backoff,
        on_change: Callable[[], None],
        prepare: Callable[[AnyFrame], AnyFrame] | None = None,
        silent_after_s: float = SILENT_AFTER_S,
        replace_after_s: float = REPLACE_AFTER_S,
        max_hung: int = MAX_HUNG,
        frozen_after_s: float | None = None,
        wait_for_demand: Callable[[float], bool] | None = None,
    ) -> None:
        self._station = station
        self._queue = queue
        self._wait_for_demand = wait_for_demand
        self._on_change = on_change
        self._prepare = prepare
        self._silent_after_s = min(silent_after_s, replace_after_s / 2)
        self._replace_after_s = replace_after_s
        self._max_hung = max_hung
        self._delays_s = backoff.delays_s()
        self._backoff = backoff
        self._stop = threading.Event()
        self._frozen = None if frozen_after_s is None else FrozenPictureCheck(station, after_s=frozen_after_s)
        self._hw: tuple[int, int] | None = None
        self._state: tuple[StationState, str | None] = (StationState.STARTING, None)
        self._finished = False
        self._lost_frames = 0
        self._lost_lock = threading.Lock()  # detached readers count while the present one reports
        self._reader = _Reader(source, self)
        self._hung: list[_Reader] = []
        self.fault: EdgeUadError | None = None
        """The error that ended capture because no retry helps; None while there was none."""
        self.reconnects = 0
        """Number of times that the source was lost or could not be opened."""

    def start(self) -> None:
        """Start the reader thread."""
        self._reader.start()

    def request_stop(self) -> None:
        """Read no further frame; what a source has taken from its senders already is still queued."""
        self._stop.set()

    def replace_hung_reader(self) -> None:
        """Replace the reader if its call into the source does not return. Called periodically; does not block."""
        self._hung = [reader for reader in self._hung if reader.is_alive()]
        silent_s = self._reader.silent_s()
        if silent_s <= self._replace_after_s or len(self._hung) >= self._max_hung or self._stop.is_set():
            return
        source = self._reader.source
        if not isinstance(source, ReplaceableSource) or not self._reader.detach():
            return
        self._hung.append(self._reader)
        self.reconnects += 1
        log.warning(
            "%s: the source has not answered for %.1f s; its thread is detached, the source opened anew (%d of %d)",
            self._station,
            silent_s,
            len(self._hung),
            self._max_hung,
        )
        self.set_state(StationState.RECONNECTING, f"no answer for {self._replace_after_s:g} s; it is opened anew")
        self._reader = _Reader(source.fresh(), self)
        self._reader.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the reader threads; returns False where one is still inside its source after ``timeout_s``."""
        until_s = time.monotonic() + timeout_s
        readers = [self._reader, *self._hung]
        for reader in readers:
            if reader.ident is not None:
                reader.join(max(until_s - time.monotonic(), 0.0))
        return not any(reader.is_alive() for reader in readers)

    @property
    def hung(self) -> int:
        """Number of detached readers whose call has not returned yet."""
        return sum(reader.is_alive() for reader in self._hung)

    @property
    def finished(self) -> bool:
        """Whether no further frame will come."""
        return self._finished

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stop.is_set()

    @property
    def state(self) -> tuple[StationState, str | None]:
        """The state and a message for the operator; RECONNECTING while a call into the source does not return."""
        if self._reader.silent_s() > self._silent_after_s:
            # no running count: a text that changes would fill the log
            return StationState.RECONNECTING, f"the source has not answered for more than {self._silent_after_s:g} s"
        state, message = self._state
        if state is StationState.RUNNING and self._frozen is not None:
            return state, self._frozen.message
        return state, message

    def put(self, frame: AnyFrame) -> None:
        """Queue a reader's frame, checked and prepared."""
        self._delays_s = self._backoff.delays_s()
        with self._lost_lock:
            lost, self._lost_frames = self._lost_frames, 0
        if isinstance(frame, Frame):
            self._log_changed_size(frame.hw)
        frame = self._checked(frame)
        frame = frame if self._prepare is None else self._prepare(frame)
        self._queue.put(replace(frame, dropped_before=frame.dropped_before + lost) if lost else frame)

    def is_wanted(self) -> bool:
        """Whether to read a frame now; waits up to ``READ_TIMEOUT_S`` for that."""
        return self._wait_for_demand is None or self._wait_for_demand(READ_TIMEOUT_S)

    def answered(self) -> None:
        """A reader's call returned, with a frame or without."""
        if self._state[0] is not StationState.RUNNING:
            self.set_state(StationState.RUNNING, None)

    def count_lost_frame(self) -> None:
        """A detached reader's call returned a frame: it is counted as dropped before the next one."""
        with self._lost_lock:
            self._lost_frames += 1

    def back_off(self, message: str) -> None:
        """A reader's source is lost: report it and wait, interrupted by a requested stop."""
        self.reconnects += 1
        delay_s = next(self._delays_s)
        self.set_state(StationState.RECONNECTING, message)
        self._stop.wait(delay_s)

    def set_state(self, state: StationState, message: str | None) -> None:
        """Change the state and call ``on_change``."""
        self._state = (state, message)
        self._on_change()

    def finish(self, fault: EdgeUadError | None) -> None:
        """The reader ends; ``fault`` is why, where it is an error."""
        self.fault = fault
        self._finished = True
        self._on_change()

    def _checked(self, frame: AnyFrame) -> AnyFrame:
        """The frame, or an unreadable one while the picture is frozen."""
        if self._frozen is None:
            return frame
        before = self._frozen.message
        frame = self._frozen.check(frame)
        if self._frozen.message != before:
            self._on_change()
        return frame

    def _log_changed_size(self, hw: tuple[int, int]) -> None:
        before, self._hw = self._hw, hw
        if before is not None and before != hw:
            log.warning(
                "%s: the picture changes its size from %d×%d to %d×%d pixels", self._station, *before[::-1], *hw[::-1]
            )


class _Detached(Exception):  # noqa: N818  (no error: it ends a thread)
    """This reader was replaced while it was inside its source."""


class _Reader(threading.Thread):
    """Reads one source until a stop is requested or it is detached."""

    def __init__(self, source: FrameSource, capture: Capture) -> None:
        # a daemon thread: one that is stuck in a driver must not keep the process alive
        super().__init__(name=f"capture {capture._station}", daemon=True)  # noqa: SLF001  (two halves of one thing)
        self.source = source
        self._capture = capture
        self._lock = threading.Lock()
        self._called_at_mono_s: float | None = None
        self._detached = False

    def silent_s(self) -> float:
        """Seconds since the call into the source that is under way began; 0 where none is."""
        called_at_s = self._called_at_mono_s
        return 0.0 if called_at_s is None else time.monotonic() - called_at_s

    def detach(self) -> bool:
        """Ignore what this reader's call returns; False where the call has returned meanwhile."""
        with self._lock:
            self._detached = self._called_at_mono_s is not None
            return self._detached

    def run(self) -> None:
        """The thread."""
        fault: EdgeUadError | None = None
        try:
            while not self._capture.stopping:
                self._attempt()
        except _Detached:
            self._close_quietly()
            return
        except SourceEndedError as error:
            self._capture.set_state(StationState.ENDED, str(error))
        except EdgeUadError as error:
            fault = error
        self._capture.finish(fault)

    def _attempt(self) -> None:
        """Open and read until a stop; where the source is lost, back off and return."""
        try:
            try:
                self._timed(self.source.open)
                self._read_on()
            finally:
                self._timed(self.source.close)
        except SourceLostError as error:
            self._capture.back_off(str(error))
        except (SourceEndedError, _Detached):
            raise
        except EdgeUadError as error:
            if not self._capture.hung:  # else the hung call may still hold what is needed, such as a port
                raise
            self._capture.back_off(str(error))
        except Exception as error:  # this thread's boundary: a fault in a driver is a lost source, not a dead station
            log.exception("%s: fault inside the source", self.name)
            self._capture.back_off(f"fault inside the source: {type(error).__name__}: {error}")

    def _read_on(self) -> None:
        while not self._capture.stopping:
            if self._capture.is_wanted():
                self._read_one()
            else:
                self._capture.answered()  # it is open, and nobody asks it
        if isinstance(self.source, DrainableSource):
            self._timed(self.source.shut)
            with contextlib.suppress(SourceEndedError):
                while True:
                    self._read_one()

    def _read_one(self) -> None:
        frame = self._timed(lambda: self.source.read(READ_TIMEOUT_S))
        self._capture.answered()
        if frame is not None:
            self._capture.put(frame)

    def _timed(self, call: Callable[[], _Result]) -> _Result:
        self._called_at_mono_s = time.monotonic()
        result = None
        try:
            result = call()
            return result
        finally:
            with self._lock:
                self._called_at_mono_s = None
                detached = self._detached
            if detached:
                if result is not None:
                    self._capture.count_lost_frame()
                raise _Detached

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):  # the reader is detached: nothing depends on it any more
            self.source.close()
