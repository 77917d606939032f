"""Reading a records file while others may write to it: rows one after the other, and the check of every chain."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_uad.errors import RecordsDamagedError
from edge_uad.net.wire import Json
from edge_uad.outputs.store import (
    MIGRATIONS,
    SQLITE_MAGIC,
    TIME_COLUMN,
    Link,
    Table,
    damage_named,
    encode,
    expected_schema,
    is_damage,
    open_for_reading,
    primary_code,
    read_chain,
    row_hash,
)

CHUNK_ROWS = 500
"""Rows read in one transaction: a longer one would keep the write-ahead log from being checkpointed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows are meant; an empty one means all."""

    station: str | None = None
    decisions: Sequence[str] = ()
    since_ns: int | None = None
    """Unix time: of capture for verdicts, of writing for everything else."""
    until_ns: int | None = None
    """As ``since_ns``; not included itself."""

    def where(self, table: Table) -> tuple[str, list[object]]:
        """An SQL condition and its parameters."""
        parts: list[str] = []
        values: list[object] = []
        for condition, value in (
            ("station = ?", self.station),
            (f"{TIME_COLUMN[table]} >= ?", self.since_ns),
            (f"{TIME_COLUMN[table]} < ?", self.until_ns),
        ):
            if value is not None:
                parts.append(condition)
                values.append(value)
        if self.decisions and table is Table.VERDICTS:
            parts.append(f"decision IN ({', '.join('?' * len(self.decisions))})")
            values += self.decisions
        return " AND ".join(parts) or "1", values


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as it is in the file."""

    id: int
    entry: str
    """JSON."""

    def parsed(self) -> Json:
        """The entry's fields.

        Raises:
            RecordsDamagedError: somebody changed it to what is no JSON.
        """
        try:
            found = json.loads(self.entry)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RecordsDamagedError(f"row {self.id} was changed: it is no JSON map; run edge-uad records verify")
        return found


@dataclass(slots=True)
class ChainReport:
    """What was found in one table."""

    table: Table
    n_rows: int = 0
    anchor: Link | None = None
    """The last row that retention deleted; id 0 where it deleted none."""
    head: Link | None = None
    """The newest row."""
    problems: list[str] = field(default_factory=list)
    """One sentence each."""


class RecordReader:
    """A connection that only reads. Use it as a context manager.

    Args:
        path: of the file.
        schema: the only one that is read.

    Raises:
        UsageError: missing, another program's file, of another schema, or kept locked.
        RecordsDamagedError: the file is damaged; also raised by every method.
        sqlite3.Error: it cannot be read; also raised by every method.
    """

    def __init__(self, path: Path, *, schema: int = len(MIGRATIONS)) -> None:
        self.path = path
        self._connection = open_for_reading(path, schema=schema)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def head(self, table: Table) -> Link:
        """The newest row of a table."""
        with damage_named(self.path):
            return read_chain(self._connection, table)[1]

    def rows(self, table: Table, which: Filter | None = None, *, after_id: int = 0) -> Iterator[StoredRow]:
        """Rows in the order they were written, those that are written meanwhile included. Memory stays constant.

        Args:
            table: which.
            which: None for all.
            after_id: start behind this row.
        """
        condition, values = (which or Filter()).where(table)
        # by ranges of ids, whatever matches in them: a transaction that looks for a rare row must not become long
        statement = f"SELECT id, entry FROM {table} WHERE id > ? AND id <= ? AND ({condition}) ORDER BY id"
        while True:
            with damage_named(self.path), _snapshot(self._connection):
                anchor, head = read_chain(self._connection, table)
                after_id = max(after_id, anchor.id)
                found = self._connection.execute(statement, (after_id, after_id + CHUNK_ROWS, *values)).fetchall()
            for row_id, entry in found:
                yield StoredRow(row_id, str(entry))
            after_id += CHUNK_ROWS
            if after_id >= head.id:
                return

    def log_lines(self, which: Filter | None = None) -> Iterator[tuple[str, int]]:
        """Verdicts as lines of JSON, each gap a line at its place; beside it how many verdicts that says are missing.

        A gap has no station and no decision: it comes whatever these are to be.
        """
        which = which or Filter()
        in_time = Filter(since_ns=which.since_ns, until_ns=which.until_ns)
        events = (row.parsed() for row in self.rows(Table.EVENTS, in_time))
        gaps = (entry for entry in events if entry.get("event") == "gap")
        gap = next(gaps, None)
        for row in self.rows(Table.VERDICTS, which):
            while gap is not None and _number(gap, "verdict_id") < row.id:
                yield _gap_line(gap)
                gap = next(gaps, None)
            yield row.entry, 0
        while gap is not None:
            yield _gap_line(gap)
            gap = next(gaps, None)

    def newest(self, table: Table, n_rows: int, which: Filter | None = None) -> list[StoredRow]:
        """The last rows that match, oldest first."""
        condition, values = (which or Filter()).where(table)
        statement = f"SELECT id, entry FROM {table} WHERE {condition} ORDER BY id DESC LIMIT ?"
        with damage_named(self.path):
            found = self._connection.execute(statement, (*values, n_rows)).fetchall()
        return [StoredRow(row_id, str(entry)) for row_id, entry in reversed(found)]

    def gaps(self) -> tuple[int, int]:
        """How many gaps there are, and how many verdicts are missing in all of them."""
        with damage_named(self.path):
            n_gaps, missing = self._connection.execute(
                "SELECT count(*), ifnull(sum(gap), 0) FROM events WHERE event = 'gap'"
            ).fetchone()
        return int(n_gaps), int(missing)

    def row(self, table: Table, row_id: int) -> StoredRow | None:
        """One row; None where it is not there."""
        with damage_named(self.path):
            found = self._connection.execute(f"SELECT id, entry FROM {table} WHERE id = ?", (row_id,)).fetchone()
        return None if found is None else StoredRow(found[0], str(found[1]))

    def verify(self, expected: Sequence[Link] = ()) -> tuple[list[str], list[ChainReport]]:
        """Recompute every hash.

        Args:
            expected: heads noted elsewhere at an earlier time: these rows must still be there as they were.

        Returns:
            What is wrong with the file as a whole, and a report for each table.
        """
        problems = [*self._page_problems(), *self._schema_problems()]
        reports = [self._verified(table, [link for link in expected if link.table is table]) for table in Table]
        return problems, reports

    def _page_problems(self) -> list[str]:
        try:
            found = [row[0] for row in self._connection.execute("PRAGMA quick_check(10)")]
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            found = [str(error)]
        return [] if found == ["ok"] else [f"the file is damaged: {' '.join(str(one).split())}" for one in found]

    def _schema_problems(self) -> list[str]:
        expected = expected_schema()
        try:
            found = self._connection.execute("SELECT name, type, sql FROM sqlite_master").fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return [f"the file is damaged: the schema cannot be read ({error})"]
        statements = {name: sql for name, _, sql in found}
        changed = [
            f"{name} is not defined as edge-uad does" for name, sql in expected.items() if statements.get(name) != sql
        ]
        foreign = [
            f"{kind} {name} is not edge-uad's"
            for name, kind, _ in found
            if name not in expected and kind in {"trigger", "view"}
        ]
        return changed + foreign

    def _verified(self, table: Table, expected: list[Link]) -> ChainReport:
        report = ChainReport(table)
        walk = _Walk(report, {link.id: link for link in expected})
        try:
            while self._verify_chunk(walk):
                pass
        except RecordsDamagedError as error:
            damaged = f"the file is damaged behind row {walk.last.id}"
            report.problems.append(f"{table}: {damaged if error.__cause__ else 'the ends of the chain were altered'}")
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_ERROR:
                raise
            report.problems.append(f"{table}: the rows cannot be read: {error}")
        else:
            walk.finish()
        return report

    def _verify_chunk(self, walk: "_Walk") -> bool:
        """Check some rows, in a transaction of their own; False where there are no more."""
        table = walk.report.table
        with damage_named(self.path), _snapshot(self._connection):
            anchor, head = read_chain(self._connection, table)
            walk.begin(anchor, head)
            statement = f"SELECT id, entry, hash FROM {table} WHERE id > ? ORDER BY id LIMIT {CHUNK_ROWS}"
            found = self._connection.execute(statement, (walk.position,)).fetchall()
        for row_id, entry, digest in found:
            walk.check(row_id, entry, digest)
        return len(found) == CHUNK_ROWS


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


class _Walk:
    """Goes along one chain and notes what does not fit."""

    def __init__(self, report: ChainReport, expected: dict[int, Link]) -> None:
        self.report = report
        self._expected = expected
        self._wrong: list[tuple[int, int, str]] = []
        """First and last row, and what is the matter with them."""
        self.position = -(2**63)
        """The id behind which to read on: the first reading also finds rows before the anchor."""
        self.last = Link(report.table, 0, b"")
        self._head = self.last
        self._linked = True

    def begin(self, anchor: Link, head: Link) -> None:
        """Take note of the chain's ends as they are at this moment; retention may have moved the anchor past us."""
        self._head = head
        if self.report.anchor is None or anchor.id > self.last.id:
            self.last, self._linked = anchor, True
            if self.report.anchor is not None:
                self.position = anchor.id
        self.report.anchor = anchor

    def check(self, row_id: int, entry: object, digest: object) -> None:
        """Check one row against the one before."""
        self.position = row_id
        if row_id <= self.last.id:
            self._note(row_id, row_id, "was inserted before the oldest row")
            return
        self.report.n_rows += 1
        if row_id > self.last.id + 1:
            self._note(self.last.id + 1, row_id - 1, "is missing")
            self._linked = False
        intact = isinstance(entry, str) and isinstance(digest, bytes)
        if not intact or (self._linked and digest != row_hash(self.last.hash, self.report.table, row_id, str(entry))):
            self._note(row_id, row_id, "was changed")
        elif row_id > self._head.id:
            self._note(row_id, row_id, "was added behind the chain's head")
        self.last = Link(self.report.table, row_id, digest if isinstance(digest, bytes) else b"")
        self._linked = isinstance(digest, bytes)
        self._compare(self.last)

    def finish(self) -> None:
        """Compare the end with the head, and what was expected with what is there."""
        self.report.head = self._head
        if self.last.id < self._head.id:
            self._note(self.last.id + 1, self._head.id, "is missing")
        elif self.last.id == self._head.id and self.last.hash != self._head.hash:
            self._note(self.last.id, self.last.id, "is not the chain's head")
        anchor = self.report.anchor
        for link in self._expected.values():
            if anchor is not None and link.id == anchor.id:
                self._compare(anchor, last=True)
            elif anchor is None or link.id > anchor.id:
                self._note(link.id, link.id, "is missing, though it was there when its hash was noted")
            else:
                self.report.problems.append(
                    f"{link.table}: row {link.id}, whose hash was noted, was deleted by retention; note a newer one"
                )
        self.report.problems[:0] = [_sentence(self.report.table, *wrong) for wrong in self._wrong]

    def _compare(self, found: Link, *, last: bool = False) -> None:
        expected = self._expected.get(found.id) if last else self._expected.pop(found.id, None)
        if expected is not None and expected.hash != found.hash:
            self._note(found.id, found.id, "is not the row whose hash was noted")

    def _note(self, first: int, last: int, what: str) -> None:
        if self._wrong and self._wrong[-1][2] == what and self._wrong[-1][1] == first - 1:
            first = self._wrong.pop()[0]
        self._wrong.append((first, last, what))


def _gap_line(gap: Json) -> tuple[str, int]:
    about = {"audit_schema": gap.get("audit_schema"), "written_at_ns": gap.get("at_ns")}
    missing = _number(gap, "gap")
    return encode({**about, "gap": missing, "reason": gap.get("reason")}), missing


def _number(gap: Json, name: str) -> int:
    value = gap.get(name)
    if not isinstance(value, int):
        raise RecordsDamagedError(f"a gap was changed: its {name} is no number; run edge-uad records verify")
    return value


def _sentence(table: Table, first: int, last: int, what: str) -> str:
    if first == last:
        return f"{table}: row {first} {what}"
    plural = what.replace("was ", "were ", 1).replace("is ", "are ", 1)
    return f"{table}: rows {first} to {last} {plural}"


def is_records_file(path: Path) -> bool:
    """Whether a file is an SQLite database, rather than a log of JSON Lines.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
