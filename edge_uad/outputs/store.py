"""The record store: verdicts, events, labels, banks and recipes in one SQLite file; every table is a chain of hashes.

A row is ``(id, entry, hash)``: ids count from 1 without holes, ``entry`` is JSON, ``hash`` is SHA-256 over the hash of
the row before, the table's name, the id and the entry. The other columns are computed by SQLite from the entry.
"""

import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from edge_uad.errors import RecordsDamagedError, UsageError
from edge_uad.net.wire import Json

APPLICATION_ID = 0x45554144
"""``EUAD``: in the file's header, so that another program's database is never written to."""
SQLITE_MAGIC = b"SQLite format 3\0"
BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another process that is writing, such as the web console."""
WAL_RESERVE_BYTES = 2 * 1024**2
"""Part of ``max_bytes`` left to the write-ahead log, which is checkpointed every 1 MiB and then cut to 1 MiB."""
MIN_BYTES = 4 * WAL_RESERVE_BYTES
PRUNE_ROWS = 256
"""Rows deleted in one transaction: more than one commit adds, few enough to take milliseconds."""
SECONDS_PER_DAY = 86_400
_CHECKPOINT_PAGES = 256
_WAL_KEPT_BYTES = 1024**2
_FILE_MODE = 0o640
_HASH_BYTES = 32

Connect = Callable[..., sqlite3.Connection]


class Table(StrEnum):
    """What is kept, each with a chain of its own."""

    VERDICTS = "verdicts"
    EVENTS = "events"
    """Start, stop, gap, bank, bank_refused, state, import, new_file."""
    LABELS = "labels"
    """What people said about a part; written by other processes too, never deleted."""
    BANKS = "banks"
    """Manifest of every bank that was in use; never deleted."""
    RECIPES = "recipes"
    """Settings that were in use; never deleted."""


class LabelValue(StrEnum):
    """What a person says of a part."""

    NORMAL = "normal"
    ANOMALOUS = "anomalous"
    UNSURE = "unsure"


COLUMNS: dict[Table, tuple[str, ...]] = {
    Table.VERDICTS: (
        *("station", "frame_id", "part_id", "captured_at_ns", "decision", "reason", "score", "threshold", "p_value"),
        *("foreground_ratio", "peak", "latency_ms", "dropped_before", "sequence", "bank_id", "model_id"),
        *("written_at_ns", "frame_sha256", "frame_hw", "evidence", "trigger_id"),
    ),
    Table.EVENTS: ("at_ns", "event", "verdict_id", "station", "gap", "reason"),
    Table.LABELS: (
        *("at_ns", "who", "what", "comment", "verdict_id", "station", "frame_id", "part_id", "captured_at_ns"),
        *("frame_sha256", "evidence"),
    ),
    Table.BANKS: ("at_ns", "bank_id", "model_id", "station"),
    Table.RECIPES: ("at_ns", "recipe_id"),
}
"""Fields of an entry that are columns of the table, and of its export as CSV."""
TIME_COLUMN = {table: "captured_at_ns" if table is Table.VERDICTS else "at_ns" for table in Table}
IDENTITY_COLUMN = {Table.BANKS: "bank_id", Table.RECIPES: "recipe_id"}
"""Tables that hold each thing once."""


_ADDED_LATER = frozenset({"trigger_id"})
"""Columns that schema 1 did not have; a migration adds each."""


def _computed(name: str) -> str:
    return f"{name} GENERATED ALWAYS AS (json_extract(entry, '$.{name}')) VIRTUAL"


def _create_table(table: Table) -> str:
    computed = (_computed(name) for name in COLUMNS[table] if name not in _ADDED_LATER)
    return (
        f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash BLOB NOT NULL, {', '.join(computed)})"
    )


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        *map(_create_table, Table),
        "CREATE VIEW evidence AS SELECT id AS verdict_id, station, frame_id, part_id, decision, evidence AS path "
        "FROM verdicts WHERE evidence IS NOT NULL",
        "CREATE TABLE chain (name TEXT PRIMARY KEY, anchor_id INTEGER NOT NULL, anchor_hash BLOB NOT NULL, "
        "head_id INTEGER NOT NULL, head_hash BLOB NOT NULL)",
        "CREATE TABLE imports (id INTEGER PRIMARY KEY, n_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL)",
        "CREATE TABLE running (started_at_ns INTEGER NOT NULL)",
    ),
    (f"ALTER TABLE verdicts ADD COLUMN {_computed('trigger_id')}",),
)
"""Statements that lead from schema n to n + 1; all that a file lacks run in one transaction. Its version is how many
ran."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to append."""

    table: Table
    entry: Json | str
    """A verdict may come as the JSON text itself, which is kept to the letter."""


@dataclass(frozen=True, slots=True)
class Link:
    """One end of a chain: a row's id and hash. Id 0 stands for the beginning of an empty table."""

    table: Table
    id: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.table}:{self.id}:{self.hash.hex()}"


def parse_link(text: str) -> Link:
    """``verdicts:1234:HASH`` → link, as ``str(link)`` writes it.

    Raises:
        UsageError: it is not of this form.
    """
    try:
        name, row_id, digest = text.split(":")
        return Link(Table(name), int(row_id), bytes.fromhex(digest))
    except ValueError:
        raise UsageError(f"{text!r} is no head; give TABLE:ROW:HASH as edge-uad records head prints it") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is kept; the oldest verdicts and events above any of these are deleted."""

    max_rows: int
    """Of verdicts, and of events."""
    max_bytes: int
    """Of the file and its write-ahead log."""
    max_age_days: float


def encode(entry: Json) -> str:
    """JSON as it is stored and hashed.

    Raises:
        ValueError: a number that is not finite.
    """
    # ASCII: a part's name may hold bytes of a file name that are not UTF-8
    return json.dumps(entry, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def row_hash(before: bytes, table: Table, row_id: int, entry: str) -> bytes:
    """SHA-256 over the hash of the row before, the table's name, a zero byte, the id (8 bytes) and the entry."""
    # an entry is ASCII unless it was altered; that must give another hash, not an error
    content = entry.encode(errors="surrogateescape")
    return hashlib.sha256(b"%b%b\0%b%b" % (before, table.encode(), row_id.to_bytes(8), content)).digest()


class RecordStore:
    """A connection that writes. Several processes may have one; every write is one short transaction.

    Args:
        path: made, with its folder, where it is missing; an older schema is upgraded.
        connect: ``sqlite3.connect``, or what replaces it in a test.
        migrations: as :data:`MIGRATIONS`.

    Raises:
        UsageError: another program's file, no regular file, or written by a newer edge-uad.
        RecordsDamagedError: the file is damaged.
        OSError: it cannot be made or opened.
        sqlite3.Error: SQLite cannot open or upgrade it, for instance on a full disk.
    """

    def __init__(
        self, path: Path, *, connect: Connect = sqlite3.connect, migrations: Sequence[Sequence[str]] = MIGRATIONS
    ) -> None:
        self.path = path
        self._identity = _made(path)
        self._connection = connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            with damage_named(path):
                version = schema_version(self._connection, path, newest=len(migrations))
                self._configure(new=version == 0)
                self._migrate(version, migrations)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Write the log back into the file where no other process has it open, and close it."""
        self._connection.close()

    @property
    def is_current(self) -> bool:
        """Whether the path still names the file that was opened.

        Raises:
            OSError: the disk does not say.
        """
        try:
            found = os.stat(self.path, follow_symlinks=False)  # noqa: PTH116  (its pair is in _made)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is written, and on the disk at the end, or nothing is.

        Raises:
            sqlite3.Error: it could not be written. Where COMMIT itself failed, only :meth:`holds` after opening the
                file anew says what became of it.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # the first error is the one to report
                self._connection.execute("ROLLBACK")
            raise

    def append(self, rows: Sequence[NewRow]) -> list[Link]:
        """Append rows, inside a transaction. Banks and recipes that are there already are passed over.

        An event gets the id of the newest verdict before it; start and stop also get the heads of all chains.

        Returns:
            The new heads of the tables that got rows.
        """
        heads: dict[Table, Link] = {}
        for row in rows:
            if row.table in IDENTITY_COLUMN and self._has(row):
                continue
            before = heads.get(row.table) or self.head(row.table)
            entry = row.entry
            if row.table is Table.EVENTS and isinstance(entry, dict):
                entry = self._event(entry, heads)
            text = entry if isinstance(entry, str) else encode(entry)
            row_id = before.id + 1
            digest = row_hash(before.hash, row.table, row_id, text)
            insert = f"INSERT INTO {row.table} (id, entry, hash) VALUES (?, ?, ?)"
            self._connection.execute(insert, (row_id, text, digest))
            heads[row.table] = Link(row.table, row_id, digest)
        for head in heads.values():
            self._connection.execute(
                "UPDATE chain SET head_id = ?, head_hash = ? WHERE name = ?", (head.id, head.hash, head.table)
            )
        return list(heads.values())

    def write(self, *rows: NewRow) -> list[Link]:
        """Append rows in a transaction of their own.

        Raises:
            sqlite3.Error: nothing was written.
        """
        if not rows:
            return []
        with self.transaction():
            return self.append(rows)

    def label(self, verdict_id: int, *, who: str, what: LabelValue, comment: str | None = None) -> Link:
        """Write down what a person says of the part that a verdict was given for.

        The label repeats the verdict's identity, so that it says what it is about when retention has deleted that.

        Raises:
            UsageError: there is no such verdict.
            sqlite3.Error: nothing was written.
        """
        with self.transaction():
            statement = "SELECT entry FROM verdicts WHERE id = ?"
            found = self._connection.execute(statement, (verdict_id,)).fetchone()
            if found is None:
                raise UsageError(
                    f"{self.path}: there is no verdict {verdict_id}; edge-uad records show lists the newest"
                )
            verdict = json.loads(found[0])
            about = {"at_ns": time.time_ns(), "who": who, "what": str(what), "comment": comment}
            repeated = ("station", "frame_id", "part_id", "captured_at_ns", "decision", "frame_sha256", "evidence")
            about |= {"verdict_id": verdict_id, **{name: verdict.get(name) for name in repeated}}
            [head] = self.append([NewRow(Table.LABELS, about)])
        return head

    def head(self, table: Table) -> Link:
        """The newest row, a foreign one that somebody inserted behind the chain's head included: verify finds it."""
        head = read_chain(self._connection, table)[1]
        last = self._connection.execute(f"SELECT id, hash FROM {table} ORDER BY id DESC LIMIT 1").fetchone()
        if last is None or last[0] <= head.id:
            return head
        return Link(table, last[0], last[1] if isinstance(last[1], bytes) else bytes(_HASH_BYTES))

    def holds(self, links: Sequence[Link]) -> bool:
        """Whether all of these rows are there."""
        return all(
            self._connection.execute(
                f"SELECT 1 FROM {link.table} WHERE id = ? AND hash = ?",
                (link.id, link.hash),
            ).fetchone()
            for link in links
        )

    def checkpoint(self) -> None:
        """Write the log back into the file, as far as readers allow.

        Raises:
            sqlite3.Error: the disk refused.
        """
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def is_sound(self) -> bool:
        """Whether SQLite finds its own structures intact; reads the whole file."""
        try:
            return bool(self._connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)])
        except sqlite3.DatabaseError as error:
            return not is_damage(error)

    def prune(self, limits: Limits) -> bool:
        """Delete some of the oldest verdicts and events where there are too many, in one short transaction.

        Returns:
            Whether something was done: there may be more.

        Raises:
            sqlite3.Error: the disk refused; nothing was deleted.
        """
        oldest_ns = time.time_ns() - round(limits.max_age_days * SECONDS_PER_DAY * 1e9)
        anchor, head = read_chain(self._connection, Table.VERDICTS)
        verdicts_to = self._cut(Table.VERDICTS, limits.max_rows, f"written_at_ns < {oldest_ns}")
        excess = self._excess_pages(limits)
        if excess > 0 and not verdicts_to:
            if self._number("freelist_count") >= excess:
                self._connection.execute(f"PRAGMA incremental_vacuum({min(excess, PRUNE_ROWS)})").fetchall()
                return True
            verdicts_to = min(anchor.id + PRUNE_ROWS, head.id - 1)
        kept_from = max(verdicts_to, anchor.id)
        events_to = self._cut(Table.EVENTS, limits.max_rows, f"at_ns < {oldest_ns} OR verdict_id < {kept_from}")
        with self.transaction() if verdicts_to > anchor.id or events_to else nullcontext():
            return any([self._delete(Table.VERDICTS, verdicts_to), self._delete(Table.EVENTS, events_to)])

    def import_progress(self) -> list[tuple[int, str]]:
        """Length and SHA-256 of the beginnings of logs that were imported already."""
        return self._connection.execute("SELECT n_bytes, sha256 FROM imports").fetchall()

    def note_import(self, beginning: tuple[int, str], *, longer_than: tuple[int, str] | None) -> None:
        """Replace one of what :meth:`import_progress` returns by a longer one, inside a transaction."""
        self._connection.execute("DELETE FROM imports WHERE (n_bytes, sha256) = (?, ?)", longer_than or (0, ""))
        self._connection.execute("INSERT INTO imports (n_bytes, sha256) VALUES (?, ?)", beginning)

    def _configure(self, *, new: bool) -> None:
        for pragma in (
            # before anything else is written; in a file that is not new it would be a write of its own at each opening
            *(["auto_vacuum = INCREMENTAL"] if new else []),
            "journal_mode = WAL",
            "synchronous = FULL",  # a commit has returned only once its pages are on the disk
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {_WAL_KEPT_BYTES}",
            "secure_delete = OFF",
            "cell_size_check = ON",
            "temp_store = MEMORY",
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()

    def _migrate(self, version: int, migrations: Sequence[Sequence[str]]) -> None:
        """All that is missing at once: a disk that fails in between leaves no file of a schema that nobody reads."""
        if version == len(migrations):
            return
        with self.transaction():
            # another process may have been faster
            found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            for number, statements in enumerate(migrations[found:], start=found + 1):
                for statement in statements:
                    self._connection.execute(statement)
                if number == 1:
                    self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    self._connection.executemany(
                        "INSERT INTO chain VALUES (?, ?, ?, ?, ?)",
                        [(table, 0, bytes(_HASH_BYTES), 0, bytes(_HASH_BYTES)) for table in Table],
                    )
                self._connection.execute(f"PRAGMA user_version = {number}")

    def _has(self, row: NewRow) -> bool:
        column = IDENTITY_COLUMN[row.table]
        if isinstance(row.entry, str):
            return False
        found = self._connection.execute(
            f"SELECT 1 FROM {row.table} WHERE {column} = ?",
            (row.entry[column],),
        )
        return found.fetchone() is not None

    def _event(self, entry: Json, heads: dict[Table, Link]) -> Json:
        placed = {**entry, "verdict_id": (heads.get(Table.VERDICTS) or self.head(Table.VERDICTS)).id}
        if entry["event"] == "start":
            unfinished = self._connection.execute("SELECT started_at_ns FROM running").fetchone()
            self._connection.execute("DELETE FROM running")
            self._connection.execute("INSERT INTO running VALUES (?)", (entry["at_ns"],))
            placed["interrupted_run_started_at_ns"] = None if unfinished is None else unfinished[0]
        if entry["event"] == "stop":
            self._connection.execute("DELETE FROM running")
        if entry["event"] in {"start", "stop"}:
            placed["heads"] = [str(heads.get(table) or self.head(table)) for table in Table]
        return placed

    def _excess_pages(self, limits: Limits) -> int:
        """By how many pages the file is too large; 0 or less where it is not."""
        page_bytes = self._number("page_size")
        return self._number("page_count") - (limits.max_bytes - WAL_RESERVE_BYTES) // page_bytes

    def _number(self, pragma: str) -> int:
        return int(self._connection.execute(f"PRAGMA {pragma}").fetchone()[0])

    def _cut(self, table: Table, max_rows: int, or_where: str) -> int:
        """Up to which id the oldest rows go, at most PRUNE_ROWS of them; 0: none does."""
        anchor, head = read_chain(self._connection, table)
        last = min(anchor.id + PRUNE_ROWS, head.id)
        too_many = min(head.id - max_rows, last)
        stays = self._connection.execute(
            f"SELECT min(id) FROM {table} WHERE id > ? AND id <= ? AND NOT ifnull({or_where}, 0)",
            (anchor.id, last),
        ).fetchone()[0]
        cut: int = max(too_many, last if stays is None else stays - 1)
        return cut if cut > anchor.id else 0

    def _delete(self, table: Table, last_id: int) -> bool:
        """Delete the rows up to this one and make it the anchor; where it was cut out, the next one that is there."""
        found = self._connection.execute(
            f"SELECT id, hash FROM {table} WHERE id >= ? ORDER BY id LIMIT 1", (last_id,)
        ).fetchone()
        if found is None or last_id <= read_chain(self._connection, table)[0].id:
            return False
        self._connection.execute("UPDATE chain SET anchor_id = ?, anchor_hash = ? WHERE name = ?", (*found, table))
        return self._connection.execute(f"DELETE FROM {table} WHERE id <= ?", (found[0],)).rowcount > 0


def read_chain(connection: sqlite3.Connection, table: Table) -> tuple[Link, Link]:
    """Both ends of a chain: the last row that retention deleted, and the newest row.

    Raises:
        RecordsDamagedError: somebody altered them.
    """
    found = connection.execute(
        "SELECT anchor_id, anchor_hash, head_id, head_hash FROM chain WHERE name = ?", (table,)
    ).fetchone()
    if found is None or [type(value) for value in found] != [int, bytes, int, bytes]:
        raise RecordsDamagedError(f"the ends of the chain of {table} were altered; run edge-uad records verify")
    return Link(table, found[0], found[1]), Link(table, found[2], found[3])


def open_for_reading(path: Path, *, schema: int = len(MIGRATIONS)) -> sqlite3.Connection:
    """A connection that only reads, while others may write.

    Args:
        path: of the file.
        schema: the only one that is read.

    Raises:
        UsageError: missing, another program's file, or of another schema.
        RecordsDamagedError: the file is damaged.
        sqlite3.Error: SQLite cannot read it.
    """
    _require_file(path.resolve())
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    connection = _read_only(address)
    try:
        with damage_named(path):
            try:
                version = schema_version(connection, path, newest=schema)
            except sqlite3.OperationalError:
                # a folder that cannot be written, where SQLite cannot make its shared memory: nobody writes there, and
                # where no log waits to be written back the file alone is everything
                if os.access(path.parent, os.W_OK) or _size(path.with_name(f"{path.name}-wal")):
                    raise
                connection.close()
                connection = _read_only(f"{address}&immutable=1")
                version = schema_version(connection, path, newest=schema)
        _require_schema(version, schema, path)
        connection.text_factory = _text
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def schema_version(connection: sqlite3.Connection, path: Path, *, newest: int) -> int:
    """The file's schema; 0 where nothing is in it yet.

    Raises:
        UsageError: another program's, or newer than ``newest``.
        sqlite3.Error: it cannot be read.
    """
    try:
        application, version = (
            connection.execute(f"PRAGMA {it}").fetchone()[0] for it in ("application_id", "user_version")
        )
        if application == 0 and version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return 0
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise _foreign(path) from error
        raise
    if application != APPLICATION_ID:
        raise _foreign(path)
    if version > newest:
        raise UsageError(
            f"{path} was written by a newer edge-uad (schema {version}, this one knows {newest}); "
            "use that version, or name another records.file"
        )
    return int(version)


def _read_only(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _require_schema(found: int, wanted: int, path: Path) -> None:
    if found == 0:
        raise UsageError(f"{path} is empty; name a records file that edge-uad serve has written")
    if found < wanted:
        raise UsageError(
            f"{path} has records of schema {found}, this edge-uad reads {wanted}; run: edge-uad records upgrade {path}"
        )


def expected_schema() -> dict[str, str]:
    """Name and statement of every table and view, as this version makes them."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statements in MIGRATIONS:
            for statement in statements:
                connection.execute(statement)
        return dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')"))


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where Python itself raised the error."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file's content is not what it wrote."""
    return primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise RecordsDamagedError where SQLite finds the file damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise RecordsDamagedError(
            f"{path} is damaged ({error}); keep a copy, and see what is left with: edge-uad records verify {path}"
        ) from error


def _foreign(path: Path) -> UsageError:
    return UsageError(f"{path} is not a records file of edge-uad; name another file, or move this one away")


def _made(path: Path) -> tuple[int, int]:
    """Device and inode of the file, made where it was missing.

    It is never opened here where it exists: closing it would release SQLite's locks of this process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    found = _require_file(path)
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(13, os.strerror(13), str(path))
    return found.st_dev, found.st_ino


def _require_file(path: Path) -> os.stat_result:
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116  (a link is named as such)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such records file") from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file; name the records file itself")
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")
