"""Verify names the rows that somebody changed, inserted or cut out; noted heads find what the file alone cannot."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.store import LabelValue, Limits, Link, NewRow, RecordStore, Table, row_hash
from tests.records import entry, problems, tampering, verdict

N_ROWS = 9


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of nine verdicts, two events and a label."""
    path = tmp_path_factory.mktemp("verify") / "r.sqlite"
    store = RecordStore(path)
    store.write(NewRow(Table.EVENTS, {"event": "start", "at_ns": 1}))
    store.write(*map(verdict, range(N_ROWS)))
    store.write(NewRow(Table.EVENTS, {"event": "stop", "at_ns": 2}))
    store.label(3, who="A. Smith", what=LabelValue.ANOMALOUS)
    store.close()
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)
    return path


def heads(path: Path) -> list[Link]:
    with RecordReader(path) as reader:
        return [reader.head(table) for table in Table]


def problems_given(path: Path, expected: list[Link]) -> list[str]:
    with RecordReader(path) as reader:
        return [problem for report in reader.verify(expected)[1] for problem in report.problems]


def test_an_untouched_file_fits(file: Path) -> None:
    assert problems(file) == []
    assert problems_given(file, heads(file)) == []


@pytest.mark.parametrize("row_id", range(1, N_ROWS + 1))
@pytest.mark.parametrize("what", ["decision", "hash", "type"])
def test_a_changed_row_is_named(file: Path, row_id: int, what: str) -> None:
    with tampering(file) as connection:
        if what == "decision":
            connection.execute(
                "UPDATE verdicts SET entry = json_set(entry, '$.decision', 'normal') WHERE id = ?", (row_id,)
            )
        elif what == "hash":
            connection.execute("UPDATE verdicts SET hash = zeroblob(32) WHERE id = ?", (row_id,))
        else:
            connection.execute("UPDATE verdicts SET entry = CAST(entry AS BLOB) WHERE id = ?", (row_id,))
    expected = [f"verdicts: row {row_id} was changed"]
    if what == "hash" and row_id < N_ROWS:  # the next one does not follow it either
        expected = [f"verdicts: rows {row_id} to {row_id + 1} were changed"]
    elif what == "hash":
        expected.append(f"verdicts: row {row_id} is not the chain's head")
    assert problems(file) == expected


@pytest.mark.parametrize(("first", "last"), [(1, 1), (4, 4), (3, 6), (N_ROWS, N_ROWS), (1, N_ROWS)])
def test_rows_that_were_cut_out_are_named(file: Path, first: int, last: int) -> None:
    with tampering(file) as connection:
        connection.execute("DELETE FROM verdicts WHERE id BETWEEN ? AND ?", (first, last))
    named = f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
    assert problems(file) == [f"verdicts: {named}"]


def test_a_hole_that_was_closed_by_renumbering_is_found(file: Path) -> None:
    with tampering(file) as connection:
        connection.execute("DELETE FROM verdicts WHERE id = 4")
        connection.execute("UPDATE verdicts SET id = id - 1 WHERE id > 4")
        connection.execute("UPDATE chain SET head_id = head_id - 1 WHERE name = 'verdicts'")
    assert problems(file) == ["verdicts: rows 4 to 8 were changed"]


def test_inserted_rows_are_named(file: Path) -> None:
    with tampering(file) as connection:
        copy = "INSERT INTO verdicts (id, entry, hash) SELECT ?, entry, hash FROM verdicts WHERE id = 2"
        connection.execute(copy, (-5,))
        connection.execute(copy, (N_ROWS + 1,))
    assert problems(file) == [
        "verdicts: row -5 was inserted before the oldest row",
        f"verdicts: row {N_ROWS + 1} was changed",
    ]


def test_a_row_added_with_a_fitting_hash_is_found_by_the_head(file: Path) -> None:
    last = heads(file)[0]
    text = json.dumps(entry(99))
    with tampering(file) as connection:
        added = (last.id + 1, text, row_hash(last.hash, Table.VERDICTS, last.id + 1, text))
        connection.execute("INSERT INTO verdicts (id, entry, hash) VALUES (?, ?, ?)", added)
    assert problems(file) == [f"verdicts: row {N_ROWS + 1} was added behind the chain's head"]
    store = RecordStore(file)  # the daemon goes on behind it
    store.write(verdict(100))
    store.close()
    assert problems(file) == []  # it is a link of the chain now, as if the daemon had written it


def test_cut_off_rows_are_found_by_a_head_that_was_noted_elsewhere(file: Path) -> None:
    noted = heads(file)
    with tampering(file) as connection:
        connection.execute("DELETE FROM verdicts WHERE id > 6")
        connection.execute(
            "UPDATE chain SET (head_id, head_hash) = (SELECT id, hash FROM verdicts WHERE id = 6) "
            "WHERE name = 'verdicts'"
        )
    assert problems(file) == []  # the file alone cannot know
    assert problems_given(file, noted) == ["verdicts: row 9 is missing, though it was there when its hash was noted"]


def test_a_chain_computed_anew_is_found_by_a_head_that_was_noted_elsewhere(file: Path) -> None:
    noted = heads(file)
    with tampering(file) as connection:
        before = bytes(32)
        for row_id, text in connection.execute("SELECT id, entry FROM verdicts ORDER BY id").fetchall():
            forged = text.replace("anomalous", "normal")
            before = row_hash(before, Table.VERDICTS, row_id, forged)
            connection.execute("UPDATE verdicts SET entry = ?, hash = ? WHERE id = ?", (forged, before, row_id))
        connection.execute("UPDATE chain SET head_hash = ? WHERE name = 'verdicts'", (before,))
    assert problems(file) == []
    assert problems_given(file, noted) == ["verdicts: row 9 is not the row whose hash was noted"]


def test_noted_heads_and_retention(file: Path) -> None:
    noted = heads(file)[0]
    store = RecordStore(file)
    older = Link(Table.VERDICTS, 4, b"x")
    while store.prune(Limits(max_rows=3, max_bytes=2**40, max_age_days=10**5)):
        pass
    store.close()
    assert problems_given(file, [noted]) == []
    assert problems_given(file, [older]) == [
        "verdicts: row 4, whose hash was noted, was deleted by retention; note a newer one"
    ]
    at_anchor = Link(Table.VERDICTS, 6, b"x")
    assert problems_given(file, [at_anchor]) == ["verdicts: row 6 is not the row whose hash was noted"]


def test_labels_and_events_have_chains_of_their_own(file: Path) -> None:
    with tampering(file) as connection:
        connection.execute("UPDATE labels SET entry = json_set(entry, '$.what', 'normal')")
        connection.execute("DELETE FROM events WHERE id = 2")
    assert problems(file) == ["events: row 2 is missing", "labels: row 1 was changed"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON verdicts BEGIN DELETE FROM labels; END", "trigger t is not edge-uad's"),
        ("DROP VIEW evidence", "evidence is not defined as edge-uad does"),
        ("DROP TABLE labels", "labels is not defined as edge-uad does"),
        (
            "DELETE FROM chain WHERE name = 'labels'",
            "labels: the ends of the chain were altered",
        ),
        ("UPDATE chain SET head_hash = NULL WHERE 0", None),
        ("UPDATE chain SET head_hash = 5 WHERE name = 'labels'", "labels: the ends of the chain were altered"),
        ("CREATE INDEX mine ON verdicts (id)", None),
    ],
)
def test_what_else_may_be_altered(file: Path, statement: str, found: str | None) -> None:
    with tampering(file) as connection:
        connection.execute(statement)
    if found is None:
        assert problems(file) == []
    else:
        assert found in problems(file)


Tamper = Callable[[int], tuple[str, tuple[int, ...]]]
TAMPER: list[Tamper] = [
    lambda row: ("UPDATE verdicts SET entry = json_set(entry, '$.score', 0.5) WHERE id = ?", (row,)),
    lambda row: ("DELETE FROM verdicts WHERE id = ?", (row,)),
    lambda row: ("UPDATE verdicts SET id = id + 100 WHERE id = ?", (row,)),
    lambda row: ("UPDATE verdicts SET hash = randomblob(32) WHERE id = ?", (row,)),
]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(TAMPER), st.integers(1, N_ROWS)), min_size=1, max_size=4))
def test_no_tampering_goes_unseen(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, steps: list[tuple[Tamper, int]]
) -> None:
    path = tmp_path_factory.mktemp("tamper") / "r.sqlite"
    path.write_bytes(content)
    with tampering(path) as connection:
        for tamper, row in steps:
            connection.execute(*tamper(row))
    assert problems(path)
