"""The archive's thread: everything is written in order, nothing waits for the disk, and what is lost is told."""

import json
import os
import threading
from pathlib import Path

import pytest

from edge_uad.outputs.archive import QUEUE_VERDICTS, Archive
from edge_uad.outputs.audit import AuditLog, read_entries
from edge_uad.outputs.evidence import EvidenceStore
from edge_uad.outputs.fan_out import FanOut
from edge_uad.records import AnyFrame, Decision, StationState, StationStatus, Verdict
from edge_uad.sources.decode import read_image
from tests.fakes import GREEN, RED, RecordingSink, frame, green_inspector, until

INSPECTOR = green_inspector()


def audit_log(path: Path) -> AuditLog:
    return AuditLog(path, max_bytes=10**6, max_files=2, fsync_s=1.0)


def evidence(folder: Path) -> EvidenceStore:
    return EvidenceStore(folder, decisions=[Decision.ANOMALOUS], max_files=100, max_bytes=10**9, max_age_days=1)


def status(message: str | None = None) -> StationStatus:
    return StationStatus(
        station="line",
        at_ns=1,
        state=StationState.RUNNING,
        message=message,
        frames_seen=0,
        judged=0,
        dropped=0,
        invalid=0,
        last_frame_age_s=None,
        bank_id="b",
        model_id="m",
    )


def test_every_verdict_is_written_in_order_with_the_file_kept_of_it(tmp_path: Path) -> None:
    archive = Archive(audit_log(tmp_path / "log"), evidence(tmp_path / "evidence"))
    frames = [frame(frame_id, RED if frame_id % 2 else GREEN) for frame_id in range(QUEUE_VERDICTS)]
    for one in frames:
        archive.publish(INSPECTOR.inspect(one), one)
    archive.close()
    entries = [entry for _, entry in read_entries(tmp_path / "log")]
    assert [entry["frame_id"] for entry in entries] == list(range(QUEUE_VERDICTS))
    assert [entry["evidence"] is not None for entry in entries] == [False, True] * (QUEUE_VERDICTS // 2)
    for entry, one in zip(entries, frames, strict=True):
        if entry["evidence"]:
            assert (read_image(tmp_path / "evidence" / entry["evidence"]) == one.image).all()
    assert (archive.fault, archive.dropped) == (None, 0)


def test_a_disk_that_does_not_answer_holds_nobody_up_and_the_gap_is_written_down(tmp_path: Path) -> None:
    """The disk is a pipe that nobody reads."""
    log = audit_log(tmp_path / "log")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    disk, log._handle = log._handle, writing
    archive = Archive(log, None)
    one = frame()
    verdict = INSPECTOR.inspect(one)
    archive.publish(verdict, one)
    until(lambda: archive.waiting == 0)  # the thread is inside the write
    for _ in range(QUEUE_VERDICTS + 5):
        archive.publish(verdict, one)
    assert (archive.waiting, archive.dropped) == (QUEUE_VERDICTS, 5)
    log._handle = disk
    os.close(reading)  # the write fails at last; what is queued goes to the disk
    until(lambda: archive.waiting == 0)
    archive.close()
    os.close(writing)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = sum("gap" not in line for line in lines) + sum(line.get("gap", 0) for line in lines)
    assert told == QUEUE_VERDICTS + 6


def descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_thread_and_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    threads, descriptors = threading.active_count(), descriptors_open()
    for _ in range(3):
        Archive(audit_log(tmp_path / "log"), evidence(tmp_path / "evidence")).close()
    assert (threading.active_count(), descriptors_open()) == (threads, descriptors)


def test_a_sink_that_fails_keeps_nothing_from_the_others_and_the_status_tells_of_faults() -> None:
    class Broken(RecordingSink):
        def publish(self, verdict: Verdict, frame: AnyFrame) -> None:  # noqa: ARG002  (it only fails)
            raise OSError("broken")

    first, last = RecordingSink(), RecordingSink()
    faults: list[str | None] = [None, "the audit log has stopped: No space left on device"]
    sink = FanOut([first, Broken(), last], faults=[lambda: faults[0], lambda: faults[1]])
    one = frame()
    with pytest.raises(OSError, match="broken"):
        sink.publish(INSPECTOR.inspect(one), one)
    assert len(first.verdicts) == len(last.verdicts) == 1
    sink.publish_status(status("camera 0 is not there"))
    faults[1] = None
    sink.publish_status(status())
    assert [one.message for one in last.statuses] == [
        "camera 0 is not there; the audit log has stopped: No space left on device",
        None,
    ]
    sink.close()
    assert first.closed
    assert last.closed
