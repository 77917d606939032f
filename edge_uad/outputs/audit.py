"""A verdict's entry in the records, and the logs of JSON Lines that held these entries before: reading and import."""

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_uad.errors import UsageError
from edge_uad.net.wire import Json, header_of
from edge_uad.outputs.store import NewRow, RecordStore, Table
from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame, Verdict

AUDIT_SCHEMA = 1
IMPORT_ROWS = 500
"""Lines imported in one transaction."""


def frame_digest(image: UInt8) -> str:
    """SHA-256 over ``<height>x<width>``, a line feed and the RGB bytes, row by row."""
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def payload_digest(frame: AnyFrame) -> str | None:
    """SHA-256 of what came instead of a picture; None where it is not at hand."""
    payload = frame.payload if isinstance(frame, UnreadableFrame) else None
    return None if payload is None else hashlib.sha256(payload).hexdigest()


def audit_entry(verdict: Verdict, frame: AnyFrame, evidence: str | None) -> Json:
    """A row of verdicts: the verdict's fields, then the frame's hash and size, and the file kept of it.

    Args:
        verdict: the frame's.
        frame: one that held no picture has the hash of what came instead, where that is at hand, and no size.
        evidence: the kept file, relative to the evidence folder.
    """
    image = frame.image if isinstance(frame, Frame) else None
    return {
        **header_of(verdict),
        "audit_schema": AUDIT_SCHEMA,
        "written_at_ns": time.time_ns(),
        "frame_sha256": payload_digest(frame) if image is None else frame_digest(image),
        "frame_hw": None if image is None else list(image.shape[:2]),
        "evidence": evidence,
    }


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log, checked."""

    number: int
    """From 1."""
    text: str
    """Without the line feed."""
    entry: Json
    end: int
    """Position behind the line in the file."""

    @property
    def is_gap(self) -> bool:
        """It says how many verdicts are missing at this place."""
        return "gap" in self.entry


def read_lines(path: Path) -> Iterator[LogLine]:
    """The lines of a log, gaps included, one at a time; a torn last line is passed over.

    Raises:
        UsageError: the file cannot be read, or another line is not one of an audit log.
    """
    end = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                entry = _parsed(line)
                end += len(line)
                if entry is not None and line.endswith(b"\n"):
                    yield LogLine(number, line[:-1].decode(), entry, end)
                elif line.endswith(b"\n"):
                    raise UsageError(f"{path}: line {number} is not one of an audit log; was the file edited?")
    except OSError as error:
        raise UsageError(f"the audit log {path} cannot be read: {error.strerror}") from error


def read_entries(path: Path) -> Iterator[tuple[int, Json]]:
    """The verdicts of a log with their line numbers, one at a time; gaps are passed over.

    Raises:
        UsageError: as :func:`read_lines`.
    """
    return ((line.number, line.entry) for line in read_lines(path) if not line.is_gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import added."""

    verdicts: int = 0
    gaps: int = 0
    missing: int = 0
    """Verdicts that the gaps speak of."""
    known_lines: int = 0
    """Lines that an earlier import had added already."""
    torn_bytes: int = 0
    """Length of a torn last line, which is left out."""


def rotated_files(path: Path) -> list[Path]:
    """A log with the files that it became when it was full, oldest first: FILE.2, FILE.1, FILE."""
    pattern = re.compile(rf"{re.escape(path.name)}\.(\d+)")
    try:
        found = [(int(match[1]), one) for one in path.parent.iterdir() if (match := pattern.fullmatch(one.name))]
    except OSError:
        found = []
    return [*(one for _, one in sorted(found, reverse=True)), path]


def import_log(store: RecordStore, path: Path) -> Imported:
    """Append a log's lines to the records, each line to the letter. What was imported before is not imported again.

    The same file under another name is recognised by its content, one that has grown since by its beginning; an import
    that was interrupted goes on where it was.

    Raises:
        UsageError: the file is no log; nothing was imported.
        sqlite3.Error: the records cannot be written; what was imported stays.
    """
    known = set(store.import_progress())
    beginning, known_lines, end = _recognised(path, known)
    imported = Imported(known_lines=known_lines, torn_bytes=path.stat().st_size - end)
    digest = hashlib.sha256()
    batch: list[LogLine] = []
    for line in read_lines(path):
        if line.end > end:
            break  # written since the check
        digest.update(line.text.encode() + b"\n")
        if line.number <= known_lines:
            continue
        batch.append(line)
        if len(batch) == IMPORT_ROWS or line.end == end:
            reached = (line.end, digest.hexdigest())
            with store.transaction():
                store.append([_row(one) for one in batch])
                store.note_import(reached, longer_than=beginning)
            beginning = reached
            imported = _added(imported, batch)
            batch = []
    if imported.verdicts or imported.gaps:
        about = {"event": "import", "at_ns": time.time_ns(), "file": path.name, "verdicts": imported.verdicts}
        store.write(NewRow(Table.EVENTS, {**about, "gaps": imported.gaps, "missing": imported.missing}))
    return imported


def _recognised(path: Path, known: set[tuple[int, str]]) -> tuple[tuple[int, str] | None, int, int]:
    """The longest beginning that was imported before, its number of lines, and where the last whole line ends."""
    lengths = {n_bytes for n_bytes, _ in known}
    beginning, known_lines, end = None, 0, 0
    digest = hashlib.sha256()
    for line in read_lines(path):
        digest.update(line.text.encode() + b"\n")
        end = line.end
        if end in lengths and (end, digest.hexdigest()) in known:
            beginning, known_lines = (end, digest.hexdigest()), line.number
    return beginning, known_lines, end


def _row(line: LogLine) -> NewRow:
    if not line.is_gap:
        return NewRow(Table.VERDICTS, line.text)
    gap = {key: line.entry.get(key) for key in ("audit_schema", "gap", "reason")}
    return NewRow(Table.EVENTS, {"event": "gap", "at_ns": line.entry.get("written_at_ns"), **gap, "imported": True})


def _added(imported: Imported, batch: Sequence[LogLine]) -> Imported:
    gaps = [line for line in batch if line.is_gap]
    return Imported(
        verdicts=imported.verdicts + len(batch) - len(gaps),
        gaps=imported.gaps + len(gaps),
        missing=imported.missing + sum(int(line.entry["gap"]) for line in gaps),
        known_lines=imported.known_lines,
        torn_bytes=imported.torn_bytes,
    )


def _parsed(line: bytes) -> Json | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_entry = isinstance(entry, dict) and "audit_schema" in entry
    return entry if is_entry and isinstance(entry.get("gap", 0), int) else None
