"""One thread per station that opens its source, reads it, heals it, and says how it stands."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from edge_uad.errors import EdgeUadError, SourceEndedError, SourceLostError
from edge_uad.interfaces import FrameSource
from edge_uad.records import StationState
from edge_uad.sources.slot import Lane

READ_TIMEOUT_S = 0.2
"""How long a read waits for a frame before it looks whether to stop."""
SILENT_AFTER_S = 15.0
"""Drivers give up within 10 s by themselves."""

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
    """Runs one source in a thread of its own; every call into the source is made there.

    Args:
        station: for log lines and the thread's name.
        source: not open yet.
        lane: where frames go.
        backoff: waits between attempts at a lost source.
        on_change: called when the state changes, from the thread.
        silent_after_s: a call into the source that takes longer is told to the operator.
    """

    def __init__(
        self,
        *,
        station: str,
        source: FrameSource,
        lane: Lane,
        backoff: Backoff,
        on_change: Callable[[], None],
        silent_after_s: float = SILENT_AFTER_S,
    ) -> None:
        self._station = station
        self._source = source
        self._lane = lane
        self._backoff = backoff
        self._on_change = on_change
        self._silent_after_s = silent_after_s
        self._stop = threading.Event()
        # a daemon thread: one that a driver never gives back must not keep the process alive
        self._thread = threading.Thread(target=self._run, name=f"capture {station}", daemon=True)
        self._standing: tuple[StationState, str | None] = (StationState.STARTING, None)
        self._delays_s = backoff.delays_s()
        self._called_at_mono_s: float | None = None
        self._finished = False
        self.fault: EdgeUadError | None = None
        """What no retry can mend, once it happened."""
        self.reconnects = 0
        """How often the source was lost or could not be opened."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def request_stop(self) -> None:
        """Read no further frame; the one in hand is still put into the lane."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False where it is still inside the source."""
        if self._thread.ident is not None:
            self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    @property
    def finished(self) -> bool:
        """No frame will come any more."""
        return self._finished

    @property
    def standing(self) -> tuple[StationState, str | None]:
        """State and what the operator should know; tells of a call that does not come back, too."""
        state, message = self._standing
        called_at_s = self._called_at_mono_s
        if called_at_s is not None and time.monotonic() - called_at_s > self._silent_after_s:
            # no running count: a text that changes would fill the log
            return StationState.RECONNECTING, f"the source has not answered for more than {self._silent_after_s:g} s"
        return state, message

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._attempt()
        except SourceEndedError as error:
            self._stand(StationState.ENDED, str(error))
        except EdgeUadError as error:
            self.fault = error
        finally:
            self._finished = True
            self._on_change()

    def _attempt(self) -> None:
        """Open and read until stopped; a lost source ends in a wait."""
        try:
            try:
                self._timed(self._source.open)
                self._read_on()
            finally:
                self._timed(self._source.close)
        except SourceLostError as error:
            self._retreat(str(error))
        except EdgeUadError:
            raise
        except Exception as error:  # this thread's boundary: a fault in a driver is a lost source, not a dead station
            log.exception("%s: fault inside the source", self._station)
            self._retreat(f"fault inside the source: {type(error).__name__}: {error}")

    def _read_on(self) -> None:
        while not self._stop.is_set():
            frame = self._timed(lambda: self._source.read(READ_TIMEOUT_S))
            if self._standing[0] is not StationState.RUNNING:
                self._stand(StationState.RUNNING, None)
            if frame is not None:
                self._delays_s = self._backoff.delays_s()
                self._lane.put(frame)

    def _retreat(self, message: str) -> None:
        self.reconnects += 1
        delay_s = next(self._delays_s)
        self._stand(StationState.RECONNECTING, message)
        self._stop.wait(delay_s)

    def _stand(self, state: StationState, message: str | None) -> None:
        self._standing = (state, message)
        self._on_change()

    def _timed(self, call: Callable[[], _Result]) -> _Result:
        self._called_at_mono_s = time.monotonic()
        try:
            return call()
        finally:
            self._called_at_mono_s = None
