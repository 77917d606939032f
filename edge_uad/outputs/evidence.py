"""Evidence: frames kept as lossless PNG files with their verdict inside, deleted by count, age and bytes.

A payload that was no picture is kept as it came.
"""

import json
import logging
import os
import re
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from edge_uad.errors import UsageError
from edge_uad.files import is_misconfiguration, is_partial, write_atomically
from edge_uad.net.wire import header_of
from edge_uad.records import AnyFrame, Decision, Frame, Verdict

VERDICT_KEY = "edge-uad verdict"
"""Name of the PNG's text chunk that holds the verdict as JSON."""
PICTURE_SUFFIX, PAYLOAD_SUFFIX = ".png", ".bin"
SECONDS_PER_DAY = 86_400
_PART_CHARS = 64
_COMPRESS_LEVEL = 1  # a camera's noise does not get smaller by trying harder
_PATTERN = re.compile(r"\d{8}T\d{6}\.\d{9}Z-(normal|anomalous|invalid)-[A-Za-z0-9._-]+\.(png|bin)")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]+")

log = logging.getLogger("edge_uad.outputs.evidence")


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    n_bytes: int
    at_s: float


class EvidenceStore:
    """Keeps ``<folder>/<station>/<time>-<decision>-<frame>-<part>.png`` (or ``.bin``). One thread uses it.

    Files appear whole or not at all. Only files named like this are ever deleted.

    Args:
        folder: made where it is missing; what is there from earlier runs counts.
        decisions: whose frames are kept.
        max_files: the oldest ones above go.
        max_bytes: as above, over all files.
        max_age_days: older ones go.

    Raises:
        UsageError: path or permissions are wrong. A disk that fails is no reason not to start: ``fault`` says so.
    """

    def __init__(
        self, folder: Path, *, decisions: Collection[Decision], max_files: int, max_bytes: int, max_age_days: float
    ) -> None:
        self._folder = folder
        self._decisions = frozenset(decisions)
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._max_age_s = max_age_days * SECONDS_PER_DAY
        self.fault: str | None = None
        """Why the newest frame was not kept."""
        self.lost = 0
        """Frames that should have been kept and were not."""
        self._kept: deque[_Kept] = deque()
        self._n_bytes = 0
        self._counted = False
        """What earlier runs left is in ``_kept``."""
        try:
            self._count_earlier()
        except OSError as error:
            reason = error.strerror or str(error)
            if is_misconfiguration(error):
                raise UsageError(
                    f"the evidence folder {folder} cannot be used: {reason}; check the path and its permissions"
                ) from error
            self._report(reason)

    def keep(self, verdict: Verdict, frame: AnyFrame) -> str | None:
        """Write the frame where its decision is among those kept. A disk that refuses is counted, not raised.

        Returns:
            The file, relative to the folder; None where nothing was kept.
        """
        if verdict.decision not in self._decisions:
            return None
        content = _png(verdict, frame) if isinstance(frame, Frame) else frame.payload
        if content is None:
            return None
        suffix = PICTURE_SUFFIX if isinstance(frame, Frame) else PAYLOAD_SUFFIX
        name = f"{_safe(verdict.station)}/{_file_stem(verdict)}{suffix}"
        try:
            self._count_earlier()
            self._remember(_write(self._folder / name, content))
        except OSError as error:
            self.note_lost(error.strerror or str(error))
            return None
        if self.fault is not None:
            log.warning("evidence is kept again")
            self.fault = None
        self.prune()
        return name

    def prune(self) -> None:
        """Delete what is too old or too much; the newest file always stays. Raises nothing."""
        while len(self._kept) > 1 and self._oldest_must_go():
            self._delete_oldest()
        if self._kept and self._too_old(self._kept[0]):
            self._delete_oldest()

    def _count_earlier(self) -> None:
        """Make the folder and take what is in it into account, once; a disk that fails at the start may recover."""
        if self._counted:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._kept = deque(_found(self._folder))
        self._n_bytes = sum(one.n_bytes for one in self._kept)
        self._counted = True
        self.prune()

    def _oldest_must_go(self) -> bool:
        return len(self._kept) > self._max_files or self._n_bytes > self._max_bytes or self._too_old(self._kept[0])

    def _too_old(self, one: _Kept) -> bool:
        return time.time() - one.at_s > self._max_age_s

    def _delete_oldest(self) -> None:
        oldest = self._kept.popleft()
        self._n_bytes -= oldest.n_bytes
        try:
            oldest.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("evidence %s cannot be deleted: %s", oldest.path, error.strerror)

    def _remember(self, one: _Kept) -> None:
        if self._kept and self._kept[-1].path == one.path:
            self._n_bytes -= self._kept.pop().n_bytes
        self._kept.append(one)
        self._n_bytes += one.n_bytes

    def note_lost(self, reason: str) -> None:
        """Count a frame that should have been kept and was not."""
        self.lost += 1
        self._report(reason)

    def _report(self, reason: str) -> None:
        if self.fault is None:
            log.error("evidence is not kept in %s: %s; inspection goes on", self._folder, reason)
        self.fault = f"evidence is not kept: {reason}"


def _found(folder: Path) -> list[_Kept]:
    """Earlier evidence, oldest first; what an earlier run was writing when it ended is removed."""
    kept = []
    for station in (entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)):
        for entry in os.scandir(station):
            if not entry.is_file(follow_symlinks=False):
                continue
            if _PATTERN.fullmatch(entry.name):
                status = entry.stat(follow_symlinks=False)
                kept.append(_Kept(Path(entry.path), status.st_size, status.st_mtime))
            elif is_partial(entry.name):
                Path(entry.path).unlink(missing_ok=True)
    return sorted(kept, key=lambda one: (one.at_s, one.path))


def _file_stem(verdict: Verdict) -> str:
    seconds, rest_ns = divmod(verdict.captured_at_ns, 10**9)
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a sender's clock beyond the year 9999
        at, rest_ns = datetime.fromtimestamp(0, UTC), 0
    part = "" if verdict.part_id is None else f"-{_safe(verdict.part_id)}"
    return f"{at:%Y%m%dT%H%M%S}.{rest_ns:09d}Z-{verdict.decision}-{verdict.frame_id}{part}"


def _safe(name: str) -> str:
    """A file name: no separator, no leading dot, at most 64 characters, of a long name the last ones."""
    return _NOT_ALLOWED.sub("_", name)[-_PART_CHARS:].lstrip(".") or "_"


def _png(verdict: Verdict, frame: Frame) -> bytes:
    about = PngInfo()
    about.add_text(VERDICT_KEY, json.dumps(header_of(verdict), ensure_ascii=True))
    buffer = BytesIO()
    Image.fromarray(frame.image).save(buffer, "PNG", compress_level=_COMPRESS_LEVEL, pnginfo=about)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> _Kept:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return _Kept(path, len(content), time.time())
