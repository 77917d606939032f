"""Whose frame is judged next, and what becomes of it: one verdict per frame, in order per station, in time."""

import time
from collections.abc import Callable, Sequence
from itertools import chain, islice

from edge_uad.inference.inspector import Inspector
from edge_uad.records import AnyFrame, Verdict
from edge_uad.runtime.station import Station
from edge_uad.runtime.workers import Job, Judge

DEADLINE_REASON = "deadline"

Tell = Callable[[Station, Verdict, AnyFrame], None]


class Turns:
    """Gives the stations their turns at the judge, one frame each, so that none starves another.

    One frame at a time has all cores. Where enough frames wait to keep each core busy with one of its own, they are
    judged side by side: all are done sooner so, each alone later. A batch of one inference holds frames of different
    stations. Everything here runs in the thread of the caller, which alone publishes: a verdict is told once, by
    whoever comes first, the judge or the clock.

    Args:
        stations: in any order.
        tell: publishes a verdict.
        wake: called, from the judge's threads, when a frame is judged.
        max_batch: frames of one inference.
        max_wait_ms: how long a frame waits for others while the judge is free.
        parallel_frames: frames judged at a time where so many wait, each in an inference of its own on one core; only
            with a ``max_batch`` of 1.
    """

    def __init__(
        self,
        stations: Sequence[Station],
        *,
        tell: Tell,
        wake: Callable[[], None],
        max_batch: int = 1,
        max_wait_ms: float = 0.0,
        parallel_frames: int = 1,
    ) -> None:
        if max_batch > 1 and parallel_frames > 1:
            raise ValueError("frames are judged in one inference or side by side, not both")
        self._stations = {station.name: station for station in stations}
        self._queue = list(stations)
        self._tell = tell
        self._judge = Judge(wake, parallel_frames=parallel_frames)
        self._parallel_frames = parallel_frames
        self._max_batch = min(max_batch, len(stations))
        self._max_wait_s = max_wait_ms / 1000
        self._waiting_since_s: float | None = None

    def start(self) -> None:
        """Begin."""
        self._judge.start()

    def warm_up(self, inspector: Inspector, frame: AnyFrame, *, go_on: Callable[[], bool]) -> None:
        """First inferences, the slowest ones, with all cores and side by side; their verdicts are told to nobody.

        Args:
            inspector: of a station.
            frame: none of a real part.
            go_on: waits a little for the judge; False where it is to be waited for no longer.

        Raises:
            Exception: the fault inside, where there is one: a daemon that cannot judge must not be ready.
        """
        for n in dict.fromkeys((1, self._parallel_frames)):
            jobs = [Job(inspector, frame, told=True) for _ in range(n)]
            self._judge.submit(jobs)
            while not self.free:
                self._judge.finished()
                if not self.free and not go_on():
                    return
            for job in jobs:
                if job.fault is not None:
                    raise job.fault

    @property
    def free(self) -> bool:
        """No frame is at the judge: what a station judges by may be changed."""
        return self._judge.free

    @property
    def owing(self) -> bool:
        """A frame at the judge still waits for its verdict."""
        return any(not job.told for job in self._judge.jobs)

    def collect(self) -> bool:
        """Tell what the clock and the judge have decided; whether there was anything."""
        told = self._tell_late()
        finished = self._judge.finished()
        for job in finished:
            if not job.told and job.verdict is not None:
                self._tell_job(job, job.verdict)
        return told or bool(finished)

    def dispatch(self) -> bool:
        """Hand the next frames to the judge; whether there were any."""
        waiting = [station for station in self._queue if station.waiting]
        if not waiting:
            self._waiting_since_s = None
        elif self._waiting_since_s is None:
            self._waiting_since_s = time.monotonic()
        if not waiting or not self.free or self._window_s(len(waiting)) > 0:
            return False
        jobs = [job for station in self._next_turns(waiting) if (job := self._job_of(station)) is not None]
        self._waiting_since_s = None
        if jobs:
            self._judge.submit(jobs)
        return bool(jobs)

    def next_due_s(self) -> float | None:
        """Seconds until the clock decides something by itself; None where it does not."""
        held = self._held()
        due_ns = [station.due_mono_ns for station in self._stations.values() if station.name not in held]
        due_ns += [self._due_mono_ns(job) for job in self._judge.jobs]
        times_s = [one_ns / 1e9 for one_ns in due_ns if one_ns is not None]
        if self.free and self._waiting_since_s is not None:
            times_s.append(self._waiting_since_s + self._max_wait_s)
        return max(min(times_s) - time.monotonic(), 0.0) if times_s else None

    def give_up(self, reason: str) -> None:
        """Frames at the judge get their verdict now."""
        for job in self._judge.jobs:
            if not job.told:
                self._tell_job(job, job.inspector.invalid(job.frame, reason))

    def close(self, timeout_s: float) -> bool:
        """End the judge's thread; False where an inference does not come back."""
        return self._judge.close(timeout_s)

    def _next_turns(self, waiting: Sequence[Station]) -> Sequence[Station]:
        """Whose frames are judged now; side by side, a station may have several turns."""
        frames = {station.name: station.waiting for station in waiting}
        if self._parallel_frames == 1 or sum(frames.values()) < self._parallel_frames:
            return waiting[: self._max_batch]
        rounds = ([one for one in waiting if frames[one.name] > turn] for turn in range(max(frames.values())))
        return list(islice(chain.from_iterable(rounds), self._parallel_frames))

    def _job_of(self, station: Station) -> Job | None:
        """The station's next frame; the station goes to the end of the queue."""
        self._queue.remove(station)
        self._queue.append(station)
        frame = station.take()
        return None if frame is None else Job(station.inspector, frame)

    def _window_s(self, waiting: int) -> float:
        """How long the frames that wait may still wait for others."""
        if waiting >= self._max_batch or self._waiting_since_s is None:
            return 0.0
        return self._waiting_since_s + self._max_wait_s - time.monotonic()

    def _tell_late(self) -> bool:
        """At their deadline: the frame at the judge, then those behind it, one of each station at a time."""
        now_ns = time.monotonic_ns()
        told = False
        for job in self._judge.jobs:
            due_ns = self._due_mono_ns(job)
            if due_ns is not None and due_ns <= now_ns:
                self._tell_job(job, job.inspector.invalid(job.frame, DEADLINE_REASON))
                told = True
        held = self._held()
        for station in self._stations.values():
            if station.name not in held and (frame := station.take_late(now_ns)) is not None:
                self._tell(station, station.inspector.invalid(frame, DEADLINE_REASON), frame)
                told = True
        return told

    def _held(self) -> set[str]:
        """Stations whose next frames must wait for the verdict of the one at the judge."""
        return {job.frame.station for job in self._judge.jobs if not job.told}

    def _due_mono_ns(self, job: Job) -> int | None:
        """When a frame at the judge has waited enough; None where it has its verdict or no deadline."""
        return None if job.told else self._stations[job.frame.station].due_of(job.frame.captured_mono_ns)

    def _tell_job(self, job: Job, verdict: Verdict) -> None:
        job.told = True
        self._tell(self._stations[job.frame.station], verdict, job.frame)
