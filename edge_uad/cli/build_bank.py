"""``edge-uad build-bank``: good images in, one bank file out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.built_bank import print_result, warn_of_outliers, warn_of_weak_calibration
from edge_uad.cli.console import note, warn
from edge_uad.cli.measuring import require_evaluate_extra
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import JsonOption, MachineOptions, ModelOption, RecipeOptions, with_option_groups
from edge_uad.errors import UsageError
from edge_uad.records import IndexChoice, WantedPrecision

if TYPE_CHECKING:
    from bank_tools.bank.build import BuiltBank
    from edge_uad.inference.inspector import Embedder


@with_option_groups
def build_bank(
    normals: Annotated[str, typer.Argument(help="Good images: a folder, a quoted glob, or a video file.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the bank goes.")] = Path("bank.safetensors"),
    model: ModelOption = None,
    recipe: RecipeOptions,
    reduced_decode: Annotated[
        bool,
        typer.Option(
            "--reduced-decode",
            help="Decode large JPEG pictures at 1/2, 1/4 or 1/8 of their size, here and wherever the bank judges: "
            "faster, with scores a little different. Heatmaps and evidence have that size, too.",
        ),
    ] = False,
    index: Annotated[
        IndexChoice,
        typer.Option(
            "--index",
            help="Search the bank in lists instead of all patches: auto where it is large enough to pay, always or "
            "never; and only where the good images show that verdicts stay the same.",
        ),
    ] = "auto",
    accept_damaged: Annotated[
        bool,
        typer.Option(
            "--accept-damaged",
            help="Learn from what can be read of a video that is cut short or damaged; without it such a one is "
            "refused, with exit code 2.",
        ),
    ] = False,
    exclude_outliers: Annotated[
        bool,
        typer.Option(
            "--exclude-outliers",
            help="Leave images that score far above the other good ones out of the bank and of its calibration. "
            "Look at them first: parts like them will be called anomalous.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="A page (HTML) of the images that score far above the others, each next to its heat. "
            r"Needs the \[evaluate] extra.",
            show_default="none",
        ),
    ] = None,
    precision: Annotated[
        WantedPrecision,
        typer.Option(
            "--precision",
            help="Of the arithmetic that the bank may be judged in: auto tries what this processor can do, and "
            "certifies what keeps the verdicts; bf16 or int8 tries that alone; fp32 nothing.",
        ),
    ] = "auto",
    cycle_ms: Annotated[
        float | None,
        typer.Option(
            "--cycle-ms",
            help="The line's time for one part: this machine is measured, and the finest input that fits with a margin "
            "is taken, in the fastest precision that keeps the verdicts.",
            show_default="none",
        ),
    ] = None,
    rate_hz: Annotated[
        float | None,
        typer.Option("--rate-hz", help="The same as parts a second: 1000 ms over it.", show_default="none"),
    ] = None,
    machine: MachineOptions,
    as_json: JsonOption = False,
) -> None:
    """Learn from good parts: build a memory bank and calibrate its threshold.

    Example: [bold]edge-uad build-bank normals/ --out bank.safetensors --false-alarm-rate 0.02[/bold]
    """
    from edge_uad.cli.making import Wishes, cycle_of, made_bank, made_in_time
    from edge_uad.inference.bank import check_writable
    from edge_uad.sources import recorded_source
    from edge_uad.sources.folder import FolderSource, describe_left_out, root_of

    check_writable(out)
    if report is not None:
        require_evaluate_extra("edge-uad build-bank --report")
        _check_page_writable(report)
    source, _ = recorded_source(normals)
    if isinstance(source, FolderSource) and (text := describe_left_out(source.left_out, root=root_of(normals))):
        warn(text)
    wishes = Wishes(
        normals=normals,
        out=out,
        recipe=recipe,
        machine=machine,
        index=index,
        reduced_decode=reduced_decode,
        accept_damaged=accept_damaged,
        exclude_outliers=exclude_outliers,
        precision=precision,
        cycle_ms=cycle_of(cycle_ms, rate_hz),
    )
    made = made_in_time(wishes, model) if wishes.cycle_ms is not None else made_bank(wishes, model_or_default(model))
    made.built.bank.save(out)
    warn_of_weak_calibration(made.built)
    if made.built.index_refusal is not None:
        warn(f"the bank has no index, every patch is searched: {made.built.index_refusal}")
    warn_of_outliers(made.built, shown=report is not None)
    for one in (*made.slow, *made.built.refused_precisions):
        note(f"{one.precision} is not used: {one.reason}")
    if report is not None:
        _write_report(made.built, normals, made.embedder, report)
    print_result(made.built, out, as_json=as_json)


def _check_page_writable(report: Path) -> None:
    """Refuse a place where no page can be written before hours of work.

    Raises:
        UsageError: a folder, no such folder, or no right to write there.
    """
    if report.is_dir() or not os.access(report.parent, os.W_OK):
        raise UsageError(f"no page can be written to {report}; name a file in a folder that is there and writable")


def _write_report(built: "BuiltBank", normals: str, embedder: "Embedder", report: Path) -> None:
    from bank_tools.report.outliers import write_outliers
    from edge_uad.sources import recorded_source, reduce_decoding
    from edge_uad.sources.recorded import frames_of

    source, _ = recorded_source(normals)
    preprocessor = embedder.preprocessor
    reduce_decoding(source, preprocessor.least_side_px if built.bank.manifest.reduced_decode else None)
    write_outliers(built, frames_of(source), preprocessor, report)
    note(f"report: {report}")
