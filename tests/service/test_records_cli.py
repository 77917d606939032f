"""edge-uad records: export, import, verify, show, head, label; one sentence for whatever is wrong with a file."""

import csv
import json
from pathlib import Path

import pytest

from edge_uad.cli import app
from edge_uad.errors import EdgeUadError
from edge_uad.outputs.store import NewRow, RecordStore, Table
from tests.conftest import edge_uad
from tests.processes import Running
from tests.records import entry, frame_ids, problems, tampering, verdict

DAY_NS = 86_400 * 10**9
MAY_1_NS = 1_777_593_600 * 10**9  # 2026-05-01T00:00Z
ODD = 'tray/\x1b[2J\udcff,"4\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Six verdicts of three days and two stations, a gap, a label."""
    path = tmp_path / "records.sqlite"
    store = RecordStore(path)
    for n in range(6):
        if n == 4:
            gap = {"event": "gap", "at_ns": MAY_1_NS + 2 * DAY_NS, "gap": 3, "reason": "full", "audit_schema": 1}
            store.write(NewRow(Table.EVENTS, gap))
        one = {
            **entry(n),
            "station": f"line{n % 2}",
            "captured_at_ns": MAY_1_NS + n // 2 * DAY_NS,
            "decision": ("normal", "anomalous", "invalid")[n % 3],
            "part_id": ODD,
        }
        store.write(NewRow(Table.VERDICTS, one))
    store.close()
    return path


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_export_gives_the_lines_of_the_former_log_and_they_can_be_imported_again(file: Path, tmp_path: Path) -> None:
    done = edge_uad("records", "export", file)
    found = lines(done.stdout)
    assert [one.get("frame_id", "gap") for one in found] == [0, 1, 2, 3, "gap", 4, 5]
    assert found[4] == {"audit_schema": 1, "written_at_ns": MAY_1_NS + 2 * DAY_NS, "gap": 3, "reason": "full"}
    assert found[0]["part_id"] == ODD
    assert "6 verdicts; 3 verdicts are missing in 1 gaps" in done.stderr
    log = tmp_path / "again.jsonl"
    edge_uad("records", "export", file, "--out", log)
    assert log.read_text() == done.stdout
    assert "6 verdicts; 3 verdicts are missing in 1 gaps" in edge_uad("records", "import", log).stderr
    assert "0 verdicts; 7 lines had been imported before" in edge_uad("records", "import", log).stderr
    assert edge_uad("records", "export", tmp_path / "again.sqlite").stdout == done.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--station", "line1"], [1, 3, 5]),
        (["--decision", "invalid"], [2, 5]),
        (["--decision", "invalid", "--decision", "normal", "--station", "line0"], [0, 2]),
        (["--since", "2026-05-02T00:00+00:00"], [2, 3, 4, 5]),
        (["--since", "2026-05-02T00:00+00:00", "--until", "2026-05-03T00:00+00:00"], [2, 3]),
        (["--station", "none"], []),
    ],
)
def test_filters(
    file: Path, tmp_path: Path, options: list[str], expected: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    app(["records", "export", str(file), "--out", str(tmp_path / "out"), *options], standalone_mode=False)
    found = lines((tmp_path / "out").read_text())
    assert [one["frame_id"] for one in found if "gap" not in one] == expected
    capsys.readouterr()
    app(["records", "show", str(file), "--json", *options], standalone_mode=False)
    assert [one["frame_id"] for one in lines(capsys.readouterr().out)] == expected


def test_csv_has_every_field_and_says_how_many_are_missing(file: Path, tmp_path: Path) -> None:
    store = RecordStore(file)
    store.write(NewRow(Table.VERDICTS, {**entry(6), "of_a_later_version": {"a": 1}}))
    store.close()
    out = tmp_path / "out.csv"
    done = edge_uad("records", "export", file, "--format", "csv", "--out", out)
    assert "7 verdicts; 3 verdicts are missing in 1 gaps" in done.stderr
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == list("1234567")
    assert rows[0]["part_id"] == ODD.replace("\udcff", "\\udcff")
    assert (rows[0]["station"], rows[0]["decision"], rows[0]["frame_hw"]) == ("line0", "normal", "[24, 32]")
    assert json.loads(rows[6]["other"]) == {"schema": 1, "audit_schema": 1, "of_a_later_version": {"a": 1}}
    events = edge_uad("records", "export", file, "--format", "csv", "--table", "events")
    assert "gap,4,,3,full" in events.stdout


def test_show_prints_no_control_characters_and_the_newest_last(file: Path) -> None:
    done = edge_uad("records", "show", file, "-n", 2)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["5", "6"]
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J" in done.stdout
    assert "gap=3" in edge_uad("records", "show", file, "--table", "events").stdout


def test_verify_names_what_was_altered_and_exits_with_5(file: Path) -> None:
    heads = edge_uad("records", "verify", file).stdout.splitlines()
    assert heads == edge_uad("records", "head", file).stdout.splitlines()
    assert heads[0].startswith("verdicts:6:")
    edge_uad("records", "verify", file, "--head", heads[0], "--head", heads[1])
    with tampering(file) as connection:
        connection.execute("DELETE FROM verdicts WHERE id = 6")
        connection.execute(
            "UPDATE chain SET (head_id, head_hash) = (SELECT id, hash FROM verdicts WHERE id = 5) "
            "WHERE name = 'verdicts'"
        )
    edge_uad("records", "verify", file)  # the file alone does not show it
    cut_off = edge_uad("records", "verify", file, "--head", heads[0], expect=5)
    assert "verdicts: row 6 is missing, though it was there when its hash was noted" in cut_off.stdout
    with tampering(file) as connection:
        connection.execute("UPDATE verdicts SET entry = replace(entry, 'anomalous', 'normal')")
    changed = edge_uad("records", "verify", file, "--json", expect=5)
    assert json.loads(changed.stdout)["problems"] == ["verdicts: row 2 was changed", "verdicts: row 5 was changed"]
    assert "is no head" in str(refused("records", "verify", file, "--head", "verdicts:6"))


def test_a_label_is_added_while_a_daemon_may_write(file: Path) -> None:
    done = edge_uad("records", "label", file, 2, "normal", "--who", "A. Smith", "--comment", "dust")
    assert done.stdout.startswith("labels:1:")
    [label] = lines(edge_uad("records", "show", file, "--table", "labels", "--json").stdout)
    assert (label["who"], label["what"], label["frame_id"], label["part_id"]) == ("A. Smith", "normal", 1, ODD)
    assert "there is no verdict 99" in str(refused("records", "label", file, 99, "normal", "--who", "A"))
    assert problems(file) == []


READING = [["show"], ["export"], ["verify"], ["head"]]


def refused(*arguments: object) -> EdgeUadError:
    """What the command ends with, in this process: ``main`` prints its text and exits with its code."""
    with pytest.raises(EdgeUadError) as error:
        app([str(one) for one in arguments], standalone_mode=False)
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize("command", [*READING, ["label"], ["upgrade"], ["replay"]], ids=lambda one: one[0])
@pytest.mark.parametrize("kind", ["missing", "foreign", "newer", "folder", "other database"])
def test_whatever_is_wrong_with_the_file_is_one_sentence(
    tmp_path: Path, file: Path, command: list[str], kind: str
) -> None:
    path = {"missing": tmp_path / "none.sqlite", "folder": tmp_path}.get(kind, file)
    if kind == "foreign":
        path.write_bytes(b"a note\n")
    elif kind == "newer":
        with tampering(path) as connection:
            connection.execute("PRAGMA user_version = 7")
    elif kind == "other database":
        path = tmp_path / "other.db"
        with tampering(path) as connection:
            connection.execute("CREATE TABLE t (id)")
    if command == ["replay"]:
        error = refused("replay", path, "--bank", "bank.safetensors")
    else:
        more = ["1", "normal", "--who", "A"] if command == ["label"] else []
        error = refused("records", *command, path, *more)
    assert error.exit_code == 2
    assert path.name in str(error)


@pytest.mark.parametrize("command", ["show", "export", "verify", "head"])
def test_a_damaged_file_is_3_and_for_verify_5(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.sqlite"
    store = RecordStore(path)
    store.write(*[verdict(0)] * 500)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    if command == "verify":
        assert app(["records", command, str(path)], standalone_mode=False) == 5
        assert "is damaged" in capsys.readouterr().out
    else:
        error = refused("records", command, path)
        assert error.exit_code == 3
        assert "is damaged" in str(error)


def test_a_file_that_is_kept_locked_is_one_sentence(file: Path) -> None:
    with tampering(file) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        assert "is kept locked by another process" in str(refused("records", "label", file, 1, "normal", "--who", "A"))


def test_import_refuses_what_is_no_log_and_what_is_missing(tmp_path: Path, file: Path) -> None:
    (tmp_path / "notes").write_text("notes\n")
    assert "line 1 is not one of an audit log" in str(refused("records", "import", tmp_path / "notes"))
    assert "there is no such file" in str(refused("records", "import", tmp_path / "none"))
    assert "line 1 is not one" in str(refused("records", "import", file, "--into", tmp_path / "new.sqlite"))


def test_rotated_logs_come_oldest_first_and_a_torn_end_is_named(tmp_path: Path) -> None:
    one = entry()
    for name, first in (("log.jsonl.10", 0), ("log.jsonl.2", 2), ("log.jsonl.1", 4), ("log.jsonl", 6)):
        (tmp_path / name).write_text("".join(json.dumps({**one, "frame_id": n}) + "\n" for n in (first, first + 1)))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"schema":1,"sta')
    done = edge_uad("records", "import", tmp_path / "log.jsonl")
    assert "the last line is torn, its 16 bytes were left out" in done.stderr
    assert frame_ids(tmp_path / "log.sqlite") == list(range(8))


def test_an_export_to_a_full_disk_leaves_no_half_file(file: Path, tmp_path: Path) -> None:
    """The kernel allows files of 40 kB: enough for SQLite to read, not for the export."""
    store = RecordStore(file)
    store.write(*[verdict(0)] * 200)
    store.close()
    (tmp_path / "dir").mkdir()
    missing = refused("records", "export", file, "--out", tmp_path / "none" / "out.jsonl")
    assert "cannot be used: No such file or directory" in str(missing)
    with Running("-c", QUOTA, "records", "export", file, "--out", tmp_path / "dir" / "out.jsonl") as running:
        running.ends(code=2)
    assert "cannot be used: File too large" in running.everything
    assert list((tmp_path / "dir").iterdir()) == []


QUOTA = """
import resource
from edge_uad.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
main()
"""
