"""The daemon: start, judge frame after frame, tell how it stands, stop. One thread judges; sources have their own."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import numpy as np

from edge_uad.interfaces import VerdictSink
from edge_uad.records import Frame, StationState, Verdict
from edge_uad.sources.slot import AnyFrame
from edge_uad.station import Station
from edge_uad.systemd import Notifier

STATUS_EVERY_S = 1.0
WAIT_S = 0.1
"""How long the loop sleeps where there is nothing to judge; a signal is seen after that at the latest."""
RELEASE_S = 1.0
"""What a capture thread is granted to leave its source when the time to drain is over."""
WARM_UP_PX = 256

log = logging.getLogger("edge_uad.daemon")


class StopSignals:
    """SIGTERM and SIGINT as a count; the handler does nothing else."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def requested(self) -> bool:
        """Stop: judge what is queued, then leave."""
        return self._count > 0

    @property
    def forced(self) -> bool:
        """A second signal: leave at once."""
        return self._count > 1

    def note(self, _signal_number: int = signal.SIGTERM, _stack: FrameType | None = None) -> None:
        """The handler."""
        self._count += 1

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignals"]:
        """Handle the signals inside a ``with`` block of the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self.note) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


class Daemon:
    """Judges the frames of its stations in turn until told to stop, or until every source has ended.

    Args:
        stations: made with ``wake.set``, not started.
        sink: where verdicts and life signs go; closed at the end.
        wake: set by the stations when there is something to do.
        stop: asked between frames.
        notifier: the service manager.
        stop_timeout_s: how long a stop may take to judge what is queued.
    """

    def __init__(
        self,
        *,
        stations: Sequence[Station],
        sink: VerdictSink,
        wake: threading.Event,
        stop: StopSignals,
        notifier: Notifier | None = None,
        stop_timeout_s: float = 5.0,
    ) -> None:
        self._stations = list(stations)
        self._sink = sink
        self._wake = wake
        self._stop = stop
        self._notifier = notifier or Notifier()
        self._stop_timeout_s = stop_timeout_s
        self._stopping = False
        self._status_due_s = 0.0
        self._told: dict[str, tuple[StationState, str | None]] = {}
        self.abandoned: list[str] = []
        """Stations whose source never gave its thread back."""

    def run(self) -> int:
        """Run until stopped.

        Returns:
            The exit code.

        Raises:
            EdgeUadError: a station cannot work as asked, such as an endpoint in use.
        """
        try:
            self._startup()
            self._main_loop()
            self._drain()
        finally:
            self._release()
        return 0

    def _startup(self) -> None:
        for station in self._stations:
            station.start()
        self._notifier.status("warming up")
        for station in self._stations:
            if not self._stop.requested:
                self._sink.publish_status(station.status())
                station.inspector.inspect(_warm_up_frame(station))
        self._raise_fault()
        if not self._stop.requested:
            self._notifier.ready()
            log.info("ready")

    def _main_loop(self) -> None:
        while not self._stop.requested:
            ended = all(station.ended for station in self._stations)
            self._raise_fault()  # after the question: a fault ends its station, too
            if ended:
                return
            self._take_turns()

    def _drain(self) -> None:
        """Judge what the sources have already given, within the bound."""
        self._stopping = True
        self._notifier.stopping()
        for station in self._stations:
            station.request_stop()
        deadline_s = time.monotonic() + self._stop_timeout_s
        while not self._stop.forced and time.monotonic() < deadline_s:
            if all(station.ended for station in self._stations):
                break
            self._take_turns()

    def _release(self) -> None:
        self._stopping = True
        for station in self._stations:
            station.request_stop()
        until_s = time.monotonic() + RELEASE_S
        for station in self._stations:
            if not station.release(until_s - time.monotonic()):
                self.abandoned.append(station.name)
                log.warning("%s: the source does not give its thread back; it is abandoned", station.name)
        try:
            self._tell_status()
        finally:
            self._sink.close()

    def _take_turns(self) -> None:
        """One frame of each station that has one, so that none starves another; else a short wait."""
        self._wake.clear()
        judged = [self._judge_next(station) for station in self._stations]
        if not any(judged):
            self._wake.wait(WAIT_S)
        self._tell_status_when_due()
        self._notifier.progress()

    def _judge_next(self, station: Station) -> bool:
        frame = None if self._stop.forced else station.take()
        if frame is None:
            return False
        verdict = self._judge(station, frame)
        station.count(verdict)
        self._tell(verdict, frame)
        self._tell_status_when_due()
        self._notifier.progress()
        return True

    def _judge(self, station: Station, frame: AnyFrame) -> Verdict:
        try:
            return station.inspector.inspect(frame)
        except Exception as error:  # the daemon's boundary: a fault inside makes this frame invalid, not the line blind
            log.exception("%s: fault inside at frame %d", station.name, frame.frame_id)
            return station.inspector.invalid(frame, f"fault inside: {type(error).__name__}: {error}")

    def _tell(self, verdict: Verdict, frame: AnyFrame) -> None:
        try:
            self._sink.publish(verdict, frame)
        except Exception:  # the daemon's boundary: silence is reject, and a sink that is dead fails the next status
            log.exception("%s: frame %d could not be published in full", verdict.station, verdict.frame_id)

    def _tell_status_when_due(self) -> None:
        standings = {station.name: station.standing for station in self._stations}
        if standings != self._told or time.monotonic() >= self._status_due_s:
            self._tell_status()

    def _tell_status(self) -> None:
        self._status_due_s = time.monotonic() + STATUS_EVERY_S
        for station in self._stations:
            self._log_change(station)
            self._sink.publish_status(station.status(stopping=self._stopping))
        self._notifier.status(self._status_line())

    def _log_change(self, station: Station) -> None:
        state, message = standing = station.standing
        if self._told.get(station.name) != standing:
            self._told[station.name] = standing
            level = logging.WARNING if state is StationState.RECONNECTING else logging.INFO
            log.log(level, "%s: %s%s", station.name, state, f": {message}" if message else "")

    def _status_line(self) -> str:
        def told(station: Station) -> str:
            status = station.status(stopping=self._stopping)
            return f"{status.station} {status.state}" + (f" ({status.message})" if status.message else "")

        return "; ".join(map(told, self._stations))

    def _raise_fault(self) -> None:
        for station in self._stations:
            if station.fault is not None:
                raise station.fault


def _warm_up_frame(station: Station) -> Frame:
    """A picture of noise that the station's region of interest fits into: the first inference is the slowest."""
    x, y, w, h = station.inspector.manifest.roi or (0, 0, WARM_UP_PX, WARM_UP_PX)
    image = np.random.default_rng(0).integers(0, 256, (y + h, x + w, 3), dtype=np.uint8)
    now_ns, now_mono_ns = time.time_ns(), time.monotonic_ns()
    return Frame(station=station.name, frame_id=0, captured_at_ns=now_ns, captured_mono_ns=now_mono_ns, image=image)
