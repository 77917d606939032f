"""``edge-uad replay``: would the same frames get the same verdicts?"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import TerminalProgress, console, stderr, warn
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import BankOption, JsonOption, ModelOption, PrecisionOption, ThreadsOption

if TYPE_CHECKING:
    from bank_tools.replay import Replayed

CHANGED_EXIT_CODE = 4
STYLES = {"changed": "bold red", "altered": "bold red", "not kept": "dim", "same": "green"}


def replay(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Records file (records.sqlite), or logs and exports of JSON Lines."),
    ],
    *,
    bank: BankOption,
    model: ModelOption = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Where the frames are kept.", show_default="evidence/ beside FILE")
    ] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = 0,
    precision: PrecisionOption = "auto",
) -> None:
    """Judge the kept frames of recorded verdicts again, and print which verdicts changed.

    A verdict changed where its decision is another one, or its score by the same bank and model. A kept file that is
    not the frame that was judged is reported as altered. Exit code 4 where there was either, else 0.

    Example: [bold]edge-uad replay records.sqlite --bank bank.safetensors[/bold]
    """
    from bank_tools.replay import recorded_verdicts, replayed
    from edge_uad.cli.records import sentences
    from edge_uad.runtime.assemble import load_inspector
    from edge_uad.runtime.backbones import Backbones

    for log in logs:
        with sentences(log):
            next(recorded_verdicts(log), None)  # what cannot be read is reported before the model is loaded
    inspector = load_inspector(
        Backbones(model_or_default(model, bank), threads=threads, precision=precision), bank, search_threads=threads
    )
    if inspector.precision_reason is not None:
        warn(f"judged in fp32: {inspector.precision_reason}")
    counts: Counter[str] = Counter()
    with TerminalProgress().step("replaying", None, "verdicts") as done:
        for log in logs:
            folder = log.parent / "evidence" if evidence is None else evidence
            with sentences(log):
                for one in replayed(recorded_verdicts(log), inspector, folder):
                    counts[one.outcome] += 1
                    _print(one, as_json=as_json)
                    done(1)
    summary = ", ".join(f"{counts[outcome]} {outcome}" for outcome in STYLES)
    stderr.print(f"{counts.total()} verdicts: {summary}", markup=False, highlight=False, soft_wrap=True)
    if counts["changed"] or counts["altered"]:
        raise typer.Exit(CHANGED_EXIT_CODE)


def _print(one: "Replayed", *, as_json: bool) -> None:
    from edge_uad.net.wire import header_of

    if as_json:
        now = None if one.verdict is None else header_of(one.verdict)
        typer.echo(json.dumps({"outcome": str(one.outcome), "logged": one.entry, "now": now, "note": one.note}))
        return
    if one.outcome not in {"changed", "altered"}:
        return
    was = _facts(one.entry.get("decision"), one.entry.get("score"), one.entry.get("reason"))
    verdict = one.verdict
    became = one.note if verdict is None else _facts(verdict.decision, verdict.score, verdict.reason)
    console.print(f"{one.outcome:<8}", style=STYLES[one.outcome], end="")
    part = one.entry.get("part_id") or ""
    console.print(
        f"  {one.entry.get('station')}  {one.entry.get('frame_id')}  {part}  {was} → {became}",
        markup=False,
        highlight=False,
    )


def _facts(decision: object, score: float | None, reason: object) -> str:
    number = "" if score is None else f" {score:.6f}"
    return f"{decision}{number}" + (f" ({reason})" if reason else "")
