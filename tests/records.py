"""Records for tests: real rows of a real inspector, and files changed behind the store's back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from edge_uad.net.wire import Json
from edge_uad.outputs.audit import audit_entry
from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.record_writer import RecordWriter
from edge_uad.outputs.store import Connect, Limits, NewRow, Table
from tests.fakes import RED, frame, green_inspector

INSPECTOR = green_inspector()
PLENTY = Limits(max_rows=10**9, max_bytes=2**40, max_age_days=1000)


def entry(frame_id: int = 0) -> Json:
    """What is recorded of an anomalous frame of this moment."""
    one = frame(frame_id, RED)
    return audit_entry(INSPECTOR.inspect(one), one, None)


def verdict(frame_id: int = 0) -> NewRow:
    """A row of it."""
    return NewRow(Table.VERDICTS, entry(frame_id))


def writer(
    path: Path,
    *,
    limits: Limits = PLENTY,
    commit_s: float = 0.0,
    retry_s: float = 0.0,
    connect: Connect = sqlite3.connect,
) -> RecordWriter:
    """A writer that commits each row and tries a failed file again at once, unless told otherwise."""
    return RecordWriter(path, limits=limits, commit_s=commit_s, retry_s=retry_s, connect=connect)


def frame_ids(path: Path) -> list[int]:
    """Frame ids of the verdicts in the file, in their order."""
    with RecordReader(path) as reader:
        return [row.parsed()["frame_id"] for row in reader.rows(Table.VERDICTS)]


def events(path: Path, kind: str | None = None) -> list[Json]:
    """Entries of the table of events."""
    with RecordReader(path) as reader:
        found = [row.parsed() for row in reader.rows(Table.EVENTS)]
    return [one for one in found if kind is None or one["event"] == kind]


def problems(path: Path) -> list[str]:
    """What verify finds."""
    with RecordReader(path) as reader:
        found, reports = reader.verify()
    return [*found, *(problem for report in reports for problem in report.problems)]


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody who may write the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
