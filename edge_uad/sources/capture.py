"""A station's source at work: opened, read and healed in a thread of its own, and how it stands."""

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
from edge_uad.records import AnyFrame, StationState
from edge_uad.sources.queues import FrameQueue

READ_TIMEOUT_S = 0.2
"""How long a read waits for a frame before it looks whether to stop."""
SILENT_AFTER_S = 15.0
"""Drivers give up within 10 s by themselves."""
REPLACE_AFTER_S = 30.0
MAX_HUNG = 3
"""Threads that one station may leave behind in a driver."""

log = logging.getLogger("edge_uad.capture")

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubling from ``first_s`` to ``max_s``, each shortened by a random part.

    The jitter keeps the stations of a line from knocking at their switch all at once after a power cut.
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
    """One source's thread, and the thread that takes its place where a call into the source does not come back.

    Every call into a source is made in its thread.

    Args:
        station: for log lines and the threads' names.
        source: not open yet.
        queue: where frames go.
        backoff: waits between attempts at a lost source.
        on_change: called when the state changes, from a thread.
        prepare: what is done to a frame before it goes into the queue, if anything; must not fail.
        silent_after_s: a call into the source that takes longer is told to the operator.
        replace_after_s: a call that takes longer is given up, where the source can be replaced.
        max_hung: calls given up that have not come back yet; with so many no more are given up.
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
    ) -> None:
        self._station = station
        self._queue = queue
        self._on_change = on_change
        self._prepare = prepare
        self._silent_after_s = min(silent_after_s, replace_after_s / 2)
        self._replace_after_s = replace_after_s
        self._max_hung = max_hung
        self._delays_s = backoff.delays_s()
        self._backoff = backoff
        self._stop = threading.Event()
        self._standing: tuple[StationState, str | None] = (StationState.STARTING, None)
        self._finished = False
        self._lost_frames = 0
        self._reader = _Reader(source, self)
        self._hung: list[_Reader] = []
        self.fault: EdgeUadError | None = None
        """What no retry can mend, once it happened."""
        self.reconnects = 0
        """How often the source was lost or could not be opened."""

    def start(self) -> None:
        """Begin."""
        self._reader.start()

    def request_stop(self) -> None:
        """Take no further frame from the world; those taken already are still put into the queue."""
        self._stop.set()

    def replace_hung_reader(self) -> None:
        """Replace a source whose call does not come back. Asked again and again, from one thread; never waits."""
        self._hung = [reader for reader in self._hung if reader.is_alive()]
        silent_s = self._reader.silent_s()
        if silent_s <= self._replace_after_s or len(self._hung) >= self._max_hung or self._stop.is_set():
            return
        source = self._reader.source
        if not isinstance(source, ReplaceableSource) or not self._reader.give_up():
            return
        self._hung.append(self._reader)
        self.reconnects += 1
        log.warning(
            "%s: the source has not answered for %.1f s; it is given up and opened anew (%d of %d such threads)",
            self._station,
            silent_s,
            len(self._hung),
            self._max_hung,
        )
        self.stand(StationState.RECONNECTING, f"no answer for {self._replace_after_s:g} s; it is opened anew")
        self._reader = _Reader(source.fresh(), self)
        self._reader.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads; False where one is still inside its source."""
        until_s = time.monotonic() + timeout_s
        readers = [self._reader, *self._hung]
        for reader in readers:
            if reader.ident is not None:
                reader.join(max(until_s - time.monotonic(), 0.0))
        return not any(reader.is_alive() for reader in readers)

    @property
    def hung(self) -> int:
        """Calls given up that have not come back yet."""
        return sum(reader.is_alive() for reader in self._hung)

    @property
    def finished(self) -> bool:
        """No frame will come any more."""
        return self._finished

    @property
    def stopping(self) -> bool:
        """A stop was requested."""
        return self._stop.is_set()

    @property
    def standing(self) -> tuple[StationState, str | None]:
        """State and what the operator should know; tells of a call that does not come back, too."""
        if self._reader.silent_s() > self._silent_after_s:
            # no running count: a text that changes would fill the log
            return StationState.RECONNECTING, f"the source has not answered for more than {self._silent_after_s:g} s"
        return self._standing

    def put(self, frame: AnyFrame) -> None:
        """A reader's frame."""
        self._delays_s = self._backoff.delays_s()
        lost, self._lost_frames = self._lost_frames, 0
        frame = frame if self._prepare is None else self._prepare(frame)
        self._queue.put(replace(frame, dropped_before=frame.dropped_before + lost) if lost else frame)

    def answered(self) -> None:
        """A reader's source is there, with a frame or without."""
        if self._standing[0] is not StationState.RUNNING:
            self.stand(StationState.RUNNING, None)

    def lost_frame(self) -> None:
        """A frame that came from a call given up: it is told with the next one."""
        self._lost_frames += 1

    def retreat(self, message: str) -> None:
        """A reader's source is lost: say so and wait."""
        self.reconnects += 1
        delay_s = next(self._delays_s)
        self.stand(StationState.RECONNECTING, message)
        self._stop.wait(delay_s)

    def stand(self, state: StationState, message: str | None) -> None:
        """Another state."""
        self._standing = (state, message)
        self._on_change()

    def finish(self, fault: EdgeUadError | None) -> None:
        """The reader has nothing more to do."""
        self.fault = fault
        self._finished = True
        self._on_change()


class _GivenUp(Exception):  # noqa: N818  (no error: it leads a thread to its end)
    """This reader was replaced while it was inside its source."""


class _Reader(threading.Thread):
    """Reads one source until stopped or given up."""

    def __init__(self, source: FrameSource, capture: Capture) -> None:
        # a daemon thread: one that a driver never gives back must not keep the process alive
        super().__init__(name=f"capture {capture._station}", daemon=True)  # noqa: SLF001  (two halves of one thing)
        self.source = source
        self._capture = capture
        self._lock = threading.Lock()
        self._called_at_mono_s: float | None = None
        self._given_up = False

    def silent_s(self) -> float:
        """How long a call into the source has been under way; 0 where there is none."""
        called_at_s = self._called_at_mono_s
        return 0.0 if called_at_s is None else time.monotonic() - called_at_s

    def give_up(self) -> bool:
        """Let nothing more come of this reader; False where its call came back after all."""
        with self._lock:
            self._given_up = self._called_at_mono_s is not None
            return self._given_up

    def run(self) -> None:
        """The thread."""
        fault: EdgeUadError | None = None
        try:
            while not self._capture.stopping:
                self._attempt()
        except _GivenUp:
            self._close_quietly()
            return
        except SourceEndedError as error:
            self._capture.stand(StationState.ENDED, str(error))
        except EdgeUadError as error:
            fault = error
        self._capture.finish(fault)

    def _attempt(self) -> None:
        """Open and read until stopped; a lost source ends in a wait."""
        try:
            try:
                self._timed(self.source.open)
                self._read_on()
            finally:
                self._timed(self.source.close)
        except SourceLostError as error:
            self._capture.retreat(str(error))
        except (SourceEndedError, _GivenUp):
            raise
        except EdgeUadError as error:
            if not self._capture.hung:  # else the call that hangs is in the way, as with a port it still holds
                raise
            self._capture.retreat(str(error))
        except Exception as error:  # this thread's boundary: a fault in a driver is a lost source, not a dead station
            log.exception("%s: fault inside the source", self.name)
            self._capture.retreat(f"fault inside the source: {type(error).__name__}: {error}")

    def _read_on(self) -> None:
        while not self._capture.stopping:
            self._read_one()
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
                given_up = self._given_up
            if given_up:
                if result is not None:
                    self._capture.lost_frame()
                raise _GivenUp

    def _close_quietly(self) -> None:
        with contextlib.suppress(Exception):  # whatever it says, nobody is there to hear it
            self.source.close()
