"""Judging recorded frames again: is the kept file the frame that was judged, and would it get this verdict today?"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_uad.errors import FrameError, UsageError
from edge_uad.files import sha256_of_file
from edge_uad.inference.inspector import Inspector
from edge_uad.outputs.audit import frame_digest, read_entries
from edge_uad.outputs.evidence import PAYLOAD_SUFFIX
from edge_uad.outputs.record_reader import RecordReader, is_records_file
from edge_uad.outputs.store import Table
from edge_uad.records import Frame, UInt8, Verdict
from edge_uad.sources.decode import read_image

SCORE_TOLERANCE = 1e-5
"""By so much scores of the same frame, bank and model may differ: machines round differently."""

Entry = dict[str, Any]


class Outcome(StrEnum):
    """What became of a verdict."""

    SAME = "same"
    CHANGED = "changed"
    """Another decision; or, by the same bank and model, another score."""
    ALTERED = "altered"
    """The kept file is not the frame that was judged, or cannot be read."""
    NOT_KEPT = "not kept"
    """There is no file of the frame any more, or there never was one."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A recorded verdict, judged again."""

    entry: Entry
    outcome: Outcome
    verdict: Verdict | None
    """None where there was no frame to judge."""
    note: str | None = None


def recorded_verdicts(path: Path) -> Iterator[Entry]:
    """Verdicts of a records file, or of a log of JSON Lines, one at a time: memory stays constant.

    Raises:
        UsageError: the file cannot be read or is neither.
        RecordsDamagedError: the records file is damaged.
        sqlite3.Error: the records file cannot be read.
    """
    try:
        from_records = is_records_file(path)
    except OSError as error:
        raise UsageError(f"the records file {path} cannot be read: {error.strerror or error}") from error
    if from_records:
        with RecordReader(path) as reader:
            for row in reader.rows(Table.VERDICTS):
                yield row.parsed()
    else:
        for _, entry in read_entries(path):
            yield entry


def replayed(entries: Iterable[Entry], inspector: Inspector, evidence: Path) -> Iterator[Replayed]:
    """Judge kept frames again, one after the other.

    Args:
        entries: recorded verdicts.
        inspector: with the bank to judge by.
        evidence: the folder that the entries' files are relative to; files outside it are not read.
    """
    folder = evidence.resolve()
    for entry in entries:
        yield _replayed(entry, inspector, folder)


def _replayed(entry: Entry, inspector: Inspector, folder: Path) -> Replayed:
    try:
        path = _kept_file(entry, folder)
        if path is None:
            return Replayed(entry, Outcome.NOT_KEPT, None)
        if path.suffix == PAYLOAD_SUFFIX:
            return _replayed_payload(entry, path)
        image = read_image(path)
    except (FrameError, OSError) as error:
        return Replayed(entry, Outcome.ALTERED, None, f"{entry.get('evidence')}: {error}")
    if frame_digest(image) != entry.get("frame_sha256"):
        return Replayed(entry, Outcome.ALTERED, None, f"{path} is not the frame that was judged")
    verdict = inspector.inspect(_frame(entry, image))
    return Replayed(entry, Outcome.CHANGED if _differs(entry, verdict) else Outcome.SAME, verdict)


def _replayed_payload(entry: Entry, path: Path) -> Replayed:
    """What was no picture is none today, as long as it is the same bytes."""
    if sha256_of_file(path) == entry.get("frame_sha256"):
        return Replayed(entry, Outcome.SAME, None)
    return Replayed(entry, Outcome.ALTERED, None, f"{path} is not what came for this frame")


def _kept_file(entry: Entry, folder: Path) -> Path | None:
    name = entry.get("evidence")
    if not isinstance(name, str) or "\0" in name:
        return None
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None


def _frame(entry: Entry, image: UInt8) -> Frame:
    part_id = entry.get("part_id")
    return Frame(
        station=str(entry.get("station")),
        frame_id=_whole(entry.get("frame_id")),
        part_id=None if part_id is None else str(part_id),
        captured_at_ns=_whole(entry.get("captured_at_ns")),
        captured_mono_ns=time.monotonic_ns(),
        image=image,
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _differs(entry: Entry, verdict: Verdict) -> bool:
    if entry.get("decision") != verdict.decision:
        return True
    same_artefacts = (entry.get("bank_id"), entry.get("model_id")) == (verdict.bank_id, verdict.model_id)
    score = entry.get("score")
    if not same_artefacts or not isinstance(score, int | float) or verdict.score is None:
        return same_artefacts and score != verdict.score
    return abs(score - verdict.score) > SCORE_TOLERANCE
