"""``edge-uad bench``: time, rate and memory of the pipeline on this machine, and the ratio to the machine's limit."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import TerminalProgress, console, note, print_json, print_line, warn
from edge_uad.cli.frontier import bench_frontier
from edge_uad.cli.measuring import print_tables, whole_numbers
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import (
    JsonOption,
    ModelOption,
    PrecisionOption,
    ProviderOption,
    SearchDeviceOption,
    ThreadsOption,
)
from edge_uad.errors import UsageError

if TYPE_CHECKING:
    from bank_tools.bench.frames import EncodedFrames
    from bank_tools.bench.results import BenchResult

BUSY_SHARE = 0.05
"""CPU time taken by other programs, as a part of the machine's; above it the user is warned."""
JSON_SCHEMA = 1


def bench(
    frames: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders or quoted globs to send as frames.",
            show_default="a packaged picture at 1280×960",
        ),
    ] = None,
    *,
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="Bank file of edge-uad build-bank.", show_default="one made of these frames"),
    ] = None,
    model: ModelOption = None,
    n_frames: Annotated[int, typer.Option("--frames", min=2, help="How many frames each measurement takes.")] = 100,
    batches: Annotated[
        str, typer.Option("--batch", help="Values of max_batch to compare, by commas; 1 compares none.")
    ] = "2,4",
    live: Annotated[
        str, typer.Option("--live", help="Numbers of live stations to measure, by commas; 0 measures none.")
    ] = "3",
    compare: Annotated[
        bool, typer.Option("--settings/--no-settings", help="Compare each optional setting with the default, too.")
    ] = True,
    frontier: Annotated[
        bool,
        typer.Option(
            "--frontier",
            help="Only what a frame alone takes at each input size and precision, beside what that size caught.",
        ),
    ] = False,
    chart: Annotated[
        Path | None,
        typer.Option(
            "--chart", help=r"The frontier as a picture (SVG). Needs the \[evaluate] extra.", show_default="none"
        ),
    ] = None,
    as_json: JsonOption = False,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = 0,
    search_device: SearchDeviceOption = "cpu",
    precision: PrecisionOption = "auto",
) -> None:
    """Measure the real pipeline on real frames: stages, latency, rate, memory, and the machine's limit.

    Frames are sent over ZeroMQ to a daemon in a process of its own. Whatever is compared is measured in turn, in this
    same run. Do nothing else on the machine meanwhile.

    Example: [bold]edge-uad bench parts/ --bank bank.safetensors --frames 200[/bold]
    """
    from bank_tools.bench.frames import saved_bank_of
    from bank_tools.bench.machine import OtherPrograms
    from bank_tools.bench.results import BenchOptions
    from bank_tools.bench.run import run_bench
    from edge_uad.runtime.assemble import load_inspector
    from edge_uad.runtime.backbones import Backbones
    from edge_uad.runtime.settings import MAX_STATIONS

    if chart is not None and not frontier:
        raise UsageError("--chart is the picture of --frontier; give both")
    if frontier:
        bench_frontier(
            _frames(frames),
            model_or_default(model),
            provider=provider,
            precision=precision,
            threads=threads,
            chart=chart,
            as_json=as_json,
        )
        return
    sizes = whole_numbers(batches, "--batch")
    if sizes[-1] > MAX_STATIONS:
        raise UsageError(f"--batch names {sizes[-1]}; a line has {MAX_STATIONS} stations at most, and so a batch")
    numbers = () if live.strip() == "0" else whole_numbers(live, "--live")
    if numbers and numbers[-1] > MAX_STATIONS:
        raise UsageError(f"--live names {numbers[-1]}; a line has {MAX_STATIONS} stations at most")
    if bank is None and precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {precision} is for a bank that is certified for it; name one with --bank")
    encoded = _frames(frames)
    path = model_or_default(model, bank)
    backbones = Backbones(path, provider=provider, threads=threads, precision=precision)
    if bank is not None:
        load_inspector(backbones, bank, search_device=search_device)  # refused here rather than by the daemon's log
    others = OtherPrograms()
    progress = TerminalProgress()
    # not below $TMPDIR, which may be too long for a socket's name
    with tempfile.TemporaryDirectory(prefix="edge-uad-", dir="/tmp") as folder:
        options = BenchOptions(
            model=path,
            bank=bank or saved_bank_of(encoded, backbones.in_fp32(), Path(folder), progress),
            frames=encoded,
            n_frames=n_frames,
            provider=provider,
            precision=precision,
            threads=threads,
            search_device=search_device,
            batches=sizes,
            compare=compare,
            live=numbers,
            folder=Path(folder),
        )
        result = run_bench(options, progress)
    share = others.share()
    _print_result(result, share, as_json=as_json)
    if share is not None and share > BUSY_SHARE:
        warn(f"other programs took {share:.0%} of the machine meanwhile: stop them, and measure again")


def _frames(named: list[str] | None) -> "EncodedFrames":
    from bank_tools.bench.frames import frames_from_files, packaged_frames

    return frames_from_files(named) if named else packaged_frames()


def _print_result(result: "BenchResult", others_share: float | None, *, as_json: bool) -> None:
    import dataclasses

    from bank_tools.bench.machine import machine
    from bank_tools.bench.results import tables_of

    named = machine()
    if as_json:
        ratios = {
            "backbone_of_limit": result.backbone_of_limit,
            "line_of_limit": result.line_of_limit,
        }
        print_json(
            {
                "schema": JSON_SCHEMA,
                "machine": named,
                "others_share": others_share,
                **dataclasses.asdict(result),
                **ratios,
            }
        )
        return
    card = result.card
    described = {
        **named,
        "model": f"{card.backbone}, {card.input_hw[1]}×{card.input_hw[0]} px, {card.precision}, {card.model_id[:12]}",
        "frames": result.frames,
        "bank": f"{result.stages.n_bank} patches; {result.stages.foreground_ratio:.0%} of a frame's patches foreground",
    }
    width = max(map(len, described))
    for label, value in described.items():
        print_line(f"{label:<{width}}  {value}")
    console.print()
    print_tables(tables_of(result))
    decided = ", ".join(f"{count} {decision}" for decision, count in result.stages.decisions.items())
    note(f"verdicts: {decided}")
