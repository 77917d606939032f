"""The way into the records: whatever the disk refuses, every verdict is a row or counted in a gap, never both."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.errors import UsageError
from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.record_writer import BATCH_ROWS, RecordWriter, event
from edge_uad.outputs.store import NewRow, Table
from tests.fakes import until
from tests.processes import Running
from tests.records import entry, events, frame_ids, problems, tampering, verdict, writer

REPO = Path(__file__).parents[3]
ROW = entry()


def row(frame_id: int) -> NewRow:
    return NewRow(Table.VERDICTS, {**ROW, "frame_id": frame_id})


def missing(path: Path) -> int:
    return sum(one["gap"] for one in events(path, "gap"))


class FailingDisk:
    """SQLite on a disk that fails where ``fails`` says: open, begin, insert, commit, or fsync (after the commit)."""

    def __init__(self) -> None:
        self.fails: str | None = None

    def connect(self, path: Path, **options: Any) -> sqlite3.Connection:
        self.refuse("open", "unable to open database file")
        return sqlite3.connect(path, factory=lambda *a, **k: _Connection(self, *a, **k), **options)

    def refuse(self, what: str, message: str) -> None:
        if self.fails == what:
            raise sqlite3.OperationalError(message)


class _Connection(sqlite3.Connection):
    def __init__(self, disk: FailingDisk, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._disk = disk

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql.startswith("BEGIN"):
            self._disk.refuse("begin", "disk I/O error")
        if sql.startswith("INSERT INTO verdicts"):
            self._disk.refuse("insert", "database or disk is full")
        if sql == "COMMIT":
            self._disk.refuse("commit", "disk I/O error")
        cursor = super().execute(sql, *values)
        if sql == "COMMIT":
            self._disk.refuse("fsync", "disk I/O error")
        return cursor


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("disk"), st.sampled_from([None, "open", "begin", "insert", "commit", "fsync"])),
        st.tuples(st.just("verdicts"), st.integers(1, 150)),
        st.tuples(st.just("dropped"), st.integers(1, 5)),
        st.tuples(st.just("commit"), st.none()),
        st.tuples(st.just("replace"), st.none()),
    ),
    max_size=12,
)


def has_tables(path: Path) -> bool:
    """Not where the disk failed before the file's first commit."""
    with tampering(path) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'verdicts'").fetchone() is not None


@settings(max_examples=50)
@given(steps=STEPS)
def test_whatever_fails_each_verdict_is_a_row_or_in_a_gap_and_never_both(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("account")
    path = folder / "now" / "r.sqlite"
    disk = FailingDisk()
    records = writer(path, commit_s=60.0, connect=disk.connect)
    n_given = dropped = 0
    for number, (what, value) in enumerate(steps):
        if what == "disk":
            disk.fails = value
        elif what == "verdicts":
            for _ in range(value):
                records.add(row(n_given))
                n_given += 1
        elif what == "dropped":
            records.note_lost(value, "the disk was too slow")
            dropped += value
        elif what == "replace" and path.exists():
            path.parent.rename(folder / f"{number:03d}")
        else:
            records.commit()
            assert disk.fails or records.fault is None  # it recovers by itself
    disk.fails = None
    records.close()
    paths = [one for one in [*sorted(folder.glob("0*/r.sqlite")), path] if has_tables(one)]
    found = [frame_id for one in paths for frame_id in frame_ids(one)]
    assert found == sorted(set(found))  # in order, none twice, in whichever file
    assert len(found) + sum(map(missing, paths)) == n_given + dropped
    assert sum(map(missing, paths)) == records.lost
    assert [problem for one in paths for problem in problems(one)] == []


def test_a_failing_fsync_leaves_no_row_both_in_the_file_and_counted(tmp_path: Path) -> None:
    """COMMIT says that it failed, though the rows are in the log: they are found there and not written twice."""
    path = tmp_path / "r.sqlite"
    disk = FailingDisk()
    records = writer(path, retry_s=60.0, connect=disk.connect)
    disk.fails = "fsync"
    records.add(row(0))
    assert records.fault == "records are not written: disk I/O error"
    for frame_id in range(1, BATCH_ROWS + 4):  # the first one waits in the file's place
        records.add(row(frame_id))
    assert records.lost == 4
    disk.fails = None
    records.close()
    assert frame_ids(path) == list(range(BATCH_ROWS))
    assert [(one["gap"], one["reason"]) for one in events(path, "gap")] == [
        (4, "records are not written: disk I/O error")
    ]
    assert events(path, "gap")[0]["verdict_id"] == BATCH_ROWS


def test_faults_that_come_and_go_leave_no_descriptor_behind(tmp_path: Path) -> None:
    disk = FailingDisk()
    records = writer(tmp_path / "r.sqlite", connect=disk.connect)
    before = n_descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for frame_id, fails in enumerate(["begin", "open", "commit", "fsync", "insert"] * 4):
        disk.fails = fails
        records.add(row(2 * frame_id))
        disk.fails = None
        records.add(row(2 * frame_id + 1))
        assert records.fault is None
        n_descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    records.close()
    assert n_descriptors == before
    assert frame_ids(tmp_path / "r.sqlite") == list(range(40))


def test_a_short_fault_loses_nothing_and_is_reported_while_it_lasts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite"
    disk = FailingDisk()
    records = writer(path, connect=disk.connect)
    records.add(row(0))
    disk.fails = "open"
    records._close_store()
    records.add(row(1))
    assert records.fault == "records are not written: unable to open database file"
    disk.fails = None
    records.add(row(2))
    assert (records.fault, records.lost) == (None, 0)
    records.close()
    assert frame_ids(path) == [0, 1, 2]
    assert events(path, "gap") == []
    assert "is not written: unable to open database file; inspection goes on" in caplog.text
    assert "is written again; 0 verdicts are missing in all" in caplog.text


def test_a_fault_that_lasts_keeps_a_bounded_number_and_counts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    disk = FailingDisk()
    disk.fails = "open"
    records = writer(path, retry_s=60.0, connect=disk.connect)  # it starts all the same
    for frame_id in range(10_000):
        records.add(row(frame_id))
    assert records._n_waiting <= BATCH_ROWS + 1
    assert records.lost == 10_000 - BATCH_ROWS
    disk.fails = None
    records.close()
    assert frame_ids(path) == list(range(BATCH_ROWS))
    assert missing(path) == 10_000 - BATCH_ROWS


def test_what_cannot_be_written_before_the_end_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FailingDisk()
    records = writer(tmp_path / "r.sqlite", connect=disk.connect)
    disk.fails = "begin"
    for frame_id in range(7):
        records.add(row(frame_id))
    records.note_lost(2, "the disk was too slow")
    records.close()
    assert records.lost == 9
    assert "lacks the last 9 verdicts, 2 of them without a record of the gap: records are not written" in caplog.text
    assert frame_ids(tmp_path / "r.sqlite") == []


def test_a_row_that_json_cannot_hold_is_a_gap_and_the_next_one_a_row(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    records = writer(path)
    records.add(NewRow(Table.VERDICTS, {**ROW, "score": float("nan")}))
    records.add(row(1))
    records.close()
    assert frame_ids(path) == [1]
    [gap] = events(path, "gap")
    assert (gap["gap"], gap["verdict_id"]) == (1, 0)
    assert gap["reason"].startswith("JSON cannot hold it: ")


def test_a_batch_that_nothing_can_write_does_not_keep_the_next_one_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault inside, of no disk: the batch becomes a gap instead of being tried for ever."""
    path = tmp_path / "r.sqlite"
    records = writer(path, commit_s=60.0)
    records.add(row(0))
    records.add(NewRow(Table.EVENTS, {"at_ns": 1}))  # an event must have a name
    records.commit()
    records.add(row(1))
    records.close()
    assert frame_ids(path) == [1]
    assert [(one["gap"], one["gap_events"], one["reason"]) for one in events(path, "gap")] == [
        (1, 1, "fault inside: KeyError: 'event'")
    ]
    assert "fault inside: a batch could not be written" in caplog.text


def test_rows_are_in_the_file_after_commit_s(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    records = writer(path, commit_s=0.2)
    records.add(row(0))
    assert frame_ids(path) == []
    assert records.wait_s is not None
    until(lambda: records.wait_s == 0.0)
    records.commit_when_due()
    assert frame_ids(path) == [0]
    assert records.wait_s is None
    for frame_id in range(1, BATCH_ROWS + 1):
        records.add(row(frame_id))
    assert len(frame_ids(path)) == BATCH_ROWS + 1  # a batch that is full does not wait
    records.close()


# ------------------------------------------------------------------------------------------------ the file's place


def test_two_daemons_do_not_share_a_file(tmp_path: Path) -> None:
    first = writer(tmp_path / "r.sqlite")
    with pytest.raises(UsageError, match="is in use by another daemon; give each its own"):
        writer(tmp_path / "r.sqlite")
    first.close()
    writer(tmp_path / "r.sqlite").close()


KILLED = """
import sys, time
from pathlib import Path
from edge_uad.outputs.record_writer import event
from edge_uad.outputs.store import NewRow, Table
from tests.unit.outputs.test_record_writer import row, writer
records = writer(Path(sys.argv[1]), commit_s=float(sys.argv[2]))
records.add(NewRow(Table.EVENTS, event("start")))
for frame_id in range(10**6):
    records.add(row(frame_id))
    records.commit_when_due()
    written = 0 if records._buffer else frame_id + 1
    if written:
        print(written, flush=True)
"""


def _has_said(running: Running, n_lines: int) -> bool:
    return len(running.out) > n_lines


@pytest.mark.parametrize("commit_s", [0, 0.02])
def test_after_kill_9_at_any_moment_all_that_was_committed_is_there_and_the_lock_is_free(
    tmp_path: Path, commit_s: float
) -> None:
    path = tmp_path / "r.sqlite"
    acknowledged = 0
    for attempt in range(4):
        with Running("-c", KILLED, path, commit_s) as running:
            until(partial(_has_said, running, 3 + 17 * attempt))
            running.signal(signal.SIGKILL)
            running.ends(code=-signal.SIGKILL)
        acknowledged = int(running.out[-1])
        assert (tmp_path / "r.sqlite.lock").exists()
        found = frame_ids(path)
        n_before = len(found) - max(found) - 1
        assert found[n_before:] == list(range(max(found) + 1))
        assert acknowledged <= max(found) + 1 <= acknowledged + BATCH_ROWS + 1
        assert problems(path) == []
    starts = events(path, "start")
    assert [one["interrupted_run_started_at_ns"] for one in starts] == [None, *(one["at_ns"] for one in starts[:-1])]


def test_a_stop_in_order_leaves_no_mark_of_an_interruption_and_notes_the_heads(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    for _ in range(2):
        records = writer(path)
        records.add(NewRow(Table.EVENTS, event("start")))
        records.add(row(1))
        records.add(NewRow(Table.EVENTS, event("stop")))
        heads = [str(head) for head in records.heads if head.table is Table.VERDICTS]
        records.close()
    assert [one["interrupted_run_started_at_ns"] for one in events(path, "start")] == [None, None]
    assert heads[0] in events(path, "stop")[-1]["heads"]


def test_a_folder_that_is_replaced_under_the_daemon_gets_a_new_file_and_the_old_one_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "disk" / "r.sqlite"
    records = writer(path)
    records.keep("bank of line", NewRow(Table.BANKS, {"at_ns": 1, "bank_id": "b"}))
    records.add(row(0))
    (tmp_path / "disk").rename(tmp_path / "old")
    records.add(row(1))
    shutil.rmtree(tmp_path / "disk")
    records.add(row(2))
    records.close()
    assert frame_ids(tmp_path / "old" / "r.sqlite") == [0]
    assert problems(tmp_path / "old" / "r.sqlite") == []
    assert frame_ids(path) == [2]
    assert events(path, "new_file")[0]["reason"] == "the file was removed or replaced"
    with RecordReader(path) as reader:
        assert [one.parsed()["bank_id"] for one in reader.rows(Table.BANKS)] == ["b"]  # it is in use here too


def test_a_file_that_is_damaged_is_moved_aside_and_nothing_is_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite"
    records = writer(path)
    for frame_id in range(300):
        records.add(row(frame_id))
    records.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    records = writer(path)
    records.add(row(300))
    records.close()
    assert frame_ids(path) == [300]
    [aside] = [one for one in tmp_path.iterdir() if ".damaged-" in one.name]
    assert aside.read_bytes() == content
    assert events(path, "new_file")[0]["former_file"] == aside.name
    assert "is damaged: it is kept as" in caplog.text


def test_damage_that_shows_while_the_line_runs_is_found_by_sqlites_own_check(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    records = writer(path)
    for frame_id in range(300):
        records.add(row(frame_id))
    records._close_store()
    content = bytearray(path.read_bytes())
    content[-40_000:] = b"\xa5" * 40_000  # where the newest rows are
    path.write_bytes(content)
    records.add(row(300))
    assert records.lost == 0
    records.add(row(301))
    records.close()
    assert frame_ids(path) == [300, 301]
    assert len([one for one in tmp_path.iterdir() if ".damaged-" in one.name]) == 1


@pytest.mark.parametrize("kind", ["folder", "link", "text", "newer", "below a file", "long name"])
def test_a_path_that_cannot_be_meant_is_refused_at_the_start_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "r.sqlite"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "text":
        path.write_text("notes\n")
    elif kind == "newer":
        writer(path).close()
        with tampering(path) as connection:
            connection.execute("PRAGMA user_version = 99")
    elif kind == "below a file":
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "r.sqlite"
    else:
        path = tmp_path / ("x" * 254)
    before = {one.name for one in tmp_path.iterdir()} | {"r.sqlite.lock"}
    with pytest.raises(UsageError) as error:
        writer(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert {one.name for one in tmp_path.iterdir()} <= before


def test_a_file_that_another_process_keeps_locked_holds_nobody_up_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    records = writer(path)
    records.add(row(0))
    with tampering(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        started_s = time.monotonic()
        records.add(row(1))
        assert time.monotonic() - started_s < 60
        assert records.fault == "records are not written: database is locked"
        connection.execute("COMMIT")
    records.add(row(2))
    assert records.fault is None
    records.close()
    assert frame_ids(path) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------- disks that fail

PROGRAM = """
import resource, sys
from pathlib import Path
from tests.unit.outputs.test_record_writer import row, writer
path, first_s = Path(sys.argv[1]), sys.argv[2]
records = writer(path, commit_s=60.0)
for frame_id in range(600):
    if first_s == "quota" and frame_id in (100, 400):
        limit = resource.RLIM_INFINITY if frame_id == 400 else 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    records.add(row(frame_id))
    if frame_id % 7 == 0:
        records.commit()
    if records.fault is not None:
        print(records.fault, flush=True)
records.close()
print(records.lost, flush=True)
"""


def account(path: Path, lost: int) -> None:
    found = frame_ids(path)
    assert found == sorted(set(found))
    assert len(found) + missing(path) == 600
    assert missing(path) == lost
    assert found[0] == 0
    assert found[-1] > 590  # it went on by itself
    assert problems(path) == []


def test_a_quota_on_files_is_a_full_disk(tmp_path: Path) -> None:
    """The limit on a file's size is the kernel's own; it refuses in the middle of a write."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "r.sqlite", "quota"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    *faults, lost = done.stdout.splitlines()
    assert set(faults) == {"records are not written: disk I/O error"}
    assert int(lost) > 100
    account(tmp_path / "r.sqlite", int(lost))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("calls", "of", "error"),
    [
        ("fsync,fdatasync", None, "EIO"),
        ("pwrite64", None, "ENOSPC"),
        ("pwrite64", None, "EIO"),
        ("openat,open", "r.sqlite-wal", "EIO"),
        ("openat,open", "r.sqlite", "EMFILE"),
        ("ftruncate", None, "EIO"),
    ],
)
def test_system_calls_that_fail_lose_nothing_older_and_nothing_in_silence(
    tmp_path: Path, calls: str, of: str | None, error: str
) -> None:
    """The kernel's answer to the real calls of SQLite is replaced, for a while, from the 15th call on."""
    path = tmp_path / "r.sqlite"
    names = ("r.sqlite", "r.sqlite-wal", "r.sqlite-shm", "r.sqlite-journal") if of is None else (of,)
    first = 15 if of is None else 2
    strace = [
        "strace",
        "-f",
        "-o",
        tmp_path / "trace",
        "-e",
        f"inject={calls}:error={error}:when={first}..{first + 30}",
    ]
    for name in names:
        strace += ["-P", tmp_path / name]
    done = subprocess.run(
        [*strace, "-e", f"trace={calls}", sys.executable, "-c", PROGRAM, path, "-"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip("this machine lets nobody trace")
    assert done.returncode == 0, done.stderr
    *faults, lost = done.stdout.splitlines()
    if of is None and calls != "ftruncate":
        assert "(INJECTED)" in (tmp_path / "trace").read_text()
        assert faults
    account(path, int(lost))


MOVED = """
import sys
from pathlib import Path
from tests.unit.outputs.test_record_writer import row, writer
path = Path(sys.argv[1])
records = writer(path)
for frame_id in range(60):
    records.add(row(frame_id))
    if records.fault is not None:
        print(records.fault, flush=True)
        path.parent.rename(path.parent.with_name("moved"))
records.close()
print(records.lost, flush=True)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_rows_whose_fsync_failed_in_a_file_that_is_then_moved_away_are_in_one_of_the_two(tmp_path: Path) -> None:
    """The failed rows lie in the former file's log, whole: opened anew it would take them for committed."""
    path = tmp_path / "now" / "r.sqlite"
    strace = ["strace", "-f", "-o", tmp_path / "trace", "-P", f"{path}-wal", "-e", "trace=fdatasync,fsync"]
    inject = "inject=fdatasync,fsync:error=EIO:when=20..20"
    command = [*strace, "-e", inject, sys.executable, "-c", MOVED, path]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("this machine lets nobody trace")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["records are not written: disk I/O error", "0"]
    moved = tmp_path / "moved" / "r.sqlite"
    assert [*frame_ids(moved), *frame_ids(path)] == list(range(60))
    assert problems(moved) == problems(path) == []
    assert events(moved)[-1]["event"] == "file_left"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small file system")
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "edge-uad", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    yield disk
    subprocess.run(["umount", disk], check=True)


def filled(disk: Path) -> Path:
    """A file that takes all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    return filler


def test_a_disk_that_runs_full_stops_the_records_and_they_go_on_once_there_is_room(small_disk: Path) -> None:
    path = small_disk / "r.sqlite"
    records = writer(path, commit_s=60.0)
    for frame_id in range(200):
        records.add(row(frame_id))
    records.commit()
    filler = filled(small_disk)
    for frame_id in range(200, 700):
        records.add(row(frame_id))
    records.commit()
    assert records.fault == "records are not written: database or disk is full"
    assert frame_ids(path)[:200] == list(range(200))
    assert records.lost > 0
    filler.unlink()
    records.commit()
    assert records.fault is None
    records.close()
    found = frame_ids(path)
    assert len(found) + missing(path) == 700
    assert missing(path) == records.lost
    assert problems(path) == []


def test_a_disk_that_is_full_at_the_start_is_waited_for(small_disk: Path) -> None:
    filler = filled(small_disk)
    records: RecordWriter = writer(small_disk / "records" / "r.sqlite")
    records.add(verdict(0))
    assert records.fault is not None
    filler.unlink()
    records.add(verdict(1))
    assert records.fault is None
    records.close()
    assert frame_ids(small_disk / "records" / "r.sqlite") == [0, 1]
