"""The daemon: start, have frame after frame judged, tell how it stands, stop.

One thread runs this loop and alone publishes; the judge and each source have their own.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from edge_uad.interfaces import VerdictSink
from edge_uad.records import AnyFrame, Frame, StationState, StationStatus, Verdict
from edge_uad.runtime.background import BackgroundCall
from edge_uad.runtime.reload import BankReloader
from edge_uad.runtime.scheduler import Turns
from edge_uad.runtime.signals import Signals
from edge_uad.runtime.station import Station
from edge_uad.runtime.systemd import Notifier

STATUS_EVERY_S = 1.0
WAIT_S = 0.1
"""How long the loop sleeps where there is nothing to judge; a signal is seen after that at the latest."""
RELEASE_S = 1.0
"""What each thread is granted to leave a call when the time to drain is over."""
CLOSE_S = 10.0
"""What the sinks are granted to write and send what they hold; each has a shorter bound of its own."""
FORCED_S = 1.0
"""What remains of these once a second signal has come."""
WARM_UP_PX = 256

log = logging.getLogger("edge_uad.runtime.daemon")


class Daemon:
    """Has the frames of its stations judged in turn until told to stop, or until every source has ended.

    Args:
        stations: made with ``wake.set``, not started.
        sink: where verdicts and heartbeats go; closed at the end.
        wake: set by the stations when there is something to do.
        stop: asked between frames.
        notifier: the service manager.
        banks: the stations' bank files, where they may be replaced while the line runs; made with ``wake.set``.
        max_batch: frames of different stations in one inference.
        max_wait_ms: how long a frame waits for those of other stations.
        parallel_frames: frames judged at a time where so many wait; see ``Turns``.
        stop_timeout_s: how long a stop may take to judge what is queued.
    """

    def __init__(
        self,
        *,
        stations: Sequence[Station],
        sink: VerdictSink,
        wake: threading.Event,
        stop: Signals,
        notifier: Notifier | None = None,
        banks: BankReloader | None = None,
        max_batch: int = 1,
        max_wait_ms: float = 0.0,
        parallel_frames: int = 1,
        stop_timeout_s: float = 5.0,
    ) -> None:
        self._stations = list(stations)
        self._sink = sink
        self._wake = wake
        self._stop = stop
        self._notifier = notifier or Notifier()
        self._banks = banks
        self._turns = Turns(
            stations,
            tell=self._tell,
            wake=wake.set,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            parallel_frames=parallel_frames,
        )
        self._stop_timeout_s = stop_timeout_s
        self._ready = self._stopping = False
        self._status_due_s = 0.0
        self._told: dict[str, tuple[StationState, str | None]] = {}
        self.stuck_threads: list[str] = []
        """What never gave its thread back: a station's source, an inference, a sink."""

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
        self._tell_status()
        self._turns.start()
        for station in self._stations:
            if not self._stop.requested:
                self._turns.warm_up(station.inspector, _warm_up_frame(station), go_on=self._warm_up_goes_on)
        self._raise_fault()
        if not self._stop.requested:
            self._ready = True
            self._tell_status()
            self._notifier.ready()
            log.info("ready")

    def _warm_up_goes_on(self) -> bool:
        self._wake.wait(WAIT_S)
        self._wake.clear()
        self._tell_status_when_due()
        return not self._stop.requested

    def _main_loop(self) -> None:
        while not self._stop.requested:
            ended = self._ended()
            self._raise_fault()  # after the question: a fault ends its station, too
            if ended:
                return
            self._take_turn()

    def _drain(self) -> None:
        """Judge what the sources have already given, within the bound."""
        self._stopping = True
        self._notifier.stopping()
        for station in self._stations:
            station.request_stop()
        deadline_s = time.monotonic() + self._stop_timeout_s
        while not self._stop.forced and time.monotonic() < deadline_s and not self._ended():
            self._take_turn()

    def _release(self) -> None:
        """Let go of everything, in this order, whatever fails of it."""
        self._stopping = True
        with contextlib.ExitStack() as last:
            last.callback(self._close_sink)
            last.callback(self._tell_status)
            last.callback(self._end_threads)
            self._turns.give_up("the daemon was stopped before this frame was judged")

    def _end_threads(self) -> None:
        for station in self._stations:
            station.request_stop()
        if not self._waited(self._turns.close, RELEASE_S):
            self.stuck_threads.append("inference")
            log.warning("an inference does not come back; it is stuck_threads")
        until_s = time.monotonic() + RELEASE_S
        for station in self._stations:
            if not self._waited(station.release, until_s - time.monotonic()):
                self.stuck_threads.append(station.name)
                log.warning("%s: the source does not give its thread back; it is stuck_threads", station.name)

    def _close_sink(self) -> None:
        """In a thread of its own: a disk that does not answer must not keep a second signal waiting."""
        closing = BackgroundCall(self._sink.close, name="close")
        if not self._waited(closing.ended, CLOSE_S):
            self.stuck_threads.append("sinks")
            log.warning("what is published and kept is not closed in time; it is stuck_threads")
            return
        closing.result()

    def _waited(self, ended: Callable[[float], bool], timeout_s: float) -> bool:
        """Whether it ended in time, asked again and again; from the second signal on that time is short."""
        until_s, forced = time.monotonic() + timeout_s, False
        while not ended(min(WAIT_S, max(until_s - time.monotonic(), 0.0))):
            if self._stop.forced and not forced:
                until_s, forced = min(until_s, time.monotonic() + FORCED_S), True
            if time.monotonic() >= until_s:
                return False
        return True

    def _ended(self) -> bool:
        return all(station.ended for station in self._stations) and not self._turns.owing

    def _take_turn(self) -> None:
        """Tell what is decided, hand over what waits; where there is neither, wait a little."""
        self._wake.clear()
        told = self._turns.collect()
        if self._turns.free:  # an inference came back, or none is under way: the watchdog is not fed during one
            self._notifier.progress()
            self._change_banks()
        handed = not self._stop.forced and self._turns.dispatch()
        if not told and not handed:
            due_s = self._turns.next_due_s()
            self._wake.wait(WAIT_S if due_s is None else min(WAIT_S, due_s))
        for station in self._stations:
            station.replace_hung_reader()
        self._tell_status_when_due()

    def _change_banks(self) -> None:
        """Between two frames: no station has one at the judge."""
        if self._banks is None or self._stopping:
            return
        if self._stop.take_reload():
            log.info("the banks are read again, as asked")
            self._banks.ask()
        self._banks.look()
        while (new := self._banks.take()) is not None:
            for station in self._stations:
                if station.bank == new.path:
                    station.change_bank(new)
            self._tell_status()

    def _tell(self, station: Station, verdict: Verdict, frame: AnyFrame) -> None:
        station.count(verdict)
        try:
            self._sink.publish(verdict, frame)
        except Exception:  # the daemon's boundary: silence is reject, and a sink that is dead fails the next status
            log.exception("%s: frame %d could not be published in full", verdict.station, verdict.frame_id)
        self._tell_status_when_due()

    def _tell_status_when_due(self) -> None:
        standings = {station.name: station.standing for station in self._stations}
        if standings != self._told or time.monotonic() >= self._status_due_s:
            self._tell_status()

    def _tell_status(self) -> None:
        self._status_due_s = time.monotonic() + STATUS_EVERY_S
        for station in self._stations:
            self._log_change(station)
            self._sink.publish_status(self._status(station))
        self._notifier.status(self._status_line())

    def _status(self, station: Station) -> StationStatus:
        return station.status(ready=self._ready, stopping=self._stopping)

    def _log_change(self, station: Station) -> None:
        state, message = standing = station.standing
        if self._told.get(station.name) != standing:
            self._told[station.name] = standing
            level = logging.WARNING if state is StationState.RECONNECTING else logging.INFO
            log.log(level, "%s: %s%s", station.name, state, f": {message}" if message else "")

    def _status_line(self) -> str:
        def told(station: Station) -> str:
            status = self._status(station)
            return f"{status.station} {status.state}" + (f" ({status.message})" if status.message else "")

        if not self._ready and not self._stopping:
            return "warming up"
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
