"""``edge-uad records``: what the daemon has written down, and whether anybody has changed it."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from edge_uad.cli.console import DECISION_STYLES, console, stderr, warn
from edge_uad.cli.options import JsonOption
from edge_uad.errors import UsageError
from edge_uad.records import Decision

if TYPE_CHECKING:
    from edge_uad.outputs.record_reader import Filter, RecordReader

ALTERED_EXIT_CODE = 5
TableName = Literal["verdicts", "events", "labels", "banks", "recipes"]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Records file, such as records.sqlite")]
TableOption = Annotated[TableName, typer.Option("--table", help="What to print.")]
StationOption = Annotated[str | None, typer.Option("--station", help="Only this station's.")]
DecisionOption = Annotated[
    list[Decision] | None, typer.Option("--decision", help="Only verdicts with this decision; may be repeated.")
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From this time of capture on: 2026-05-01 or 2026-05-01T06:30."),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Before this time; without an offset it is local time.")
]

app = typer.Typer(
    help="Read, export, check and import the records of verdicts, events, labels, banks and recipes.\n\n"
    "A daemon may write to the file meanwhile.\n\n"
    "Example: [bold]edge-uad records show records.sqlite[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command()
def show(
    file: FileArgument,
    *,
    table: TableOption = "verdicts",
    n_rows: Annotated[int, typer.Option("-n", "--rows", min=1, max=100_000, help="How many of the newest.")] = 20,
    station: StationOption = None,
    decision: DecisionOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the newest rows, oldest first.

    Example: [bold]edge-uad records show records.sqlite -n 50 --decision anomalous[/bold]
    """
    from edge_uad.outputs.store import Table

    with _reading(file) as reader:
        rows = reader.newest(Table(table), n_rows, _filter(station, decision, since, until))
        for row in rows:
            entry = row.parsed()
            if as_json:
                typer.echo(json.dumps({"id": row.id, **entry}))
            else:
                _print_row(Table(table), row.id, entry)


@app.command()
def export(
    file: FileArgument,
    *,
    as_format: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="JSON Lines or CSV.")] = "jsonl",
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="stdout")] = None,
    table: TableOption = "verdicts",
    station: StationOption = None,
    decision: DecisionOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Write rows as JSON Lines or CSV, oldest first, in constant memory.

    JSON Lines of verdicts are those of the former audit log: a line {"gap": N, "reason": …} says that N verdicts are
    missing at this place. CSV has no such lines; stderr says how many there were.

    Example: [bold]edge-uad records export records.sqlite --format csv --since 2026-05-01 --out may.csv[/bold]
    """
    from edge_uad.outputs.store import Table

    which = _filter(station, decision, since, until)
    with _reading(file) as reader, _output(out) as stream:
        write = _write_csv if as_format == "csv" else _write_json_lines
        n_rows, n_gaps, n_missing = write(reader, Table(table), which, stream)
    gaps = f"; {n_missing} verdicts are missing in {n_gaps} gaps" if n_gaps else ""
    stderr.print(f"{n_rows} {table}{gaps}", markup=False, highlight=False, soft_wrap=True)


@app.command("import")
def import_(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Audit logs, such as verdicts.jsonl")],
    *,
    into: Annotated[
        Path | None, typer.Option("--into", help="Records file; made where it is missing.", show_default="beside LOG")
    ] = None,
) -> None:
    """Take over audit logs of JSON Lines, with the files that they rotated to (LOG.1, LOG.2 …), oldest first.

    Lines that were imported before are recognised and not imported again. Import before the daemon writes its first
    verdict: rows keep the order in which they were written, and retention deletes from the beginning.

    Example: [bold]edge-uad records import verdicts.jsonl --into records.sqlite[/bold]
    """
    from edge_uad.outputs.audit import import_log, rotated_files
    from edge_uad.outputs.store import RecordStore
    from edge_uad.runtime.settings import records_beside

    target = records_beside(logs[0]) if into is None else into
    files = list(dict.fromkeys(one for log in logs for one in rotated_files(log)))
    for one in files:
        if not one.is_file():
            raise UsageError(f"the audit log {one} cannot be read: there is no such file")
    with sentences(target):
        store = RecordStore(target)
        try:
            for one in files:
                done = import_log(store, one)
                gaps = f"; {done.missing} verdicts are missing in {done.gaps} gaps" if done.gaps else ""
                known = f"; {done.known_lines} lines had been imported before" if done.known_lines else ""
                stderr.print(
                    f"{one}: {done.verdicts} verdicts{gaps}{known}", markup=False, highlight=False, soft_wrap=True
                )
                if done.torn_bytes:
                    warn(f"{one}: the last line is torn, its {done.torn_bytes} bytes were left out")
        finally:
            store.close()


@app.command()
def verify(
    file: FileArgument,
    *,
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="TABLE:ROW:HASH", help="A head noted earlier; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every hash, and name the rows that were changed, inserted or cut out.

    Exit code 5 where there are any, or where the file is damaged; 0 where everything fits. Newest rows that were cut
    off together with the chain's head cannot be found from the file alone: note the heads elsewhere and give them back.

    Example: [bold]edge-uad records verify records.sqlite --head verdicts:1234:9f86d0…[/bold]
    """
    from edge_uad.errors import RecordsDamagedError
    from edge_uad.outputs.store import parse_link

    expected = [parse_link(head) for head in heads or []]
    try:
        with _reading(file) as reader:
            problems, reports = reader.verify(expected)
    except RecordsDamagedError as error:
        problems, reports = [str(error)], []
    found = [*problems, *(problem for report in reports for problem in report.problems)]
    if as_json:
        chains = [{"table": r.table, "rows": r.n_rows, "anchor": str(r.anchor), "head": str(r.head)} for r in reports]
        typer.echo(json.dumps({"problems": found, "chains": chains}))
    else:
        for problem in found:
            console.print(problem, style="bold red", markup=False, highlight=False)
        for report in reports:
            deleted = (
                f", {report.anchor.id} before them deleted by retention" if report.anchor and report.anchor.id else ""
            )
            stderr.print(
                f"{report.table}: {report.n_rows} rows{deleted}", markup=False, highlight=False, soft_wrap=True
            )
            if report.head is not None:
                typer.echo(str(report.head))
    if found:
        raise typer.Exit(ALTERED_EXIT_CODE)


@app.command()
def head(file: FileArgument) -> None:
    """Print the newest row and its hash of every table, to be noted elsewhere and given to verify --head.

    Example: [bold]edge-uad records head records.sqlite >> /mnt/elsewhere/heads[/bold]
    """
    from edge_uad.outputs.store import Table

    with _reading(file) as reader:
        for table in Table:
            typer.echo(str(reader.head(table)))


@app.command()
def label(
    file: FileArgument,
    verdict: Annotated[int, typer.Argument(metavar="VERDICT", help="The verdict's id, as records show prints it.")],
    what: Annotated[Literal["normal", "anomalous", "unsure"], typer.Argument(help="What the part is.")],
    *,
    who: Annotated[str, typer.Option("--who", help="Name of the person who says so.")],
    comment: Annotated[str | None, typer.Option("--comment", help="Anything more.")] = None,
) -> None:
    """Write down what a person says of the part that a verdict was given for. A later label does not delete this one.

    Example: [bold]edge-uad records label records.sqlite 1234 normal --who "A. Smith"[/bold]
    """
    from edge_uad.outputs.store import LabelValue, RecordStore

    if not file.exists():
        raise UsageError(f"{file}: there is no such records file")
    with sentences(file):
        store = RecordStore(file)
        try:
            written = store.label(verdict, who=who, what=LabelValue(what), comment=comment)
        finally:
            store.close()
    typer.echo(str(written))


@app.command()
def upgrade(file: FileArgument) -> None:
    """Bring a file of an earlier schema to the present one. The daemon does the same when it starts.

    Example: [bold]edge-uad records upgrade records.sqlite[/bold]
    """
    from edge_uad.outputs.store import MIGRATIONS, RecordStore

    if not file.exists():
        raise UsageError(f"{file}: there is no such records file")
    with sentences(file):
        RecordStore(file).close()
    stderr.print(f"{file}: schema {len(MIGRATIONS)}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def sentences(file: Path) -> Iterator[None]:
    """What SQLite and the disk raise becomes one sentence that names the file and the remedy."""
    import sqlite3

    from edge_uad.outputs.store import damage_named, primary_code

    try:
        with damage_named(file):
            yield
    except sqlite3.Error as error:
        if primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise UsageError(f"{file} is kept locked by another process; end that one, or try again") from error
        raise UsageError(f"{file} cannot be used: {error}; check the disk and the permissions") from error
    except OSError as error:
        raise UsageError(f"{error.filename or file} cannot be used: {error.strerror or error}") from error


@contextmanager
def _reading(file: Path) -> "Iterator[RecordReader]":
    from edge_uad.outputs.record_reader import RecordReader

    with sentences(file), RecordReader(file) as reader:
        yield reader


@contextmanager
def _output(out: Path | None) -> Iterator[BinaryIO]:
    from edge_uad.files import replacing

    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with replacing(out) as temporary, temporary.open("wb") as stream:
        yield stream


def _filter(station: str | None, decisions: list[Decision] | None, since: str | None, until: str | None) -> "Filter":
    from edge_uad.outputs.record_reader import Filter

    return Filter(
        station=station,
        decisions=[str(decision) for decision in decisions or []],
        since_ns=None if since is None else _unix_ns(since, "--since"),
        until_ns=None if until is None else _unix_ns(until, "--until"),
    )


def _unix_ns(text: str, option: str) -> int:
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{option} is {text!r}; give a date or time such as 2026-05-01 or 2026-05-01T06:30") from None


def _write_json_lines(reader: "RecordReader", table: Any, which: "Filter", stream: BinaryIO) -> tuple[int, int, int]:
    from edge_uad.outputs.store import Table

    n_rows = n_gaps = n_missing = 0
    lines = (
        reader.log_lines(which) if table is Table.VERDICTS else ((row.entry, 0) for row in reader.rows(table, which))
    )
    for text, missing in lines:
        stream.write(text.encode(errors="surrogateescape") + b"\n")
        n_rows, n_gaps, n_missing = n_rows + (not missing), n_gaps + bool(missing), n_missing + missing
    return n_rows, n_gaps, n_missing


def _write_csv(reader: "RecordReader", table: Any, which: "Filter", stream: BinaryIO) -> tuple[int, int, int]:
    from edge_uad.outputs.store import COLUMNS, Table

    columns = ("id", *COLUMNS[table], "other")
    n_rows = 0
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        for row in reader.rows(table, which):
            entry = row.parsed()
            other = {name: entry.pop(name) for name in set(entry) - set(columns)}
            cells = {
                name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in entry.items()
            }
            writer.writerow({"id": row.id, **cells, "other": json.dumps(other, sort_keys=True) if other else None})
            n_rows += 1
        text.flush()
    finally:
        text.detach()
    return n_rows, *(reader.gaps() if table is Table.VERDICTS else (0, 0))


def _print_row(table: Any, row_id: int, entry: dict[str, Any]) -> None:
    from edge_uad.outputs.store import COLUMNS, TIME_COLUMN, Table

    at = _local_time(entry.get(TIME_COLUMN[table]))
    console.print(f"{row_id:>8}  {at}  ", end="", markup=False, highlight=False)
    if table is Table.VERDICTS:
        decision = str(entry.get("decision"))
        console.print(f"{decision:<9}", style=DECISION_STYLES.get(decision), end="", markup=False, highlight=False)
        score = "" if entry.get("score") is None else f"{entry['score']:.6f}"
        cells = [entry.get("station"), entry.get("frame_id"), entry.get("part_id"), score, entry.get("reason")]
    else:
        cells = [f"{name}={entry[name]}" for name in COLUMNS[table] if entry.get(name) is not None and name != "at_ns"]
    shown = "  ".join(str(cell) for cell in cells if cell not in (None, ""))
    console.print(f"  {shown}", markup=False, highlight=False)


def _local_time(at_ns: object) -> str:
    try:
        return datetime.fromtimestamp(int(str(at_ns)) / 1e9).astimezone().isoformat(sep=" ", timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(at_ns)
