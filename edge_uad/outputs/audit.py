"""The audit log: a line of JSON for every verdict, in files that rotate. It mends itself and never stops inspection."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_uad.errors import UsageError
from edge_uad.net.wire import Json, header_of
from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame, Verdict

AUDIT_SCHEMA = 1
RETRY_S = 5.0
"""How long a log that could not be written rests before it is tried again."""
_TAIL_BYTES = 1024 * 1024

log = logging.getLogger("edge_uad.outputs.audit")


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
    """What a line says: the verdict's fields, then the frame's hash and size, and the file kept of it.

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


class AuditLog:
    """Appends to ``path``; full, it becomes ``path.1``, that ``path.2``, and so on. One thread uses it.

    Opening cuts off what a power cut left half written. A write that fails stops the log: ``fault`` says why, what
    is not in it is counted, and after a rest it is tried again; the gap gets a line of its own.

    Args:
        path: of the newest file.
        max_bytes: of one file.
        max_files: the newest one counted in; older ones are deleted.
        fsync_s: a line is on the disk after so many seconds at most; 0: before the next verdict is taken.

    Raises:
        UsageError: not writable, in use by another daemon, or some other program's file.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_files: int, fsync_s: float) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._fsync_s = fsync_s
        self._unsynced_since_s: float | None = None
        self._retry_at_s = 0.0
        self._gap = 0
        self._gap_reason = ""
        self.fault: str | None = None
        """Why nothing is written at the moment."""
        self.lost = 0
        """Verdicts that are not in the log."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
            self._handle, self._size = _open_mended(path)
        except OSError as error:
            raise UsageError(
                f"the audit log {path} cannot be written: {error.strerror or error}; check the folder's rights"
            ) from error

    def append(self, entry: Json) -> None:
        """Write a line, or count it as lost. Raises nothing."""
        if self.fault is not None and time.monotonic() < self._retry_at_s:
            self.note_lost(1, self._gap_reason)
            return
        line = _line(entry)
        try:
            self._rotate_before(len(line))
            self._write(self._gap_line() + line)
            self._gap = 0
            self.sync_when_due()
        except OSError as error:
            self._rest(error)
            self.note_lost(1, self._gap_reason)
            return
        if self.fault is not None:
            log.warning("the audit log %s is written again", self._path)
            self.fault = None

    def note_lost(self, n: int, reason: str) -> None:
        """Count verdicts that are not written; the next line that is will be preceded by one that says so."""
        self.lost += n
        self._gap += n
        self._gap_reason = reason

    def sync_when_due(self) -> None:
        """Bring what is written to the disk, as often as ``fsync_s`` says.

        Raises:
            OSError: the disk refused.
        """
        if self._unsynced_since_s is not None and time.monotonic() - self._unsynced_since_s >= self._fsync_s:
            os.fsync(self._handle)
            self._unsynced_since_s = None

    def close(self) -> None:
        """Bring everything to the disk and let go. Raises nothing."""
        try:
            if self._gap:
                self._write(self._gap_line())
            os.fsync(self._handle)
        except OSError as error:
            log.error("the audit log %s may lack its last lines: %s", self._path, error.strerror)  # noqa: TRY400  (told, no trace)
        os.close(self._handle)
        os.close(self._lock)

    def _gap_line(self) -> bytes:
        if not self._gap:
            return b""
        about = {"audit_schema": AUDIT_SCHEMA, "written_at_ns": time.time_ns()}
        return _line({**about, "gap": self._gap, "reason": self._gap_reason})

    def _write(self, line: bytes) -> None:
        """The whole of it or nothing."""
        try:
            written = os.write(self._handle, line)
            if written < len(line):  # the disk is full: this says how
                os.write(self._handle, line[written:])
        except OSError:
            with contextlib.suppress(OSError):  # the first fault is the one to tell
                os.ftruncate(self._handle, self._size)
            raise
        self._size += len(line)
        if self._unsynced_since_s is None:
            self._unsynced_since_s = time.monotonic()

    def _rotate_before(self, n_bytes: int) -> None:
        if not self._size or self._size + n_bytes <= self._max_bytes:
            return
        os.fsync(self._handle)
        for number in range(self._max_files - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._max_files == 1:
            self._path.unlink()
        handle, size = _open_mended(self._path)
        os.close(self._handle)
        self._handle, self._size, self._unsynced_since_s = handle, size, None

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def _rest(self, error: OSError) -> None:
        self._retry_at_s = time.monotonic() + RETRY_S
        self._gap_reason = error.strerror or str(error)
        if self.fault is None:
            self.fault = f"the audit log has stopped: {self._gap_reason}"
            log.error("the audit log %s has stopped: %s; inspection goes on", self._path, self._gap_reason)


def read_entries(path: Path) -> Iterator[tuple[int, Json]]:
    """The verdicts of a log file with their line numbers; gaps and a torn last line are passed over.

    Raises:
        UsageError: the file cannot be read, or another line is not one of an audit log.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                entry = _parsed(line)
                if entry is None and line.endswith(b"\n"):
                    raise UsageError(f"{path}: line {number} is not one of an audit log; was the file edited?")
                if entry is not None and "gap" not in entry:
                    yield number, entry
    except OSError as error:
        raise UsageError(f"the audit log {path} cannot be read: {error.strerror}") from error


def _line(entry: Json) -> bytes:
    # ASCII: a part's name may hold bytes of a file name that are no text
    return json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Json | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and "audit_schema" in entry else None


def _lock(path: Path) -> int:
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError(f"another daemon writes the audit log {path}; give each its own audit.file") from error
    return handle


def _open_mended(path: Path) -> tuple[int, int]:
    """A descriptor that appends, and the size, after what a power cut left behind the last whole line was cut off."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        size = os.fstat(handle).st_size
        start = max(size - _TAIL_BYTES, 0)
        tail = os.pread(handle, _TAIL_BYTES, start)
        whole = start + _whole_length(tail, path, from_start=start == 0)
        if whole < size:
            os.ftruncate(handle, whole)
            os.fsync(handle)
            log.warning("the audit log %s ended in a torn line: its last %d bytes were cut off", path, size - whole)
    except BaseException:
        os.close(handle)
        raise
    return handle, whole


def _whole_length(tail: bytes, path: Path, *, from_start: bool) -> int:
    """How much of the tail ends in a line of an audit log; what a power cut leaves is half a line, or zeros."""
    whole = tail.rfind(b"\n") + 1
    last = tail[tail.rfind(b"\n", 0, max(whole - 1, 0)) + 1 : whole]
    if _parsed(last) is not None:
        return whole
    if b"\0" in last and last[:1] in {b"{", b"\0"}:
        return _whole_length(tail[: whole - len(last)], path, from_start=from_start)
    only_a_start = whole == 0 and from_start and (not tail or tail[:1] in {b"{", b"\0"})
    if not only_a_start:
        raise UsageError(f"{path} is not an audit log of edge-uad; name another audit.file, or move this one away")
    return 0
