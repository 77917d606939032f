"""The daemon: start every thread, supervise them, stop.

The main thread judges nothing, publishes no verdict and touches no file: it handles signals, publishes the heartbeat,
takes over reloaded banks, replaces hung readers and feeds the watchdog.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from edge_uad.inference.inspector import Inspector
from edge_uad.interfaces import VerdictSink, WatchedSink
from edge_uad.records import Frame, StationState, StationStatus
from edge_uad.runtime.background import BackgroundCall
from edge_uad.runtime.publisher import Publisher
from edge_uad.runtime.reload import BankReloader
from edge_uad.runtime.scheduler import Job, Scheduler
from edge_uad.runtime.signals import Signals
from edge_uad.runtime.station import Station
from edge_uad.runtime.systemd import Notifier
from edge_uad.runtime.workers import WorkerPool
from edge_uad.sources.triggers.receiver import TriggerReceiver

HEARTBEAT_EVERY_S = 1.0
POLL_EVERY_S = 0.1
"""How often the main thread checks signals and states; a change of a state wakes it at once."""
RELEASE_S = 1.0
"""What each thread is granted to leave a call when the time to drain is over."""
CLOSE_S = 10.0
"""What the outputs are granted to write and send what they hold; each has its own, shorter bound."""
FORCED_S = 1.0
"""What remains of these once a second signal has come."""
WARM_UP_PX = 256
STOPPED_REASON = "the daemon was stopped before this frame was judged"

log = logging.getLogger("edge_uad.runtime.daemon")


class Daemon:
    """Has the frames of its stations judged until told to stop, or until every source has ended.

    Args:
        stations: not started.
        sink: where verdicts and heartbeats go; closed at the end.
        stop: requests of the operator and the service manager.
        notifier: the service manager.
        banks: the stations' bank files, where they may be replaced while the line runs; not started.
        triggers: a socket for the stations' triggers, bound and not started.
        max_batch: frames of different stations in one inference.
        max_wait_ms: how long a frame waits for those of other stations, to fill a batch.
        parallel_frames: frames judged at the same time, each on one core; see ``Scheduler``.
        stop_timeout_s: how long a stop may take to judge what is queued.
    """

    def __init__(
        self,
        *,
        stations: Sequence[Station],
        sink: VerdictSink,
        stop: Signals,
        notifier: Notifier | None = None,
        banks: BankReloader | None = None,
        triggers: TriggerReceiver | None = None,
        max_batch: int = 1,
        max_wait_ms: float = 0.0,
        parallel_frames: int = 1,
        stop_timeout_s: float = 5.0,
    ) -> None:
        self._stations = list(stations)
        self._sink = sink
        self._wake = threading.Event()
        self._stop = stop
        self._notifier = notifier or Notifier()
        self._banks = banks
        self._triggers = triggers
        self._parallel_frames = parallel_frames
        self._scheduler = Scheduler(
            stations,
            n_workers=parallel_frames,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            is_forced=lambda: stop.forced,
        )
        self._workers = WorkerPool(self._scheduler, parallel_frames)
        self._publisher = Publisher(self._scheduler, sink)
        self._stop_timeout_s = stop_timeout_s
        self._ready = self._stopping = False
        self._heartbeat_due_s = 0.0
        self._published_states: dict[str, tuple[StationState, str | None]] = {}
        self._oldest_running: Job | None = None
        self._banks_stalled = False
        self.stuck_threads: list[str] = []
        """Threads that did not end: a station's source, an inference, an output."""

    def run(self) -> int:
        """Run until stopped.

        Returns:
            The exit code.

        Raises:
            EdgeUadError: a station cannot work as configured, such as an endpoint in use.
        """
        try:
            self._startup()
            self._main_loop()
            self._drain()
        finally:
            self._release()
        return 0

    def _startup(self) -> None:
        self._publisher.start()
        for station in self._stations:
            station.start(on_frame=self._scheduler.wake, on_change=self._wake.set)
        self._publish_heartbeat()
        self._warm_up()
        self._raise_fault()
        if self._stop.requested:
            return
        self._ready = True
        self._publish_heartbeat()
        self._notifier.ready()
        log.info("ready")
        self._workers.start()
        if self._triggers is not None:
            self._triggers.start()
        if self._banks is not None:
            self._banks.start(on_result=self._wake.set)

    def _warm_up(self) -> None:
        """The first inferences are the slowest: they are made before the first frame is judged.

        Raises:
            Exception: the fault inside, where there is one: a daemon that cannot judge must not be ready.
        """
        for station in self._stations:
            inspector, frame = station.inspector, _warm_up_frame(station)
            self._inspect_all([inspector], frame)
            if self._parallel_frames > 1:
                self._inspect_all([inspector.on_one_core] * self._parallel_frames, frame)

    def _inspect_all(self, inspectors: Sequence[Inspector], frame: Frame) -> None:
        """One frame by each of them at the same time, left behind where a stop is requested meanwhile."""
        if self._stop.requested:
            return
        calls = [BackgroundCall(partial(inspector.inspect, frame), name="warm-up") for inspector in inspectors]
        for call in calls:
            while not self._stop.requested and not call.ended(POLL_EVERY_S):
                self._publish_heartbeat_when_due()
            if not self._waited(call.ended, RELEASE_S):
                self._note_stuck("inference", "an inference does not return; it is left behind")
                return
            call.result()

    def _main_loop(self) -> None:
        while not self._stop.requested:
            ended = self._ended()
            self._raise_fault()  # after the question: a fault ends its station, too
            if ended:
                return
            self._supervise()

    def _drain(self) -> None:
        """Have what the sources have already given judged, within the bound."""
        self._stopping = True
        self._notifier.stopping()
        if self._triggers is not None:
            self._triggers.request_stop()
        for station in self._stations:
            station.request_stop()
        deadline_s = time.monotonic() + self._stop_timeout_s
        while not self._stop.forced and time.monotonic() < deadline_s and not self._ended():
            self._supervise()

    def _release(self) -> None:
        """End every thread and close the outputs, in this order, whatever fails of it."""
        self._stopping = True
        with contextlib.ExitStack() as last:
            last.callback(self._close_sink)
            last.callback(self._publish_heartbeat)
            last.callback(self._end_threads)
            if self._banks is not None:
                self._banks.stop()
            if self._triggers is not None:
                self._triggers.request_stop()
            for station in self._stations:
                station.request_stop()
            self._scheduler.stop_dispatching()
            self._scheduler.fail_pending(STOPPED_REASON)
            self._scheduler.close()

    def _end_threads(self) -> None:
        if not self._waited(self._publisher.join, RELEASE_S):
            self._note_stuck("publisher", "an output does not take a verdict; it is left behind")
        if not self._waited(self._workers.join, RELEASE_S):
            self._note_stuck("inference", "an inference does not return; it is left behind")
        if self._triggers is not None and not self._waited(self._triggers.join, RELEASE_S):
            self._note_stuck("triggers", "the socket for triggers does not close; it is left behind")
        until_s = time.monotonic() + RELEASE_S
        for station in self._stations:
            if not self._waited(station.release, until_s - time.monotonic()):
                message = f"{station.name}: the source does not return its thread; it is left behind"
                self._note_stuck(station.name, message)

    def _close_sink(self) -> None:
        """In a background thread: a disk that does not answer must not keep a second signal waiting."""
        closing = BackgroundCall(self._sink.close, name="close")
        if not self._waited(closing.ended, CLOSE_S):
            self._note_stuck("outputs", "the outputs do not close in time; they are left behind")
            return
        closing.result()

    def _note_stuck(self, thread: str, message: str) -> None:
        if thread not in self.stuck_threads:
            self.stuck_threads.append(thread)
            log.warning("%s", message)

    def _waited(self, ended: Callable[[float], bool], timeout_s: float) -> bool:
        """Whether it ended in time, polled; from the second signal on that time is short."""
        until_s, forced = time.monotonic() + timeout_s, False
        while not ended(min(POLL_EVERY_S, max(until_s - time.monotonic(), 0.0))):
            if self._stop.forced and not forced:
                until_s, forced = min(until_s, time.monotonic() + FORCED_S), True
            if time.monotonic() >= until_s:
                return False
        return True

    def _ended(self) -> bool:
        return all(station.ended for station in self._stations) and not self._scheduler.has_unpublished

    def _supervise(self) -> None:
        """One round of the main thread; waits a little where nothing has changed."""
        self._feed_watchdog()
        self._reload_banks()
        for station in self._stations:
            station.replace_hung_reader()
        self._publish_heartbeat_when_due()
        self._wake.wait(POLL_EVERY_S)
        self._wake.clear()

    def _feed_watchdog(self) -> None:
        """Progress: no inference is under way, or the one that was the oldest has returned since the last round."""
        oldest = self._scheduler.oldest_running
        if oldest is None or (self._oldest_running is not None and oldest is not self._oldest_running):
            self._notifier.progress()
            if isinstance(self._sink, WatchedSink):
                self._sink.feed_watchdog()
        self._oldest_running = oldest

    def _reload_banks(self) -> None:
        if self._banks is None or self._stopping:
            return
        if self._stop.take_reload():
            log.info("the banks are read again, as requested")
            self._banks.request()
        self._report_stalled_files(self._banks)
        while (new := self._banks.result()) is not None:
            for station in self._stations:
                if station.bank == new.path:
                    station.change_bank(new)
            self._publish_heartbeat()

    def _report_stalled_files(self, banks: BankReloader) -> None:
        stalled_s = banks.stalled_s()
        if stalled_s and not self._banks_stalled:
            log.warning("the bank files have not answered for %.0f s; the banks in memory go on", stalled_s)
        elif self._banks_stalled and not stalled_s:
            log.info("the bank files answer again")
        self._banks_stalled = stalled_s > 0

    def _publish_heartbeat_when_due(self) -> None:
        states = {station.name: station.state for station in self._stations}
        if states != self._published_states or time.monotonic() >= self._heartbeat_due_s:
            self._publish_heartbeat()

    def _publish_heartbeat(self) -> None:
        self._heartbeat_due_s = time.monotonic() + HEARTBEAT_EVERY_S
        for station in self._stations:
            self._log_change(station)
            self._sink.publish_status(self._status(station))
        self._notifier.status(self._status_line())

    def _status(self, station: Station) -> StationStatus:
        return station.status(ready=self._ready, stopping=self._stopping)

    def _log_change(self, station: Station) -> None:
        state, message = station.state
        if self._published_states.get(station.name) != (state, message):
            self._published_states[station.name] = (state, message)
            level = logging.WARNING if state is StationState.RECONNECTING else logging.INFO
            log.log(level, "%s: %s%s", station.name, state, f": {message}" if message else "")

    def _status_line(self) -> str:
        def line_of(station: Station) -> str:
            status = self._status(station)
            return f"{status.station} {status.state}" + (f" ({status.message})" if status.message else "")

        if not self._ready and not self._stopping:
            return "warming up"
        return "; ".join(map(line_of, self._stations))

    def _raise_fault(self) -> None:
        for station in self._stations:
            if station.fault is not None:
                raise station.fault


def _warm_up_frame(station: Station) -> Frame:
    """A frame of noise that the station's region of interest fits into."""
    manifest = station.inspector.manifest
    height, width = WARM_UP_PX, WARM_UP_PX
    if manifest.roi is not None:
        x, y, w, h = manifest.roi
        height, width = manifest.image_hw or (y + h, x + w)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    now_ns, now_mono_ns = time.time_ns(), time.monotonic_ns()
    return Frame(station=station.name, frame_id=0, captured_at_ns=now_ns, captured_mono_ns=now_mono_ns, image=image)
