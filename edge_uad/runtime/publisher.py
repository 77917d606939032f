"""The thread that publishes every verdict, in order per station."""

import logging
import threading
from dataclasses import replace

from edge_uad.interfaces import VerdictSink
from edge_uad.runtime.scheduler import Scheduler

log = logging.getLogger("edge_uad.runtime.publisher")


class Publisher:
    """Hands each decided verdict to the outputs, numbered per station.

    Args:
        scheduler: gives the verdicts to publish, in order.
        sink: the outputs; a verdict that it cannot take in full is logged, and the next one follows.
    """

    def __init__(self, scheduler: Scheduler, sink: VerdictSink) -> None:
        self._scheduler = scheduler
        self._sink = sink
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until everything is published, after ``Scheduler.close``; False where it takes longer."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (decided := self._scheduler.next_decided()) is not None:
            for one in decided:
                verdict = replace(one.verdict, sequence=one.station.count(one.verdict))
                try:
                    self._sink.publish(verdict, one.frame)
                except Exception:  # the daemon's boundary: silence is reject, and a dead sink fails the next status
                    log.exception("%s: frame %d could not be published in full", verdict.station, verdict.frame_id)
