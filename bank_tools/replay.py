"""Judging again what an audit log tells of: was it this frame, and would it get this verdict today?"""

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Inspector
from edge_uad.outputs.audit import frame_digest
from edge_uad.outputs.evidence import PAYLOAD_SUFFIX
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
    """A line of the log, judged again."""

    entry: Entry
    outcome: Outcome
    verdict: Verdict | None
    """None where there was no frame to judge."""
    note: str | None = None


def replayed(entries: Iterable[Entry], inspector: Inspector, evidence: Path) -> Iterator[Replayed]:
    """Judge kept frames again, one after the other.

    Args:
        entries: of an audit log.
        inspector: with the bank to judge by.
        evidence: the folder that the entries' files are relative to; files outside are not looked at.
    """
    folder = evidence.resolve()
    for entry in entries:
        path = _kept_file(entry, folder)
        if path is None:
            yield Replayed(entry, Outcome.NOT_KEPT, None)
            continue
        if path.suffix == PAYLOAD_SUFFIX:
            yield _replayed_payload(entry, path)
            continue
        try:
            image = read_image(path)
        except FrameError as error:
            yield Replayed(entry, Outcome.ALTERED, None, f"{path}: {error}")
            continue
        if frame_digest(image) != entry.get("frame_sha256"):
            yield Replayed(entry, Outcome.ALTERED, None, f"{path} is not the frame that was judged")
            continue
        verdict = inspector.inspect(_frame(entry, image))
        yield Replayed(entry, Outcome.CHANGED if _differs(entry, verdict) else Outcome.SAME, verdict)


def _replayed_payload(entry: Entry, path: Path) -> Replayed:
    """What was no picture is none today, as long as it is the same bytes."""
    if hashlib.sha256(path.read_bytes()).hexdigest() == entry.get("frame_sha256"):
        return Replayed(entry, Outcome.SAME, None)
    return Replayed(entry, Outcome.ALTERED, None, f"{path} is not what came for this frame")


def _kept_file(entry: Entry, folder: Path) -> Path | None:
    name = entry.get("evidence")
    if not isinstance(name, str) or "\0" in name:
        return None
    path = (folder / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None


def _frame(entry: Entry, image: UInt8) -> Frame:
    return Frame(
        station=str(entry.get("station")),
        frame_id=int(entry.get("frame_id", 0)),
        part_id=entry.get("part_id"),
        captured_at_ns=int(entry.get("captured_at_ns", 0)),
        captured_mono_ns=time.monotonic_ns(),
        image=image,
    )


def _differs(entry: Entry, verdict: Verdict) -> bool:
    if entry.get("decision") != verdict.decision:
        return True
    same_artefacts = (entry.get("bank_id"), entry.get("model_id")) == (verdict.bank_id, verdict.model_id)
    score = entry.get("score")
    if not same_artefacts or score is None or verdict.score is None:
        return same_artefacts and score != verdict.score
    return abs(float(score) - verdict.score) > SCORE_TOLERANCE
