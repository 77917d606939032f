"""Threads that carry frames to their verdicts, and how many of them the machine has cores for."""

import logging
import os
import threading
import time
from collections.abc import Sequence

from edge_uad.inference.inspector import Inspector, inspect_together
from edge_uad.records import AnyFrame, Verdict
from edge_uad.runtime.scheduler import Job, Scheduler

log = logging.getLogger("edge_uad.runtime.workers")


def available_cores() -> int:
    """Those that this process may use: a service manager or a container may grant fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool:
    """Each worker takes the next frame as soon as it is free and judges it from beginning to end.

    Args:
        scheduler: gives the frames and takes the verdicts.
        n_workers: threads.
    """

    def __init__(self, scheduler: Scheduler, n_workers: int) -> None:
        self._scheduler = scheduler
        # daemon threads: an inference that never ends must not keep the process alive
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True) for number in range(n_workers)
        ]

    def start(self) -> None:
        """Begin to judge."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads after ``Scheduler.stop_dispatching``; False where an inference does not return."""
        until_s = time.monotonic() + timeout_s
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(until_s - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in started)

    def _run(self) -> None:
        while (jobs := self._scheduler.next_jobs()) is not None:
            for job, verdict in zip(jobs, judge(jobs), strict=True):
                self._scheduler.finish(job, verdict)


def judge(jobs: Sequence[Job]) -> list[Verdict]:
    """A verdict for each job, in their order; several jobs are one inference.

    Where that fails, each is judged alone, so that a fault stays with the frame that has it.
    """
    if len(jobs) > 1:
        try:
            return inspect_together([(job.inspector, job.frame) for job in jobs])
        except Exception:  # the daemon's boundary: which frame is at fault shows when each is judged alone
            log.exception("a batch of %d frames could not be judged together; each is judged alone", len(jobs))
    return [_judge_one(job.inspector, job.frame) for job in jobs]


def _judge_one(inspector: Inspector, frame: AnyFrame) -> Verdict:
    try:
        return inspector.inspect(frame)
    except Exception as error:  # the daemon's boundary: a fault inside makes this frame invalid, not the line blind
        log.exception("%s: fault inside at frame %d", frame.station, frame.frame_id)
        return inspector.invalid(frame, f"fault inside: {type(error).__name__}: {error}")
