"""The archive's thread: everything is written in order, nothing waits for the disk, and what is lost is counted."""

import dataclasses
import threading
from pathlib import Path

import pytest

from edge_uad.outputs.archive import QUEUE_VERDICTS, Archive
from edge_uad.outputs.evidence import EvidenceStore
from edge_uad.outputs.fan_out import FanOut
from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.store import Table
from edge_uad.records import AnyFrame, Decision, StationState, StationStatus, UnreadableFrame, Verdict
from edge_uad.sources.decode import read_image
from tests.fakes import GREEN, RED, RecordingSink, frame, green_inspector, until
from tests.records import events, frame_ids, problems, tampering, writer

INSPECTOR = green_inspector()


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
    path = tmp_path / "r.sqlite"
    archive = Archive(writer(path), evidence(tmp_path / "evidence"))
    frames = [frame(frame_id, RED if frame_id % 2 else GREEN) for frame_id in range(QUEUE_VERDICTS)]
    for one in frames:
        archive.publish(INSPECTOR.inspect(one), one)
    archive.close()
    with RecordReader(path) as reader:
        entries = [row.parsed() for row in reader.rows(Table.VERDICTS)]
    assert [entry["frame_id"] for entry in entries] == list(range(QUEUE_VERDICTS))
    assert [entry["evidence"] is not None for entry in entries] == [False, True] * (QUEUE_VERDICTS // 2)
    for entry, one in zip(entries, frames, strict=True):
        if entry["evidence"]:
            assert (read_image(tmp_path / "evidence" / entry["evidence"]) == one.image).all()
    assert (archive.fault, archive.dropped) == (None, 0)
    assert problems(path) == []


def test_a_disk_that_does_not_answer_holds_nobody_up_and_the_gap_is_written_down(tmp_path: Path) -> None:
    """Another process keeps the file locked: a commit waits inside SQLite."""
    path = tmp_path / "r.sqlite"
    archive = Archive(writer(path), None)
    one = frame()
    verdict = INSPECTOR.inspect(one)
    with tampering(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        archive.publish(verdict, one)
        until(lambda: archive.waiting == 0)  # the thread is inside the commit, or about to be
        for _ in range(QUEUE_VERDICTS + 5):
            archive.publish(verdict, one)
        assert archive.waiting <= QUEUE_VERDICTS
        dropped = archive.dropped
        assert 4 <= dropped <= 5  # the thread may have taken one more
        connection.execute("COMMIT")
    until(lambda: archive.waiting == 0)
    archive.close()
    assert len(frame_ids(path)) == QUEUE_VERDICTS + 6 - dropped
    assert [(gap["gap"], gap["reason"]) for gap in events(path, "gap")] == [(dropped, "the disk was too slow")]
    assert archive.audit_lost == dropped


def test_a_frame_that_cannot_be_kept_for_any_reason_has_its_row_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not only an OSError: here the encoder refuses the picture."""
    path = tmp_path / "r.sqlite"
    archive = Archive(writer(path), evidence(tmp_path / "evidence"))
    good, bad = frame(0, RED), frame(1, RED)
    verdicts = [INSPECTOR.inspect(good), INSPECTOR.inspect(bad)]
    unwritable = dataclasses.replace(bad, image=bad.image.astype("float64"))  # no PNG holds that
    archive.publish(verdicts[1], unwritable)
    until(lambda: archive.evidence_lost == 1)
    assert archive.fault is not None
    assert archive.fault.startswith("evidence is not kept: fault inside: TypeError")
    archive.publish(verdicts[0], good)
    archive.close()
    assert frame_ids(path) == [1, 0]
    assert (archive.fault, archive.audit_lost, archive.evidence_lost) == (None, 0, 1)
    assert "frame 1 could not be kept as evidence" in caplog.text


def test_a_verdict_that_cannot_be_recorded_for_any_reason_is_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    archive = Archive(writer(path), None)
    good, bad = frame(0, RED), frame(1, RED)
    no_bytes = UnreadableFrame(
        station="line",
        frame_id=1,
        captured_at_ns=1,
        captured_mono_ns=1,
        reason="torn",
        payload="text, which has no hash",  # type: ignore[arg-type]  # what is not foreseen
    )
    archive.publish(INSPECTOR.inspect(bad), no_bytes)
    archive.publish(INSPECTOR.inspect(good), good)
    archive.close()
    assert frame_ids(path) == [0]
    [gap] = events(path, "gap")
    assert (gap["gap"], archive.audit_lost) == (1, 1)
    assert gap["reason"].startswith("fault inside: TypeError")


def test_start_stop_states_banks_refusals_and_the_recipe_are_recorded_once_each(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    manifest = INSPECTOR.manifest
    archive = Archive(writer(path), None, recipe={"recipe_id": "r", "settings": {}}, manifest_of=lambda _: manifest)
    first = dataclasses.replace(status(), bank_id=manifest.bank_id)
    for one in (
        first,
        first,
        dataclasses.replace(first, refused_bank="not a bank"),
        dataclasses.replace(first, refused_bank="not a bank", state=StationState.RECONNECTING, message="no camera"),
        dataclasses.replace(first, bank_id="other"),
    ):
        archive.publish_status(one)
    archive.close()
    found = [(one["event"], one.get("reason") or one.get("bank_id") or one.get("state")) for one in events(path)]
    assert found == [
        ("start", None),
        ("state", "running"),
        ("bank", manifest.bank_id),
        ("bank_refused", "not a bank"),
        ("state", "no camera"),
        ("state", "running"),
        ("bank", "other"),
        ("stop", None),
    ]
    with RecordReader(path) as reader:
        [bank] = [row.parsed() for row in reader.rows(Table.BANKS)]
        [recipe] = [row.parsed() for row in reader.rows(Table.RECIPES)]
    assert (bank["bank_id"], bank["threshold"], bank["station"]) == (manifest.bank_id, manifest.threshold, "line")
    assert recipe["recipe_id"] == "r"
    again = Archive(writer(path), None, recipe={"recipe_id": "r", "settings": {}}, manifest_of=lambda _: manifest)
    again.publish_status(first)
    again.close()
    with RecordReader(path) as reader:
        assert [reader.head(table).id for table in (Table.BANKS, Table.RECIPES)] == [1, 1]


def descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_thread_and_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    threads, descriptors = threading.active_count(), descriptors_open()
    for _ in range(3):
        Archive(writer(tmp_path / "r.sqlite"), evidence(tmp_path / "evidence")).close()
    assert (threading.active_count(), descriptors_open()) == (threads, descriptors)


def test_a_sink_that_fails_keeps_nothing_from_the_others_and_the_status_tells_of_faults() -> None:
    class Broken(RecordingSink):
        def publish(self, verdict: Verdict, frame: AnyFrame) -> None:  # noqa: ARG002  (it only fails)
            raise OSError("broken")

    first, last = RecordingSink(), RecordingSink()
    faults: list[str | None] = [None, "records are not written: database or disk is full"]
    sink = FanOut([first, Broken(), last], faults=[lambda: faults[0], lambda: faults[1]])
    one = frame()
    with pytest.raises(OSError, match="broken"):
        sink.publish(INSPECTOR.inspect(one), one)
    assert len(first.verdicts) == len(last.verdicts) == 1
    sink.publish_status(status("camera 0 is not there"))
    faults[1] = None
    sink.publish_status(status())
    assert [one.message for one in last.statuses] == [
        "camera 0 is not there; records are not written: database or disk is full",
        None,
    ]
    sink.close()
    assert first.closed
    assert last.closed
