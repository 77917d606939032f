"""Which frame is judged next, and in which order verdicts are published: the one monitor between all threads.

Capture threads wake it, workers take jobs from it and return verdicts to it, the publisher takes decided verdicts in
the order of each station. Everything is guarded by one lock, which is never held while a frame is judged or published.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_uad.inference.inspector import Inspector
from edge_uad.records import AnyFrame, TriggerFailure, UnreadableFrame, Verdict
from edge_uad.runtime.station import Station

DEADLINE_REASON = str(TriggerFailure.DEADLINE)


@dataclass(slots=True, eq=False)
class Job:
    """One frame on its way through a worker; its inspector stays the same whatever bank is loaded meanwhile."""

    station: Station
    inspector: Inspector
    frame: AnyFrame
    verdict: Verdict | None = None
    """Set by ``Scheduler.finish``, at the deadline, or at the stop, whichever comes first."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A verdict whose turn to be published has come."""

    station: Station
    verdict: Verdict
    frame: AnyFrame


class Scheduler:
    """Round robin over the stations that have a frame waiting; one verdict per frame, in order per station.

    A station in mode ``latest`` has one frame at a time at the workers, so that the next one taken is the newest; one
    in mode ``every`` may have several.

    A frame that is alone (no other at a worker, none waiting) is judged with all cores, the shortest way to its
    verdict. Any other is judged on one core: frames judged at the same time never wait for each other's threads.

    Args:
        stations: in any order.
        n_workers: threads that will call ``next_jobs``; above 1 only with a ``max_batch`` of 1.
        max_batch: frames of different stations in one inference.
        max_wait_ms: how long a frame may wait for those of other stations, to fill a batch.
        is_forced: whether to leave at once; no more work is given out from that moment on.
    """

    def __init__(
        self,
        stations: Sequence[Station],
        *,
        n_workers: int = 1,
        max_batch: int = 1,
        max_wait_ms: float = 0.0,
        is_forced: Callable[[], bool] = lambda: False,
    ) -> None:
        if max_batch > 1 and n_workers > 1:
            raise ValueError("frames are judged in one batch or by several workers, not both")
        self._stations = tuple(stations)
        self._round = list(stations)
        self._is_forced = is_forced
        self._n_workers = n_workers
        self._max_batch = min(max_batch, len(stations))
        self._max_wait_s = max_wait_ms / 1000
        self._waiting_since_s: float | None = None
        self._unpublished: dict[str, deque[Job]] = {station.name: deque() for station in stations}
        """Jobs taken and not published yet, in the order of taking."""
        self._running: dict[Job, None] = {}
        """Jobs at a worker, oldest first; one whose deadline has passed stays here until its inference returns."""
        self._n_publishing = 0
        self._dispatching = True
        self._closed = False
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        """A frame came, a job ended, or no more work is given out: for the workers."""
        self._decisions = threading.Condition(lock)
        """A verdict is there, a deadline may be nearer, or this is closed: for the publisher."""

    # capture threads

    def wake(self) -> None:
        """A frame has come."""
        with self._work:
            self._work.notify()
            self._decisions.notify()

    # workers

    def next_jobs(self) -> Sequence[Job] | None:
        """The frames to judge next, waiting until there are any.

        Returns:
            One job, or up to ``max_batch`` of different stations; None once no more work is given out.
        """
        with self._work:
            while self._dispatching and not self._is_forced():
                jobs = self._take()
                if jobs:
                    return jobs
                self._work.wait(self._window_s())
            return None

    def finish(self, job: Job, verdict: Verdict) -> None:
        """A worker's verdict; ignored where the frame was given one already, at its deadline or at the stop."""
        with self._work:
            del self._running[job]
            if job.verdict is None:
                job.verdict = verdict
            self._decisions.notify()
            self._work.notify()  # its station may have been waiting for this

    def stop_dispatching(self) -> None:
        """Give out no more work; the workers end after the frames they have."""
        with self._work:
            self._dispatching = False
            self._work.notify_all()

    # publisher

    def next_decided(self) -> list[Decided] | None:
        """Verdicts to publish now, in order per station, waiting until there are any.

        Calling it again confirms that the former ones are published.

        Returns:
            One of each station that has any; None once this is closed and everything is published.
        """
        with self._decisions:
            self._n_publishing = 0
            while True:
                decided = self._take_decided()
                if decided:
                    self._n_publishing = len(decided)
                    return decided
                if self._closed:
                    return None
                self._decisions.wait(self._next_deadline_s())

    def fail_pending(self, reason: str) -> None:
        """Frames at the workers get an *invalid* verdict now; what their inference returns later is ignored.

        So does each trigger that still waits, for its frame or for a worker.
        """
        for station in self._stations:
            station.end_triggers()  # without the lock: it wakes this
        with self._decisions:
            for station in self._stations:
                jobs = self._unpublished[station.name]
                while station.is_triggered and (frame := station.take()) is not None:
                    jobs.append(Job(station, station.inspector, frame))
                for job in jobs:
                    if job.verdict is None:
                        job.verdict = job.inspector.invalid(job.frame, _stop_reason(job.frame, reason))
            self._decisions.notify()

    def close(self) -> None:
        """End ``next_decided`` once everything decided is published."""
        with self._decisions:
            self._closed = True
            self._decisions.notify()

    # supervision

    @property
    def has_unpublished(self) -> bool:
        """A frame was taken whose verdict is not published yet."""
        with self._work:
            return self._n_publishing > 0 or any(self._unpublished.values())

    @property
    def oldest_running(self) -> Job | None:
        """The job that has been at a worker for the longest time; None where no inference is under way."""
        with self._work:
            return next(iter(self._running), None)

    def _take(self) -> list[Job]:
        for station in self._round:
            self._fail_late(station)
        ready = [station for station in self._round if station.waiting and self._may_start(station)]
        if not ready:
            self._waiting_since_s = None
            return []
        if self._waiting_since_s is None:
            self._waiting_since_s = time.monotonic()
        if len(ready) < self._max_batch and self._window_s() != 0:
            return []
        self._waiting_since_s = None
        alone = not self._running and sum(station.waiting for station in ready) == 1
        return [job for station in ready[: self._max_batch] if (job := self._job_of(station, alone=alone)) is not None]

    def _may_start(self, station: Station) -> bool:
        return station.mode == "every" or not self._unpublished[station.name]

    def _job_of(self, station: Station, *, alone: bool) -> Job | None:
        """The station's next frame; the station goes to the end of the round."""
        self._round.remove(station)
        self._round.append(station)
        frame = station.take()
        if frame is None:  # a newer one was announced and is not there: the queue was closed
            return None
        inspector = station.inspector if alone or self._n_workers == 1 else station.inspector.on_one_core
        job = Job(station, inspector, frame)
        self._unpublished[station.name].append(job)
        self._running[job] = None
        return job

    def _window_s(self) -> float | None:
        """Seconds for which the waiting frames may still wait for others; None where none waits."""
        if self._waiting_since_s is None:
            return None
        return max(self._waiting_since_s + self._max_wait_s - time.monotonic(), 0.0)

    def _take_decided(self) -> list[Decided]:
        now_mono_ns = time.monotonic_ns()
        decided = []
        for station in self._round:
            jobs = self._unpublished[station.name]
            if not jobs:
                self._fail_late(station)
            if jobs and (verdict := self._verdict_of(jobs[0], now_mono_ns)) is not None:
                decided.append(Decided(station, verdict, jobs.popleft().frame))
        if decided:
            self._work.notify()  # a station in mode ``latest`` may start its next frame
        return decided

    def _fail_late(self, station: Station) -> None:
        """What needs no inference gets its verdict: frames and triggers that are late, triggers without a picture."""
        while (frame := station.take_late(time.monotonic_ns())) is not None:
            self._unpublished[station.name].append(
                Job(station, station.inspector, frame, station.inspector.invalid(frame, _late_reason(station, frame)))
            )
            self._decisions.notify()

    def _verdict_of(self, job: Job, now_mono_ns: int) -> Verdict | None:
        """The worker's verdict, or that of the deadline where it has passed."""
        if job.verdict is None:
            deadline_mono_ns = job.station.deadline_of(job.frame.counted_from_mono_ns)
            if deadline_mono_ns is not None and deadline_mono_ns <= now_mono_ns:
                job.verdict = job.inspector.invalid(job.frame, DEADLINE_REASON)
        return job.verdict

    def _next_deadline_s(self) -> float | None:
        """Seconds until the next deadline that a verdict may be given at; None where there is none."""
        deadlines_ns = []
        for station in self._round:
            jobs = self._unpublished[station.name]
            # a frame in the queue is not published before those of its station at the workers
            next_ns = station.deadline_of(jobs[0].frame.counted_from_mono_ns) if jobs else station.next_deadline_mono_ns
            if next_ns is not None:
                deadlines_ns.append(next_ns)
        return max(min(deadlines_ns) / 1e9 - time.monotonic(), 0.0) if deadlines_ns else None


def _late_reason(station: Station, frame: AnyFrame) -> str:
    """A trigger for which no picture came says why; any other frame came and was not judged in time."""
    if station.is_triggered and isinstance(frame, UnreadableFrame):
        return frame.reason
    return DEADLINE_REASON


def _stop_reason(frame: AnyFrame, reason: str) -> str:
    if frame.trigger_id is None:
        return reason
    return frame.reason if isinstance(frame, UnreadableFrame) else str(TriggerFailure.STOPPING)
