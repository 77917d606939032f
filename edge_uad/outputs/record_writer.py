"""Rows on their way into the record store: batches, retries, and an exact account of what is not in it."""

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from edge_uad.errors import RecordsDamagedError, UsageError
from edge_uad.files import is_misconfiguration
from edge_uad.net.wire import Json
from edge_uad.outputs.audit import AUDIT_SCHEMA
from edge_uad.outputs.store import Connect, Limits, Link, NewRow, RecordStore, Table, encode, is_damage

BATCH_ROWS = 128
"""A batch is committed when it is so large, whatever ``commit_s`` says; while the disk fails, so many rows wait."""
RETRY_S = 1.0
PRUNE_STEPS = 8
"""Short transactions of retention after each commit, at most."""
_LOCK_MODE = 0o640

log = logging.getLogger("edge_uad.outputs.records")


@dataclass(slots=True)
class _Gap:
    """What could not be kept at this place."""

    verdicts: int = 0
    events: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def row(self) -> NewRow:
        reason = "; ".join(f"{reason} ({n})" if len(self.reasons) > 1 else reason for reason, n in self.reasons.items())
        entry = {"event": "gap", "at_ns": time.time_ns(), "gap": self.verdicts, "gap_events": self.events}
        return NewRow(Table.EVENTS, {**entry, "reason": reason, "audit_schema": AUDIT_SCHEMA})


class RecordWriter:
    """Appends to a record store, batch by batch. One thread uses it; only one writer has a file at a time.

    Every row given is in the file, or counted in ``lost`` and in a gap, a row of its own at that place: never both.
    A batch whose commit failed waits, in memory, until the file can be opened again, and is written then unless it
    turns out to be in the file already.

    Args:
        path: of the file; made where it is missing.
        limits: what is deleted.
        commit_s: rows are on the disk after so many seconds at most; 0: before the next verdict is taken.
        retry_s: how long a file that could not be written rests before it is opened anew.
        connect: ``sqlite3.connect``, or what replaces it in a test.

    Raises:
        UsageError: another program's file, no permission, or in use by another daemon. A disk that fails is no
            reason not to start: ``fault`` says so.
    """

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits,
        commit_s: float,
        retry_s: float = RETRY_S,
        connect: Connect = sqlite3.connect,
    ) -> None:
        self.path = path
        self._limits = limits
        self._commit_s = commit_s
        self._retry_s = retry_s
        self._connect = connect
        self._lock = FileLock(f"{path}.lock", timeout=0, mode=_LOCK_MODE, thread_local=False)
        self._store: RecordStore | None = None
        self._buffer: list[NewRow | _Gap] = []
        self._in_flight: list[NewRow] = []
        """Rows of a commit that failed."""
        self._in_doubt: list[Link] | None = None
        """The heads that they would have made, where COMMIT was reached."""
        self._context: dict[str, NewRow] = {}
        self._due_s: float | None = None
        self._retry_at_s = 0.0
        self._suspect = False
        """SQLite has found damage: the file is checked when it is opened next."""
        self.fault: str | None = None
        """Why nothing is written at the moment."""
        self.lost = 0
        """Verdicts that are not in the file."""
        try:
            self._open()
        except OSError as error:
            if is_misconfiguration(error):
                raise UsageError(
                    f"the records file {path} cannot be written: {error.strerror}; check the path and its permissions"
                ) from error
            self._rest(error)
        except (RecordsDamagedError, sqlite3.Error) as error:
            self._rest(error)

    def add(self, row: NewRow) -> None:
        """Take a row; it is written with the next commit, or counted as lost. Raises nothing."""
        try:
            text = row.entry if isinstance(row.entry, str) else encode(row.entry)
        except ValueError as error:
            self._lose([row], f"JSON cannot hold it: {error}")
            return
        if row.table is Table.VERDICTS:
            row = NewRow(row.table, text)
        if self._n_waiting >= BATCH_ROWS:
            self.commit()
        if self._n_waiting >= BATCH_ROWS:
            self._lose([row], self.fault or "the disk was too slow")
            return
        self._buffer.append(row)
        self._note_due()
        if self._commit_s == 0 or self._n_waiting >= BATCH_ROWS:
            self.commit()

    def keep(self, name: str, row: NewRow) -> None:
        """Add a bank or a recipe, once in each file; what ``name`` stood for before is not in use any more.

        Every file that is opened later gets it too, for what is in use must not be missing from a new one.
        """
        self._context[name] = row
        if self.fault is None:
            self._buffer.append(row)
            self._note_due()

    def note_lost(self, n_verdicts: int, reason: str) -> None:
        """Count verdicts that were not given to :meth:`add`; the gap is written at this place."""
        self._lose([NewRow(Table.VERDICTS, "")] * n_verdicts, reason)

    @property
    def wait_s(self) -> float | None:
        """When :meth:`commit_when_due` has something to do; None: when there is a new row."""
        if self._due_s is None:
            return None
        return max(max(self._due_s, self._retry_at_s) - time.monotonic(), 0.0)

    def commit_when_due(self) -> None:
        """Commit where the oldest row has waited for ``commit_s``, or the file can be tried again. Raises nothing."""
        if self.wait_s == 0.0:
            self.commit()

    def prune(self) -> None:
        """Delete what is too old, where nothing comes that would be committed. Raises nothing."""
        if self.fault is None:
            self._attempt(self._prune)

    def commit(self) -> None:
        """Write everything that waits, unless the file rests after a fault. Raises nothing."""
        if self.fault is not None and time.monotonic() < self._retry_at_s:
            return
        self._attempt(self._commit)

    def close(self) -> None:
        """Write what waits, once more even after a fault, and close. Raises nothing."""
        self._retry_at_s = 0.0
        self.commit()
        rows = [*self._in_flight, *(item for item in self._buffer if isinstance(item, NewRow))]
        missing = sum(row.table is Table.VERDICTS for row in rows)
        unwritten = self.lost_unwritten
        if missing or unwritten:
            log.error(
                "the records file %s %s the last %d verdicts%s: %s",
                self.path,
                "may lack" if self._in_doubt else "lacks",
                missing + unwritten,
                f", {unwritten} of them without a record of the gap" if unwritten else "",
                self.fault,
            )
            self.lost += missing
        self._close_store()

    @property
    def lost_unwritten(self) -> int:
        """Verdicts counted in ``lost`` whose gap is not in the file yet."""
        in_buffer = sum(item.verdicts for item in self._buffer if isinstance(item, _Gap))
        return in_buffer + sum(map(_gap_of, self._in_flight))

    @property
    def heads(self) -> list[Link]:
        """The newest row of every table, where the file can be read."""
        if self._store is None:
            return []
        try:
            return [self._store.head(table) for table in Table]
        except sqlite3.Error:
            return []

    # ------------------------------------------------------------------------------------------------- the account

    @property
    def _n_waiting(self) -> int:
        return len(self._buffer) + len(self._in_flight)

    def _lose(self, rows: Sequence[NewRow], reason: str) -> None:
        n_verdicts = sum(row.table is Table.VERDICTS for row in rows)
        self.lost += n_verdicts
        gap = self._buffer[-1] if self._buffer else None
        if not isinstance(gap, _Gap):
            gap = _Gap()
            self._buffer.append(gap)
        gap.verdicts += n_verdicts
        gap.events += len(rows) - n_verdicts
        gap.reasons[reason] += len(rows)
        self._note_due()

    def _note_due(self) -> None:
        if self._due_s is None:
            self._due_s = time.monotonic() + self._commit_s

    # ---------------------------------------------------------------------------------------------------- the file

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, sqlite3.Error, UsageError, RecordsDamagedError) as error:
            self._rest(error)
        except Exception as error:  # the boundary: a row that cannot be written must not keep all others out
            log.exception("fault inside: a batch could not be written to %s", self.path)
            self._rest(error)
            self._give_up_batch(f"fault inside: {type(error).__name__}: {error}")

    def _commit(self) -> None:
        store = self._usable_store()
        self._settle(store)
        self._in_flight += [item.row() if isinstance(item, _Gap) else item for item in self._buffer]
        self._buffer = []
        if self._in_flight:
            with store.transaction():
                self._in_doubt = store.append(self._in_flight)
            self._in_flight, self._in_doubt = [], None
        self._due_s = None
        if self.fault is not None:
            # SQLite keeps the descriptor of a connection that was closed beside another one until both are
            self._close_store()
            self._open()
            log.warning("the records file %s is written again; %d verdicts are missing in all", self.path, self.lost)
            self.fault = None
        self._prune()

    def _usable_store(self) -> RecordStore:
        """The file that the path names, by a new connection after a fault.

        The failed connection stays open until the new one is: SQLite's index of the log, which knows that the failed
        rows are not committed, lasts as long as one connection does. Without it the log would be read from its start,
        and rows whose fsync failed would be found in it and taken for committed.
        """
        store = self._store
        if store is not None and not store.is_current:
            self._leave(store)
            store = None
        if store is None:
            return self._open()
        if self.fault is not None:
            fresh = self._sound_store()
            if self._store is not None:
                self._store.close()
            self._store = store = fresh
            with suppress(sqlite3.Error):
                store.checkpoint()  # on a full disk the log's own room is all there is
            store.write(*self._context.values())
        return store

    def _leave(self, store: RecordStore) -> None:
        """Close a file that was moved away or deleted."""
        log.warning("the records file %s was removed or replaced: a new one is begun", self.path)
        try:
            self._settle(store)
            # it also overwrites what a failed commit left in the log, which is going to be written to the new file
            store.write(NewRow(Table.EVENTS, event("file_left", reason="the file was moved away")))
        except sqlite3.Error as error:
            log.warning("the former records file cannot be closed in order: %s", error)
        self._close_store()
        self._buffer.insert(0, NewRow(Table.EVENTS, event("new_file", reason="the file was removed or replaced")))

    def _settle(self, store: RecordStore) -> None:
        """A commit that failed may be in the file all the same: then it is not written again."""
        if self._in_doubt and store.holds(self._in_doubt):
            store.checkpoint()  # the log was not brought to the disk: the file itself must be
            self._in_flight = []
        self._in_doubt = None

    def _prune(self) -> None:
        store = self._usable_store()
        for _ in range(PRUNE_STEPS):
            if not store.prune(self._limits):
                return

    def _open(self) -> RecordStore:
        """Take the lock and open the file; one that SQLite finds damaged is moved aside and a new one begun."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"the records file {self.path} is in use by another daemon; give each its own records.file"
            ) from error
        store = None
        try:
            store = self._sound_store()
            store.write(*self._context.values())
        except BaseException:
            if store is not None:
                store.close()
            self._lock.release()
            raise
        self._store = store
        return store

    def _sound_store(self) -> RecordStore:
        try:
            store = RecordStore(self.path, connect=self._connect)
        except RecordsDamagedError as error:
            return self._begun_anew(str(error))
        if self._suspect and not store.is_sound():
            store.close()
            return self._begun_anew("SQLite found its content damaged")
        self._suspect = False
        return store

    def _begun_anew(self, reason: str) -> RecordStore:
        """Move the damaged file, with its log, out of the way: nothing is deleted."""
        if self._store is not None:
            self._store.close()
            self._store = None
        suffix = f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.monotonic_ns() % 10**6:06d}"
        aside = self.path.with_name(f"{self.path.name}{suffix}")
        for end in ("", "-wal"):
            part = self.path.with_name(f"{self.path.name}{end}")
            if part.exists():
                part.rename(self.path.with_name(f"{aside.name}{end}"))
        self.path.with_name(f"{self.path.name}-shm").unlink(missing_ok=True)
        log.error("the records file %s is damaged: it is kept as %s and a new one is begun", self.path, aside)
        store = RecordStore(self.path, connect=self._connect)
        self._suspect = False
        self._buffer.insert(0, NewRow(Table.EVENTS, event("new_file", reason=reason, former_file=aside.name)))
        return store

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
        self._lock.release()

    def _rest(self, error: Exception) -> None:
        self._suspect = self._suspect or (isinstance(error, sqlite3.Error) and is_damage(error))
        self._retry_at_s = time.monotonic() + self._retry_s
        self._note_due()
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        if self.fault is None:
            log.error("the records file %s is not written: %s; inspection goes on", self.path, reason)
        self.fault = f"records are not written: {reason}"

    def _give_up_batch(self, reason: str) -> None:
        verdicts = sum(row.table is Table.VERDICTS for row in self._in_flight)
        already = sum(_gap_of(row) for row in self._in_flight)
        gap = _Gap(verdicts=verdicts + already, events=len(self._in_flight) - verdicts, reasons=Counter({reason: 1}))
        self.lost += verdicts
        self._in_flight, self._in_doubt = [], None
        self._buffer.insert(0, gap)


def _gap_of(row: NewRow) -> int:
    """How many verdicts a row says are missing."""
    return int(row.entry.get("gap") or 0) if isinstance(row.entry, dict) else 0


def event(name: str, **details: object) -> Json:
    """An entry of the table of events, of this moment."""
    return {"event": name, "at_ns": time.time_ns(), **details}
