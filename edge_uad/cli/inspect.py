"""``edge-uad inspect``: a verdict for each image, without a daemon."""

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import DECISION_STYLES, TerminalProgress, console, note, print_json, warn
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import (
    BankOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    ProviderOption,
    SearchDeviceOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from edge_uad.records import Verdict

STATION = "inspect"


def inspect(
    images: Annotated[list[str], typer.Argument(help="Images, folders or quoted globs.")],
    *,
    bank: BankOption,
    model: ModelOption = None,
    heatmaps: Annotated[
        Path | None, typer.Option("--heatmaps", help="Write each image with its heat drawn over it below this folder.")
    ] = None,
    as_json: JsonOption = False,
    provider: ProviderOption = "cpu",
    threads: ThreadsOption = 0,
    search_device: SearchDeviceOption = "cpu",
    precision: PrecisionOption = "auto",
) -> None:
    """Judge images: one line each, or JSON Lines with the verdict's fields.

    Example: [bold]edge-uad inspect parts/ --bank bank.safetensors --heatmaps overlays/[/bold]
    """
    from edge_uad.inference.index import describe_search
    from edge_uad.outputs.overlays import OverlayFolder
    from edge_uad.records import AnyFrame, Frame, Verdict
    from edge_uad.runtime.assemble import backbones_for_many, load_inspector
    from edge_uad.runtime.in_order import in_order
    from edge_uad.sources import reduce_decoding
    from edge_uad.sources.folder import FolderSource, describe_left_out, find_images
    from edge_uad.sources.recorded import frames_of

    found = [find_images(named) for named in images]
    files = [file for one in found for file in one.images]
    if text := describe_left_out([left_out for one in found for left_out in one.left_out]):
        warn(text)
    folder = None if heatmaps is None else OverlayFolder(heatmaps, files)
    backbones, workers = backbones_for_many(
        model_or_default(model, bank),
        provider=provider,
        threads=threads,
        search_device=search_device,
        precision=precision,
    )
    inspector = load_inspector(
        backbones, bank, search_device=search_device, search_threads=1 if workers > 1 else threads
    )
    if inspector.precision_reason is not None:
        warn(f"judged in fp32: {inspector.precision_reason}")
    if (search := describe_search(inspector.manifest, search_device)) is not None:
        note(f"the bank is {search}")
    source = FolderSource(STATION, files)
    reduce_decoding(source, inspector.least_side_px)

    def judged(frame: AnyFrame) -> tuple[AnyFrame, Verdict]:
        return frame, inspector.inspect(frame)

    counts: Counter[str] = Counter()
    started_s = time.monotonic()
    progress = TerminalProgress(hidden=console.is_terminal)  # on a terminal the lines themselves show how it goes
    with progress.step("inspecting", len(files), "images") as done:
        for frame, verdict in in_order(judged, frames_of(source), workers=workers):
            counts[verdict.decision] += 1
            _print_verdict(verdict, as_json=as_json)
            if folder is not None and isinstance(frame, Frame):
                folder.write(files[frame.frame_id], inspector.overlay(frame, verdict))
            done(1)
    rate_hz = len(files) / (time.monotonic() - started_s)
    summary = ", ".join(f"{counts[decision]} {decision}" for decision in DECISION_STYLES)
    note(
        f"{len(files)} images: {summary}; threshold {inspector.threshold:.6f}; {inspector.precision}; "
        f"{rate_hz:.1f} images/s"
    )


def _print_verdict(verdict: "Verdict", *, as_json: bool) -> None:
    from edge_uad.net.wire import header_of

    if as_json:
        print_json(header_of(verdict))
        return
    style = DECISION_STYLES[verdict.decision]
    if verdict.score is None:
        facts = f"{'-':>9}  {'-':>8}  {'-':>9}"
    else:
        at = "{},{}".format(*verdict.peak) if verdict.peak else "-"
        facts = f"{verdict.score:9.6f}  p={verdict.p_value:6.4f}  {at:>9}"
    reason = "" if verdict.reason is None else f": {verdict.reason}"
    console.print(f"{verdict.decision:<9}", style=style, end="")
    console.print(f"  {facts}  {verdict.part_id}{reason}", markup=False, highlight=False)
