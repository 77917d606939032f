"""The record store: chained rows, whole after a power cut at any byte, bounded by count, age and bytes, upgraded."""

import dataclasses
import hashlib
import os
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.errors import RecordsDamagedError, UsageError
from edge_uad.outputs.audit import audit_entry
from edge_uad.outputs.record_reader import Filter, RecordReader
from edge_uad.outputs.store import (
    COLUMNS,
    MIGRATIONS,
    MIN_BYTES,
    LabelValue,
    Limits,
    NewRow,
    RecordStore,
    Table,
    encode,
    parse_link,
)
from tests.fakes import RED, frame
from tests.records import INSPECTOR, entry, events, frame_ids, problems, tampering, verdict

N_COMMITS = 12


def label(store: RecordStore, verdict_id: int, who: str = "A. Smith") -> None:
    store.label(verdict_id, who=who, what=LabelValue.NORMAL)


def test_a_rows_hash_is_that_of_the_row_before_the_table_the_id_and_the_entry(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r.sqlite")
    entries = [entry(frame_id) for frame_id in range(3)]
    heads = [store.write(NewRow(Table.VERDICTS, one))[0] for one in entries]
    store.close()
    before = bytes(32)
    for number, (one, head) in enumerate(zip(entries, heads, strict=True), start=1):
        before = hashlib.sha256(before + b"verdicts\0" + number.to_bytes(8, "big") + encode(one).encode()).digest()
        assert (head.id, head.hash) == (number, before)
        assert parse_link(str(head)) == head
    assert frame_ids(tmp_path / "r.sqlite") == [0, 1, 2]
    assert problems(tmp_path / "r.sqlite") == []


def test_every_field_is_a_column_that_sql_can_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    RecordStore(path).write(NewRow(Table.VERDICTS, {**entry(7), "evidence": "line/a.png"}))
    with tampering(path) as connection:
        found = connection.execute("SELECT station, frame_id, decision, evidence FROM verdicts").fetchall()
        kept = connection.execute("SELECT verdict_id, path FROM evidence").fetchall()
    assert found == [("line", 7, "anomalous", "line/a.png")]
    assert kept == [(1, "line/a.png")]
    assert {*entry(), "trigger_id"} - {"schema", "audit_schema"} == set(COLUMNS[Table.VERDICTS])


def test_a_part_whose_name_is_no_text_is_kept_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    odd = {**entry(), "part_id": "\udcff\0\x1b[2J\ud800"}
    RecordStore(path).write(NewRow(Table.VERDICTS, odd))
    with RecordReader(path) as reader:
        [row] = reader.newest(Table.VERDICTS, 5)
        assert row.parsed() == odd
        assert [one.id for one in reader.rows(Table.VERDICTS, Filter(station="line"))] == [1]
    assert problems(path) == []


# ------------------------------------------------------------------------------------------------------ power cuts


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A file that was never checkpointed, with its log, and how long the log was after each commit of one verdict."""
    folder = tmp_path_factory.mktemp("written")
    path = folder / "r.sqlite"
    store = RecordStore(path)
    store.checkpoint()
    lengths = []
    for frame_id in range(N_COMMITS):
        store.write(verdict(frame_id))
        lengths.append((folder / "r.sqlite-wal").stat().st_size)
    shutil.copytree(folder, folder / "cut")
    store.close()
    return folder / "cut", lengths


@settings(deadline=None, max_examples=150)
@given(cut=st.floats(0, 1), junk=st.sampled_from([b"", b"\0" * 8192, b"\xa5" * 5000, b"{"]))
def test_whatever_a_power_cut_leaves_of_the_log_every_commit_before_it_is_there(
    tmp_path_factory: pytest.TempPathFactory, written: tuple[Path, list[int]], cut: float, junk: bytes
) -> None:
    folder, lengths = written
    copy = tmp_path_factory.mktemp("cut") / "r.sqlite"
    log = (folder / "r.sqlite-wal").read_bytes()
    kept = log[: round(cut * len(log))]
    shutil.copyfile(folder / "r.sqlite", copy)
    copy.with_name("r.sqlite-wal").write_bytes(kept + junk)
    store = RecordStore(copy)
    store.write(verdict(99))
    store.close()
    whole = sum(length <= len(kept) for length in lengths)
    assert frame_ids(copy) == [*range(whole), 99]
    assert problems(copy) == []


@pytest.mark.parametrize("lost_bytes", [0, 1, 4096])
def test_a_power_cut_while_the_log_is_written_back_loses_nothing(
    tmp_path: Path, written: tuple[Path, list[int]], lost_bytes: int
) -> None:
    """A checkpoint writes pages whose content the log still holds: torn ones are written again."""
    folder, _ = written
    done = tmp_path / "done.sqlite"
    shutil.copyfile(folder / "r.sqlite", done)
    shutil.copyfile(folder / "r.sqlite-wal", tmp_path / "done.sqlite-wal")
    RecordStore(done).close()
    after = done.read_bytes()
    before = (folder / "r.sqlite").read_bytes()
    n_pages = max(len(before), len(after)) // 4096
    for n_written in range(n_pages + 1):
        path = tmp_path / f"{n_written}.sqlite"
        torn = after[: max(n_written * 4096 - lost_bytes, 0)]
        path.write_bytes(torn + before[len(torn) :])
        shutil.copyfile(folder / "r.sqlite-wal", tmp_path / f"{n_written}.sqlite-wal")
        RecordStore(path).close()
        assert frame_ids(path) == list(range(N_COMMITS))
        assert problems(path) == []


# -------------------------------------------------------------------------------------------------------- retention


def test_the_oldest_rows_go_where_there_are_too_many_and_the_chain_still_fits(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    one = entry()
    store.write(*(NewRow(Table.VERDICTS, {**one, "frame_id": n}) for n in range(1000)))
    limits = Limits(max_rows=100, max_bytes=2**40, max_age_days=1000)
    rounds = 0
    while store.prune(limits):
        rounds += 1
    store.write(verdict(1000))
    store.close()
    assert rounds >= 3  # no long transaction
    assert frame_ids(path) == list(range(900, 1001))
    assert problems(path) == []


def test_what_is_too_old_goes_and_labels_banks_and_recipes_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    old = 10**9  # of 1970
    store.write(
        NewRow(Table.BANKS, {"at_ns": old, "bank_id": "b"}), NewRow(Table.RECIPES, {"at_ns": old, "recipe_id": "r"})
    )
    store.write(*(NewRow(Table.VERDICTS, {**entry(n), "written_at_ns": old}) for n in range(5)))
    store.write(NewRow(Table.EVENTS, {"event": "gap", "at_ns": old, "gap": 3, "reason": "full"}))
    label(store, 1)
    store.write(*map(verdict, range(5, 8)))
    store.write(NewRow(Table.EVENTS, {"event": "stop", "at_ns": 2**62}))
    while store.prune(Limits(max_rows=100, max_bytes=2**40, max_age_days=30)):
        pass
    store.close()
    assert frame_ids(path) == [5, 6, 7]
    assert [one["event"] for one in events(path)] == ["stop"]
    with RecordReader(path) as reader:
        kept = {table: len(list(reader.rows(table))) for table in Table}
    assert (kept[Table.LABELS], kept[Table.BANKS], kept[Table.RECIPES]) == (1, 1, 1)
    assert problems(path) == []


def test_the_file_and_its_log_stay_below_max_bytes(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    limits = Limits(max_rows=10**9, max_bytes=MIN_BYTES, max_age_days=1000)
    batch = [verdict(frame_id) for frame_id in range(128)]
    largest = 0
    for _ in range(120):
        store.write(*batch)
        for _ in range(8):
            if not store.prune(limits):
                break
        largest = max(largest, sum((tmp_path / name).stat().st_size for name in ("r.sqlite", "r.sqlite-wal")))
    assert 0.5 * MIN_BYTES < largest <= MIN_BYTES
    n_rows = len(frame_ids(path))
    assert 2000 < n_rows < 120 * 128
    while store.prune(Limits(max_rows=1, max_bytes=MIN_BYTES, max_age_days=1000)):
        pass
    store.close()
    assert frame_ids(path) == [127]
    assert problems(path) == []


def test_a_file_that_shrinks_its_limit_shrinks_by_small_steps(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    batch = [verdict(frame_id) for frame_id in range(200)]
    store.write(*batch * 100)
    store.checkpoint()
    assert path.stat().st_size > 1.5 * MIN_BYTES
    limits = Limits(max_rows=10**9, max_bytes=MIN_BYTES, max_age_days=1000)
    while store.prune(limits):
        pass
    store.checkpoint()
    assert path.stat().st_size <= MIN_BYTES
    store.close()
    assert len(frame_ids(path)) > 2000
    assert problems(path) == []


# ----------------------------------------------------------------------------------------------- several processes


def test_two_writers_chain_one_behind_the_other(tmp_path: Path) -> None:
    """The daemon appends verdicts while the console appends labels, and another one verdicts of its own."""
    path = tmp_path / "r.sqlite"
    RecordStore(path).write(verdict(0))
    n = 60

    def verdicts() -> None:
        with closing(RecordStore(path)) as store:
            for frame_id in range(n):
                store.write(verdict(frame_id))

    def labels() -> None:
        with closing(RecordStore(path)) as store:
            for _ in range(n):
                label(store, 1)

    threads = [threading.Thread(target=one) for one in (verdicts, labels, verdicts, labels)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with RecordReader(path) as reader:
        assert (reader.head(Table.VERDICTS).id, reader.head(Table.LABELS).id) == (1 + 2 * n, 2 * n)
    assert problems(path) == []


def test_a_label_repeats_what_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    one = entry(7)
    store.write(NewRow(Table.VERDICTS, one))
    store.label(1, who="A. Smith", what=LabelValue.UNSURE, comment="dust?")
    with pytest.raises(UsageError, match="there is no verdict 2"):
        store.label(2, who="A. Smith", what=LabelValue.NORMAL)
    store.close()
    with RecordReader(path) as reader:
        [row] = reader.rows(Table.LABELS)
    found = row.parsed()
    assert (found["who"], found["what"], found["comment"], found["verdict_id"]) == ("A. Smith", "unsure", "dust?", 1)
    assert {name: found[name] for name in ("station", "frame_id", "frame_sha256", "decision")} == {
        name: one[name] for name in ("station", "frame_id", "frame_sha256", "decision")
    }


def test_a_reader_sees_what_is_written_meanwhile_and_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    one = entry()
    store.write(*(NewRow(Table.VERDICTS, {**one, "frame_id": n}) for n in range(1200)))
    with RecordReader(path) as reader:
        rows = reader.rows(Table.VERDICTS)
        first = [next(rows).parsed()["frame_id"] for _ in range(10)]
        store.write(*map(verdict, range(1200, 1300)))
        store.checkpoint()  # nothing keeps it from emptying the log
        assert (tmp_path / "r.sqlite-wal").stat().st_size == 0
        rest = [row.parsed()["frame_id"] for row in rows]
    assert first + rest == list(range(1300))
    store.close()


# --------------------------------------------------------------------------------------------------- schema, files


def test_an_older_schema_is_upgraded_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    """Today's file is the older one; the next version's step is made up here."""
    path = tmp_path / "r.sqlite"
    RecordStore(path).write(verdict(0), verdict(1))
    newer = (*MIGRATIONS, ("CREATE TABLE operators (id INTEGER PRIMARY KEY)", "INSERT INTO operators VALUES (5)"))
    store = RecordStore(path, migrations=newer)
    store.write(verdict(2))
    store.close()
    with tampering(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
        assert connection.execute("SELECT id FROM operators").fetchall() == [(5,)]
        assert connection.execute("SELECT count(*) FROM verdicts").fetchone() == (3,)
    RecordStore(path, migrations=newer).close()  # once is enough
    for refused in (lambda: RecordStore(path), lambda: RecordReader(path)):
        with pytest.raises(UsageError, match=r"was written by a newer edge-uad \(schema 3, this one knows 2\)"):
            refused()


def test_a_file_of_schema_1_is_upgraded_to_hold_trigger_ids(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    RecordStore(path, migrations=MIGRATIONS[:1]).write(verdict(0))
    with pytest.raises(UsageError, match="records of schema 1, this edge-uad reads 2"):
        RecordReader(path)
    store = RecordStore(path)
    triggered = dataclasses.replace(frame(1, RED), trigger_id=7, triggered_mono_ns=0)
    store.write(NewRow(Table.VERDICTS, audit_entry(INSPECTOR.inspect(triggered), triggered, None)))
    store.close()
    assert problems(path) == []
    with tampering(path) as connection:
        assert connection.execute("SELECT frame_id, trigger_id FROM verdicts").fetchall() == [(0, None), (1, 7)]


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    RecordStore(path).write(verdict(0))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        RecordStore(path, migrations=(*MIGRATIONS, ("CREATE TABLE operators (id)", "DROP TABLE operator")))
    assert frame_ids(path) == [0]
    assert problems(path) == []


def test_an_older_file_is_read_after_the_upgrade_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    RecordStore(path).close()
    with pytest.raises(UsageError, match=r"has records of schema 2, this edge-uad reads 3; run: edge-uad records upgr"):
        RecordReader(path, schema=3)
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="is empty; name a records file"):
        RecordReader(tmp_path / "empty")


@pytest.mark.parametrize("content", [b"root:x:0:0\n", b"\0" * 5000, b"SQLite format 3\0"])
def test_another_programs_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    for refused in (lambda: RecordStore(path), lambda: RecordReader(path)):
        with pytest.raises(UsageError, match="is not a records file of edge-uad"):
            refused()
    assert path.read_bytes() == content


def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with tampering(path) as connection:
        connection.execute("CREATE TABLE verdicts (id)")
    content = path.read_bytes()
    for refused in (lambda: RecordStore(path), lambda: RecordReader(path)):
        with pytest.raises(UsageError, match="is not a records file of edge-uad"):
            refused()
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["other.db"]


def test_opening_a_file_writes_nothing_to_it(tmp_path: Path) -> None:
    """On a full disk it could not be opened otherwise, though a checkpoint would make room."""
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    store.write(verdict(0))
    store.close()
    content = path.read_bytes()
    store = RecordStore(path)
    assert (tmp_path / "r.sqlite-wal").stat().st_size == 0
    store.close()
    assert path.read_bytes() == content


def test_links_folders_and_what_is_missing_are_refused_in_one_sentence(tmp_path: Path) -> None:
    RecordStore(tmp_path / "r.sqlite").write(verdict())
    (tmp_path / "link").symlink_to("r.sqlite")
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(UsageError, match="is not a regular file"):
            RecordStore(path)
    assert frame_ids(tmp_path / "link") == [0]  # reading through a link does no harm
    with pytest.raises(UsageError, match="there is no such records file"):
        RecordReader(tmp_path / "missing")


def test_the_file_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    store.write(verdict())
    modes = {stat.S_IMODE(one.stat().st_mode) & 0o007 for one in tmp_path.iterdir()}
    store.close()
    assert modes == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a read-only file system")
def test_a_file_on_a_read_only_disk_can_be_read(tmp_path: Path, read_only_copy) -> None:  # type: ignore[no-untyped-def]
    store = RecordStore(tmp_path / "r.sqlite")
    store.write(verdict(7))
    store.close()
    assert frame_ids(read_only_copy(tmp_path) / "r.sqlite") == [7]


@pytest.fixture
def read_only_copy(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]  # a function of a folder
    import subprocess  # noqa: PLC0415  (here alone)

    mounted: list[Path] = []

    def mount(folder: Path) -> Path:
        target = tmp_path_factory.mktemp("disk")
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "edge-uad", target], check=False).returncode:
            pytest.skip("this machine lets nobody mount")
        mounted.append(target)
        shutil.copytree(folder, target, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", target], check=True)
        return target

    yield mount
    for target in mounted:
        subprocess.run(["umount", target], check=True)


def test_a_damaged_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    store.write(*map(verdict, range(500)))
    store.close()
    content = bytearray(path.read_bytes())
    content[8192:60_000] = b"\xa5" * (60_000 - 8192)
    path.write_bytes(content)
    with pytest.raises(RecordsDamagedError, match="is damaged"):
        frame_ids(path)
    found = problems(path)
    assert any("the file is damaged" in one for one in found)
    assert "\n" not in "".join(found)
