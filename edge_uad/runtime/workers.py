"""Inference in threads of its own: whoever waits for a verdict can stop waiting for it."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_uad.inference.inspector import Inspector, inspect_together
from edge_uad.records import AnyFrame, Verdict

log = logging.getLogger("edge_uad.runtime.workers")


@dataclass(slots=True, eq=False)
class Job:
    """One frame, and the inspector that judges it from beginning to end, whatever bank comes meanwhile."""

    inspector: Inspector
    frame: AnyFrame
    verdict: Verdict | None = None
    """Filled in by the judge."""
    fault: Exception | None = None
    """What went wrong inside, where the verdict is *invalid* for it."""
    told: bool = False
    """A verdict was published: what the judge still says is late."""


class Judge:
    """Judges one batch at a time. All but the inference happens in the caller's thread.

    Args:
        wake: called, from a thread of the judge, when there may be something finished.
        parallel_frames: above 1, the frames of a batch are no inference together but one each, so many at a time, each
            on one core.
    """

    def __init__(self, wake: Callable[[], None], *, parallel_frames: int = 1) -> None:
        self._wake = wake
        self._parallel_frames = parallel_frames
        self._shared = False
        """The batch at hand is judged side by side."""
        self._asked: queue.SimpleQueue[Sequence[Job] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Sequence[Job]] = queue.SimpleQueue()
        # daemon threads: an inference that never ends must not keep the process alive
        self._threads = [
            threading.Thread(target=self._run, name=f"judge-{number}", daemon=True) for number in range(parallel_frames)
        ]
        self._judged: set[int] = set()
        """Of the batch: which came back."""
        self._given = 0
        """Of the batch: how many ``finished`` has given."""
        self.jobs: Sequence[Job] = ()
        """What is being judged: from ``submit`` until ``finished`` has given the last of it."""

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    @property
    def free(self) -> bool:
        """Nothing is being judged."""
        return not self.jobs

    def submit(self, jobs: Sequence[Job]) -> None:
        """Judge a batch; only while ``free``."""
        self.jobs, self._given = jobs, 0
        self._judged.clear()
        self._shared = self._parallel_frames > 1 and len(jobs) > 1
        for some in [[job] for job in jobs] if self._shared else [jobs]:
            self._asked.put(some)

    def finished(self) -> Sequence[Job]:
        """Those judged since the last call, none before the ones ahead of it in the batch. Never blocks."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._judged.update(map(id, self._done.get_nowait()))
        before = self._given
        while self._given < len(self.jobs) and id(self.jobs[self._given]) in self._judged:
            self._given += 1
        finished = self.jobs[before : self._given]
        if self._given == len(self.jobs):
            self.jobs = ()
        return finished

    def close(self, timeout_s: float) -> bool:
        """End the threads; False where an inference does not come back."""
        until_s = time.monotonic() + timeout_s
        started = [thread for thread in self._threads if thread.ident is not None]
        for _ in started:
            self._asked.put(None)
        for thread in started:
            thread.join(max(until_s - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in started)

    def _run(self) -> None:
        while (jobs := self._asked.get()) is not None:
            _judge(jobs, on_one_core=self._shared)
            self._done.put(jobs)
            self._wake()


def _judge(jobs: Sequence[Job], *, on_one_core: bool) -> None:
    """All in one inference; where that fails, each alone, so that the fault stays with the frame that has it."""
    if len(jobs) > 1:
        try:
            verdicts = inspect_together([(job.inspector, job.frame) for job in jobs])
        except Exception:  # the daemon's boundary: whose fault it is shows below
            log.exception("a batch of %d frames could not be judged together; each is judged alone", len(jobs))
        else:
            for job, verdict in zip(jobs, verdicts, strict=True):
                job.verdict = verdict
            return
    for job in jobs:
        _judge_alone(job, job.inspector.on_one_core if on_one_core else job.inspector)


def _judge_alone(job: Job, inspector: Inspector) -> None:
    try:
        job.verdict = inspector.inspect(job.frame)
    except Exception as error:  # the daemon's boundary: a fault inside makes this frame invalid, not the line blind
        log.exception("%s: fault inside at frame %d", job.frame.station, job.frame.frame_id)
        job.fault = error
        job.verdict = job.inspector.invalid(job.frame, f"fault inside: {type(error).__name__}: {error}")
