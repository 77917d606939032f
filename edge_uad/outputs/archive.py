"""Evidence and records, written by a background thread: a slow or failing disk never holds inspection up."""

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable

from edge_uad import __version__
from edge_uad.net.wire import Json
from edge_uad.outputs.audit import audit_entry
from edge_uad.outputs.evidence import EvidenceStore
from edge_uad.outputs.record_writer import RecordWriter, event
from edge_uad.outputs.store import NewRow, Table
from edge_uad.records import AnyFrame, BankManifest, StationState, StationStatus, Verdict

QUEUE_VERDICTS = 32
"""Verdicts, with their frames, that wait for the disk; what comes on top is lost and counted."""
IDLE_S = 0.5
PRUNE_EVERY_S = 60.0
CLOSE_S = 3.0
"""How long ``close`` waits for the disk."""

log = logging.getLogger("edge_uad.outputs.archive")


@dataclasses.dataclass(slots=True)
class _Seen:
    """What was last recorded of a station."""

    state: StationState | None = None
    bank_id: str | None = None
    refused_bank: str | None = None


class Archive:
    """Takes verdicts, keeps their evidence and writes them down. Implements VerdictSink.

    Args:
        records: where verdicts and events are written; None for nowhere. Closed at the end.
        evidence: where frames are kept; None for nowhere.
        recipe: the settings in use, without secrets, with their ``recipe_id``.
        manifest_of: the manifest of the bank that a station judges by; None: banks in use are not recorded.
    """

    def __init__(
        self,
        records: RecordWriter | None,
        evidence: EvidenceStore | None,
        *,
        recipe: Json | None = None,
        manifest_of: Callable[[str], BankManifest] | None = None,
    ) -> None:
        self._records = records
        self._evidence = evidence
        self._manifest_of = manifest_of
        self._waiting: queue.Queue[tuple[Verdict, AnyFrame] | list[NewRow]] = queue.Queue(QUEUE_VERDICTS)
        self._stop = threading.Event()
        self._seen: dict[str, _Seen] = {}
        self._unreported = 0
        self._lock = threading.Lock()
        self._fault: str | None = None
        self._prune_at_s = 0.0
        self.dropped = 0
        """Verdicts that the disk was too slow for."""
        if records is not None:
            records.add(NewRow(Table.EVENTS, event("start", version=__version__)))
            if recipe is not None:
                records.keep("recipe", NewRow(Table.RECIPES, {"at_ns": time.time_ns(), **recipe}))
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """What the operator should know: why nothing is written at the moment."""
        parts = [self._fault, *(part.fault for part in (self._records, self._evidence) if part is not None)]
        return "; ".join(filter(None, parts)) or None

    @property
    def audit_lost(self) -> int:
        """Verdicts that are not in the records."""
        return 0 if self._records is None else self._records.lost

    @property
    def evidence_lost(self) -> int:
        """Frames that should have been kept and were not."""
        return 0 if self._evidence is None else self._evidence.lost

    @property
    def waiting(self) -> int:
        """Verdicts and events that wait for the disk."""
        return self._waiting.qsize()

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:
        """Hand over a verdict. Never blocks."""
        try:
            self._waiting.put_nowait((verdict, frame))
        except queue.Full:
            with self._lock:
                self.dropped += 1
                self._unreported += 1

    def publish_status(self, status: StationStatus) -> None:
        """Hand over what is new about a station: its state, its bank, a refused bank. Never blocks."""
        if self._records is None:
            return
        now = _Seen(status.state, status.bank_id, status.refused_bank)
        before = self._seen.get(status.station, _Seen())
        if now == before:
            return
        rows = self._changes(status, before)
        try:
            self._waiting.put_nowait(rows)
        except queue.Full:
            return  # the next heartbeat tries again
        self._seen[status.station] = now

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and let go."""
        self._stop.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.error("the disk does not answer: %d verdicts are not written", self._waiting.qsize())

    def _changes(self, status: StationStatus, before: _Seen) -> list[NewRow]:
        station, rows = status.station, []
        if status.state != before.state:
            rows.append(event("state", station=station, state=str(status.state), reason=status.message))
        if status.bank_id != before.bank_id:
            rows.append(event("bank", station=station, bank_id=status.bank_id, former_bank_id=before.bank_id))
        if status.refused_bank is not None and status.refused_bank != before.refused_bank:
            rows.append(event("bank_refused", station=station, reason=status.refused_bank))
        found = [NewRow(Table.EVENTS, row) for row in rows]
        if status.bank_id != before.bank_id and self._manifest_of is not None:
            manifest = self._manifest_of(station)
            if manifest.bank_id == status.bank_id:  # else it changed again, and the next heartbeat brings it
                about = {"at_ns": time.time_ns(), "station": station, **dataclasses.asdict(manifest)}
                found.append(NewRow(Table.BANKS, about))
        return found

    def _run(self) -> None:
        while not (self._stop.is_set() and self._waiting.empty()):
            try:
                self._step()
            except Exception as error:  # this thread's boundary: it must not end while the line runs
                log.exception("fault inside the archive")
                self._fault = f"fault inside the archive: {type(error).__name__}: {error}"
        if self._records is not None:
            self._note_dropped(self._records)
            self._records.add(NewRow(Table.EVENTS, event("stop")))
            self._records.commit()
            for head in self._records.heads:
                log.info("records end at %s", head)
            self._records.close()

    def _step(self) -> None:
        wait_s = IDLE_S
        if self._records is not None and self._records.wait_s is not None:
            wait_s = min(IDLE_S, self._records.wait_s)
        try:
            item = self._waiting.get(timeout=wait_s) if wait_s else self._waiting.get_nowait()
        except queue.Empty:
            self._tend()
        else:
            if isinstance(item, list):
                self._keep_rows(item)
            else:
                self._keep(*item)
        if self._records is not None:
            self._records.commit_when_due()

    def _keep(self, verdict: Verdict, frame: AnyFrame) -> None:
        kept = None
        if self._evidence is not None:
            try:
                kept = self._evidence.keep(verdict, frame)
            except Exception as error:  # this thread's boundary: a frame that cannot be kept has its row all the same
                log.exception("%s: frame %d could not be kept as evidence", verdict.station, verdict.frame_id)
                self._evidence.note_lost(f"fault inside: {type(error).__name__}: {error}")
        if self._records is None:
            return
        self._note_dropped(self._records)
        try:
            self._records.add(NewRow(Table.VERDICTS, audit_entry(verdict, frame, kept)))
        except Exception as error:  # as above: what cannot be written is a gap, not silence
            log.exception("%s: frame %d could not be recorded", verdict.station, verdict.frame_id)
            self._records.note_lost(1, f"fault inside: {type(error).__name__}: {error}")

    def _keep_rows(self, rows: list[NewRow]) -> None:
        if self._records is None:
            return
        self._note_dropped(self._records)
        for row in rows:
            if row.table is Table.BANKS and isinstance(row.entry, dict):
                self._records.keep(f"bank of {row.entry['station']}", row)
            else:
                self._records.add(row)

    def _tend(self) -> None:
        """What is to be done while nothing comes."""
        if time.monotonic() < self._prune_at_s:
            return
        self._prune_at_s = time.monotonic() + PRUNE_EVERY_S
        if self._records is not None:
            self._records.prune()
        if self._evidence is not None:
            self._evidence.prune()

    def _note_dropped(self, records: RecordWriter) -> None:
        with self._lock:
            unreported, self._unreported = self._unreported, 0
        if unreported:
            records.note_lost(unreported, "the disk was too slow")
