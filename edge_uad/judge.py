"""Inference in a thread of its own: whoever waits for a verdict can stop waiting for it."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_uad.pipeline import Inspector, inspect_together
from edge_uad.records import AnyFrame, Verdict

log = logging.getLogger("edge_uad.judge")


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
        wake: called, from the thread, when a batch is done.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked: queue.SimpleQueue[Sequence[Job] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Sequence[Job]] = queue.SimpleQueue()
        # a daemon thread: an inference that never ends must not keep the process alive
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self.jobs: Sequence[Job] = ()
        """What is being judged: from ``submit`` until ``finished`` gives it back."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def free(self) -> bool:
        """Nothing is being judged."""
        return not self.jobs

    def submit(self, jobs: Sequence[Job]) -> None:
        """Judge a batch; only while ``free``."""
        self.jobs = jobs
        self._asked.put(jobs)

    def finished(self) -> Sequence[Job]:
        """The batch, once it is judged; else nothing. Never blocks."""
        try:
            done = self._done.get_nowait()
        except queue.Empty:
            return ()
        self.jobs = ()
        return done

    def close(self, timeout_s: float) -> bool:
        """End the thread; False where an inference does not come back."""
        if self._thread.ident is None:
            return True
        self._asked.put(None)
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (jobs := self._asked.get()) is not None:
            _judge(jobs)
            self._done.put(jobs)
            self._wake()


def _judge(jobs: Sequence[Job]) -> None:
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
        _judge_alone(job)


def _judge_alone(job: Job) -> None:
    try:
        job.verdict = job.inspector.inspect(job.frame)
    except Exception as error:  # the daemon's boundary: a fault inside makes this frame invalid, not the line blind
        log.exception("%s: fault inside at frame %d", job.frame.station, job.frame.frame_id)
        job.fault = error
        job.verdict = job.inspector.invalid(job.frame, f"fault inside: {type(error).__name__}: {error}")
