"""In whatever order inferences end: one verdict per frame, in order per station, and no station is starved."""

import dataclasses
import time
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_uad.records import QueueMode, Verdict
from edge_uad.runtime.scheduler import Job, Scheduler
from edge_uad.runtime.station import Station
from tests.fakes import ScriptedSource, frame, green_inspector

INSPECTOR = green_inspector()


def station(name: str, mode: QueueMode = "every", deadline_ms: float | None = None) -> Station:
    return Station(
        name=name, source=ScriptedSource(), inspector=INSPECTOR, mode=mode, queue_frames=1000, deadline_ms=deadline_ms
    )


def put(one: Station, frame_id: int, *, age_s: float = 0.0) -> None:
    """A frame, as the capture thread puts it."""
    new = frame(frame_id, station=one.name)
    assert one._queue.put(_aged(new, age_s))


def _aged(new, age_s):  # type: ignore[no-untyped-def]
    return dataclasses.replace(new, captured_mono_ns=new.captured_mono_ns - round(age_s * 1e9))


def verdict_of(job: Job) -> Verdict:
    return job.inspector.invalid(job.frame, "judged")


def test_more_than_one_worker_and_batches_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        Scheduler([station("a")], n_workers=2, max_batch=2)


def test_stations_take_turns_whatever_they_have_waiting() -> None:
    flooding, quiet = station("flooding"), station("quiet")
    scheduler = Scheduler([flooding, quiet], n_workers=4)
    for frame_id in range(10):
        put(flooding, frame_id)
    put(quiet, 0)
    put(quiet, 1)
    taken = [jobs[0].station.name for _ in range(4) if (jobs := scheduler.next_jobs())]
    assert taken == ["flooding", "quiet", "flooding", "quiet"]


def test_a_job_that_is_decided_at_the_stop_keeps_that_verdict() -> None:
    one = station("a")
    scheduler = Scheduler([one])
    put(one, 0)
    jobs = scheduler.next_jobs()
    assert jobs is not None
    scheduler.fail_pending("stopped")
    scheduler.finish(jobs[0], verdict_of(jobs[0]))
    scheduler.close()
    assert [decided.verdict.reason for decided in drained(scheduler)] == ["stopped"]
    assert not scheduler.has_unpublished


def test_no_work_is_given_out_after_the_stop() -> None:
    one = station("a")
    scheduler = Scheduler([one])
    put(one, 0)
    scheduler.stop_dispatching()
    assert scheduler.next_jobs() is None
    assert one.waiting == 1


def drained(scheduler: Scheduler) -> Iterator[object]:  # type: ignore[type-arg]
    while (decided := scheduler.next_decided()) is not None:
        yield from decided


class Frames(RuleBasedStateMachine):
    """Three stations: one ``every``, one ``latest``, one ``every`` with a deadline; any number of workers."""

    @initialize(n_workers=st.integers(1, 4))
    def begin(self, n_workers: int) -> None:
        self.stations = [station("every"), station("latest", "latest"), station("timed", deadline_ms=60_000)]
        self.scheduler = Scheduler(self.stations, n_workers=n_workers)
        self.n_workers = n_workers
        self.running: list[Job] = []
        self.put = {one.name: 0 for one in self.stations}
        self.published: dict[str, list[tuple[int, str | None]]] = {one.name: [] for one in self.stations}
        self.late: set[int] = set()

    @rule(index=st.integers(0, 2))
    def frame_comes(self, index: int) -> None:
        self._put(index, 0.0)

    @rule()
    def frame_comes_too_late(self) -> None:
        self.late.add(self.put["timed"])
        self._put(2, 120.0)

    def _put(self, index: int, age_s: float) -> None:
        one = self.stations[index]
        put(one, self.put[one.name], age_s=age_s)
        self.put[one.name] += 1
        self.scheduler.wake()

    @precondition(lambda self: len(self.running) < self.n_workers)
    @rule()
    def worker_is_free(self) -> None:
        with self.scheduler._work:
            self.running += self.scheduler._take()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def inference_ends(self, data: st.DataObject) -> None:
        job = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.scheduler.finish(job, verdict_of(job))

    @rule()
    def publisher_publishes(self) -> None:
        with self.scheduler._decisions:
            decided = self.scheduler._take_decided()
        for one in decided:
            self.published[one.station.name].append((one.frame.frame_id, one.verdict.reason))

    @invariant()
    def published_in_order_once(self) -> None:
        for name, published in getattr(self, "published", {}).items():
            ids = [frame_id for frame_id, _ in published]
            assert ids == sorted(set(ids))
            if name != "latest":
                assert ids == list(range(len(ids)))

    @invariant()
    def the_latest_station_has_one_frame_at_the_workers(self) -> None:
        assert sum(job.station.name == "latest" for job in getattr(self, "running", [])) <= 1

    def teardown(self) -> None:
        """Everything that was put is judged or counted."""
        if not hasattr(self, "scheduler"):
            return
        while self.running or any(one.waiting for one in self.stations):
            if self.running:
                job = self.running.pop()
                self.scheduler.finish(job, verdict_of(job))
            self.publisher_publishes()
            self.worker_is_free()
        for _ in range(sum(self.put.values())):
            self.publisher_publishes()
        assert not any(self.scheduler._unpublished.values())
        assert self.scheduler.oldest_running is None
        for one in self.stations:
            stats = one._queue.stats()
            assert len(self.published[one.name]) == stats.taken
            assert stats.taken + stats.dropped == self.put[one.name]
        assert {frame_id for frame_id, reason in self.published["timed"] if reason == "deadline"} == self.late


TestFrames = Frames.TestCase
TestFrames.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_publisher_sleeps_until_the_next_deadline() -> None:
    one = station("a", deadline_ms=1000)
    scheduler = Scheduler([one])
    assert scheduler._next_deadline_s() is None
    put(one, 0, age_s=0.4)
    due_s = scheduler._next_deadline_s()
    assert due_s is not None
    assert 0 < due_s <= 0.6
    began_s = time.monotonic()
    decided = scheduler.next_decided()
    assert decided is not None
    assert decided[0].verdict.reason == "deadline"
    assert time.monotonic() - began_s >= due_s - 0.01
