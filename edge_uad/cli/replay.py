"""``edge-uad replay``: would the same frames get the same verdicts?"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import TerminalProgress, console, stderr
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import BankOption, JsonOption, ModelOption, ThreadsOption

if TYPE_CHECKING:
    from bank_tools.replay import Replayed

CHANGED_EXIT_CODE = 4
STYLES = {"changed": "bold red", "altered": "bold red", "not kept": "dim", "same": "green"}


def replay(
    logs: Annotated[list[Path], typer.Argument(help="Audit log files, such as verdicts.jsonl verdicts.jsonl.1")],
    *,
    bank: BankOption,
    model: ModelOption = None,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Where the frames are kept.", show_default="evidence/ beside LOG")
    ] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = 0,
) -> None:
    """Judge the kept frames of an audit log again, and tell which verdicts changed.

    A verdict changed where its decision is another one, or its score by the same bank and model. A kept file that is
    not the frame that was judged is told as altered. Exit code 4 where there was either, else 0.

    Example: [bold]edge-uad replay verdicts.jsonl --bank bank.safetensors[/bold]
    """
    from bank_tools.replay import replayed
    from edge_uad.outputs.audit import read_entries
    from edge_uad.runtime.assemble import load_backbone, load_inspector

    found = [(log, entry) for log in logs for _, entry in read_entries(log)]
    inspector = load_inspector(load_backbone(model_or_default(model), threads=threads), bank, search_threads=threads)
    counts: Counter[str] = Counter()
    with TerminalProgress().step("replaying", len(found), "verdicts") as done:
        for log in logs:
            folder = log.parent / "evidence" if evidence is None else evidence
            for one in replayed((entry for of, entry in found if of is log), inspector, folder):
                counts[one.outcome] += 1
                _tell(one, as_json=as_json)
                done(1)
    summary = ", ".join(f"{counts[outcome]} {outcome}" for outcome in STYLES)
    stderr.print(f"{len(found)} verdicts: {summary}", markup=False, highlight=False, soft_wrap=True)
    if counts["changed"] or counts["altered"]:
        raise typer.Exit(CHANGED_EXIT_CODE)


def _tell(one: "Replayed", *, as_json: bool) -> None:
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
