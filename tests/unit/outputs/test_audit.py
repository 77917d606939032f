"""What is recorded of a verdict; and the former logs of JSON Lines: read line by line, imported to the letter, once."""

import dataclasses
import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edge_uad.errors import UsageError
from edge_uad.outputs.audit import (
    IMPORT_ROWS,
    Imported,
    audit_entry,
    frame_digest,
    import_log,
    read_entries,
    rotated_files,
)
from edge_uad.outputs.record_reader import Filter, RecordReader
from edge_uad.outputs.store import RecordStore
from edge_uad.records import UnreadableFrame
from tests.fakes import RED, frame, picture
from tests.records import INSPECTOR, entry, events, frame_ids, problems

GAP = {"audit_schema": 1, "written_at_ns": 5, "gap": 3, "reason": "No space left on device"}
ENTRY = entry()


def line(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def log_of(path: Path, first: int, last: int) -> Path:
    path.write_bytes(b"".join(line({**ENTRY, "frame_id": n}) for n in range(first, last)))
    return path


def exported(path: Path, which: Filter | None = None) -> bytes:
    with RecordReader(path) as reader:
        return b"".join(text.encode() + b"\n" for text, _ in reader.log_lines(which))


def test_an_entry_holds_the_verdict_and_the_hashes_of_frame_bank_and_model() -> None:
    one = frame(7, RED)
    verdict = INSPECTOR.inspect(one)
    found = audit_entry(verdict, one, "line/kept.png")
    assert (found["frame_id"], found["decision"], found["score"]) == (7, "anomalous", verdict.score)
    assert (found["bank_id"], found["model_id"], found["evidence"]) == (verdict.bank_id, "f" * 64, "line/kept.png")
    assert found["frame_hw"] == [24, 32]
    assert found["frame_sha256"] == hashlib.sha256(b"24x32\n" + one.image.tobytes()).hexdigest()
    # of a verdict that no trigger asked for there is no trigger's number
    assert {field.name for field in dataclasses.fields(verdict)} - {"heatmap", "trigger_id"} < set(found)
    assert audit_entry(dataclasses.replace(verdict, trigger_id=5), one, None)["trigger_id"] == 5


def test_the_hash_of_a_frame_is_that_of_its_pixels_however_they_lie_in_memory() -> None:
    image = picture(RED).copy()
    image[3, 4] = 1
    wide = np.concatenate([image, image], axis=1)
    assert frame_digest(wide[:, :32]) == frame_digest(image)
    assert frame_digest(image) != frame_digest(np.ascontiguousarray(image.reshape(32, 24, 3)))


def test_a_frame_without_a_picture_has_an_entry_too() -> None:
    torn = UnreadableFrame(
        station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=1, reason="torn", part_id="\udcff"
    )
    found = audit_entry(INSPECTOR.inspect(torn), torn, None)
    assert (found["decision"], found["reason"], found["frame_sha256"]) == ("invalid", "torn", None)
    assert found["part_id"] == "\\xff"  # as it is published
    sent = dataclasses.replace(torn, payload=b"\xff")
    assert audit_entry(INSPECTOR.inspect(sent), sent, None)["frame_sha256"] == hashlib.sha256(b"\xff").hexdigest()


# --------------------------------------------------------------------------------------------------- former logs


def test_a_log_is_imported_to_the_letter_with_its_gaps_in_their_places(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "r.sqlite"
    lines = [
        line(GAP),
        *(line({**ENTRY, "frame_id": n, "part_id": "\udcff"}) for n in range(4)),
        line({**GAP, "gap": 1}),
    ]
    log.write_bytes(b"".join([*lines[:3], lines[5], *lines[3:5]]))
    store = RecordStore(path)
    assert import_log(store, log) == Imported(verdicts=4, gaps=2, missing=4)
    store.close()
    assert exported(path) == log.read_bytes()
    assert exported(path, Filter(station="elsewhere")) == lines[0] + lines[5]
    assert [one["verdict_id"] for one in events(path, "gap")] == [0, 2]
    assert events(path, "import")[0]["missing"] == 4
    assert problems(path) == []


def test_what_was_imported_is_known_again_by_its_content_and_a_log_that_grew_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    log_of(tmp_path / "log.1", 0, 5)
    log_of(tmp_path / "log", 5, 9)
    store = RecordStore(path)
    files = rotated_files(tmp_path / "log")
    assert [one.name for one in files] == ["log.1", "log"]
    assert [import_log(store, one).verdicts for one in files] == [5, 4]
    assert [import_log(store, one) for one in files] == [Imported(known_lines=5), Imported(known_lines=4)]
    (tmp_path / "log.1").rename(tmp_path / "log.2")  # the daemon of before went on: it rotated, and wrote more
    log_of(tmp_path / "log", 5, 12).rename(tmp_path / "log.1")
    log_of(tmp_path / "log", 12, 14)
    assert [import_log(store, one).verdicts for one in rotated_files(tmp_path / "log")] == [0, 3, 2]
    store.close()
    assert frame_ids(path) == list(range(14))


def test_an_import_that_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    path, n = tmp_path / "r.sqlite", 3 * IMPORT_ROWS
    log = log_of(tmp_path / "log", 0, n)

    class Interrupted(RecordStore):
        def note_import(self, beginning: tuple[int, str], *, longer_than: tuple[int, str] | None) -> None:
            if longer_than is not None:
                raise KeyboardInterrupt
            super().note_import(beginning, longer_than=longer_than)

    store = Interrupted(path)
    with pytest.raises(KeyboardInterrupt):
        import_log(store, log)
    store.close()
    assert frame_ids(path) == list(range(IMPORT_ROWS))
    store = RecordStore(path)
    assert import_log(store, log) == Imported(verdicts=n - IMPORT_ROWS, known_lines=IMPORT_ROWS)
    assert len(store.import_progress()) == 1
    store.close()
    assert frame_ids(path) == list(range(n))
    assert problems(path) == []


@pytest.mark.parametrize("torn", [b'{"schema":1,"sta', b"\0\0\0", b"}", line(ENTRY)[:-1]])
def test_a_torn_last_line_is_left_out_and_counted(tmp_path: Path, torn: bytes) -> None:
    log = log_of(tmp_path / "log", 0, 2)
    log.write_bytes(log.read_bytes() + torn)
    store = RecordStore(tmp_path / "r.sqlite")
    assert import_log(store, log) == Imported(verdicts=2, torn_bytes=len(torn))
    store.close()
    assert [one["frame_id"] for _, one in read_entries(log)] == [0, 1]


BAD = [b"edited", b'{"a": 1}', b"", b"\xff", b'{"audit_schema": 1, "gap": "x"}', b"[" * 5000]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_line_that_was_edited_is_named_and_nothing_of_the_log_is_imported(tmp_path: Path, bad: bytes) -> None:
    log = log_of(tmp_path / "log", 0, 1)
    log.write_bytes(log.read_bytes() + bad + b"\n" + line(ENTRY))
    store = RecordStore(tmp_path / "r.sqlite")
    with pytest.raises(UsageError, match="line 2 is not one of an audit log"):
        import_log(store, log)
    store.close()
    assert frame_ids(tmp_path / "r.sqlite") == []
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        list(read_entries(tmp_path))


def test_reading_takes_the_same_memory_whatever_the_length(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "r.sqlite"
    log.write_bytes(line(ENTRY) * 20_000)
    store = RecordStore(path)
    import_log(store, log)
    store.close()

    def peak_bytes(read) -> int:  # type: ignore[no-untyped-def]  # an iterator of anything
        tracemalloc.start()
        assert sum(1 for _ in read()) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert log.stat().st_size > 10 * 2**20
    assert peak_bytes(lambda: read_entries(log)) < 2**20
    with RecordReader(path) as reader:
        assert peak_bytes(reader.log_lines) < 3 * 2**20
