"""Evidence and audit log, written by a thread of their own: the disk never stands in inspection's way."""

import logging
import queue
import threading
import time

from edge_uad.outputs.audit import AuditLog, audit_entry
from edge_uad.outputs.evidence import EvidenceStore
from edge_uad.records import AnyFrame, StationStatus, Verdict

QUEUE_VERDICTS = 32
"""Verdicts, with their frames, that wait for the disk; what comes on top is lost and counted."""
IDLE_S = 0.5
PRUNE_EVERY_S = 60.0
CLOSE_S = 3.0
"""How long ``close`` waits for the disk."""

log = logging.getLogger("edge_uad.outputs.archive")


class Archive:
    """Takes verdicts, keeps their evidence and writes them down. Implements VerdictSink.

    Args:
        audit: the log; None for none. Closed at the end.
        evidence: where frames are kept; None for nowhere.
    """

    def __init__(self, audit: AuditLog | None, evidence: EvidenceStore | None) -> None:
        self._audit = audit
        self._evidence = evidence
        self._waiting: queue.Queue[tuple[Verdict, AnyFrame]] = queue.Queue(QUEUE_VERDICTS)
        self._stop = threading.Event()
        self._untold = 0
        self._lock = threading.Lock()
        self._fault: str | None = None
        self._prune_at_s = 0.0
        self.dropped = 0
        """Verdicts that the disk was too slow for."""
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """What the operator should know: why nothing is written at the moment."""
        parts = [self._fault, *(part.fault for part in (self._audit, self._evidence) if part is not None)]
        return "; ".join(filter(None, parts)) or None

    @property
    def audit_lost(self) -> int:
        """Verdicts that are not in the log."""
        return 0 if self._audit is None else self._audit.lost

    @property
    def evidence_lost(self) -> int:
        """Frames that should have been kept and were not."""
        return 0 if self._evidence is None else self._evidence.lost

    @property
    def waiting(self) -> int:
        """Verdicts that wait for the disk."""
        return self._waiting.qsize()

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:
        """Hand over a verdict. Never blocks."""
        try:
            self._waiting.put_nowait((verdict, frame))
        except queue.Full:
            with self._lock:
                self.dropped += 1
                self._untold += 1

    def publish_status(self, status: StationStatus) -> None:
        """Heartbeats are not kept."""

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and let go."""
        self._stop.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.error("the disk does not answer: %d verdicts are not written", self._waiting.qsize())

    def _run(self) -> None:
        while not (self._stop.is_set() and self._waiting.empty()):
            try:
                self._step()
            except Exception as error:  # this thread's boundary: what is kept must never stop what is inspected
                log.exception("a verdict could not be archived")
                self._fault = f"archiving failed: {type(error).__name__}: {error}"
        if self._audit is not None:
            self._note_dropped(self._audit)
            self._audit.close()

    def _step(self) -> None:
        try:
            verdict, frame = self._waiting.get(timeout=IDLE_S)
        except queue.Empty:
            self._tend()
            return
        kept = None if self._evidence is None else self._evidence.keep(verdict, frame)
        if self._audit is not None:
            self._note_dropped(self._audit)
            self._audit.append(audit_entry(verdict, frame, kept))
        self._fault = None

    def _tend(self) -> None:
        """What is to be done while nothing comes."""
        if self._audit is not None:
            self._audit.sync_when_due()
        if self._evidence is not None and time.monotonic() >= self._prune_at_s:
            self._prune_at_s = time.monotonic() + PRUNE_EVERY_S
            self._evidence.prune()

    def _note_dropped(self, audit: AuditLog) -> None:
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold:
            audit.note_lost(untold, "the disk was too slow")
