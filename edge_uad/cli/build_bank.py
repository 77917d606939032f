"""``edge-uad build-bank``: good images in, one bank file out."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import TerminalProgress, console, note, stderr, warn
from edge_uad.cli.measuring import require_evaluate_extra
from edge_uad.cli.model import model_or_default, open_for_many
from edge_uad.cli.options import JsonOption, MachineOptions, ModelOption, RecipeOptions, recipe_of, with_option_groups
from edge_uad.errors import UsageError
from edge_uad.records import WantedPrecision

if TYPE_CHECKING:
    from bank_tools.bank.build import BuiltBank, GoodImages
    from edge_uad.inference.inspector import Embedder
    from edge_uad.records import BankManifest, Tiling

SHOWN_FILES = 20


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
    machine: MachineOptions,
    as_json: JsonOption = False,
) -> None:
    """Learn from good parts: build a memory bank and calibrate its threshold.

    Example: [bold]edge-uad build-bank normals/ --out bank.safetensors --false-alarm-rate 0.02[/bold]
    """
    from bank_tools.bank.build import build_bank as build
    from bank_tools.bank.build import embed_all
    from bank_tools.bank.embeddings import scratch_folder
    from bank_tools.bank.precision_trial import possible_precisions, prepare_trial
    from bank_tools.bank.recipe import embedder_for
    from edge_uad.inference.bank import check_writable
    from edge_uad.sources import recorded_source, reduce_decoding
    from edge_uad.sources.folder import FolderSource, describe_left_out, root_of
    from edge_uad.sources.recorded import frames_of, shortfall_of

    check_writable(out)
    if report is not None:
        require_evaluate_extra("edge-uad build-bank --report")
        _check_page_writable(report)
    source, total = recorded_source(normals)
    if isinstance(source, FolderSource) and (text := describe_left_out(source.left_out, root=root_of(normals))):
        warn(text)
    backbone, workers = open_for_many(model, machine)
    chosen = recipe_of(backbone.card, recipe, machine, reduced_decode=reduced_decode)
    embedder = embedder_for(backbone, chosen)
    reduce_decoding(source, embedder.preprocessor.least_side_px if reduced_decode else None)
    progress = TerminalProgress()
    folder = scratch_folder(out.parent)
    trial, slow = prepare_trial(
        model_or_default(model),
        embedder,
        chosen,
        possible_precisions(backbone.card, precision, machine.provider),
        total=total,
        workers=workers,
        progress=progress,
        folder=folder,
    )
    images = embed_all(frames_of(source), embedder, total, progress, workers=workers, folder=folder, trial=trial)
    _print_skipped(images)
    if (shortfall := shortfall_of(source)) is not None:
        if not accept_damaged:
            raise UsageError(f"{shortfall}; copy the video again, or learn from what is there with --accept-damaged")
        warn(f"{shortfall}; the bank is built from the other frames")
    built = build(images, recipe=chosen, embedder=embedder, progress=progress, exclude_outliers=exclude_outliers)
    built.bank.save(out)
    _warn_of_weak_calibration(built)
    _warn_of_outliers(built, shown=report is not None)
    for one in (*slow, *built.refused_precisions):
        note(f"{one.precision} is not used: {one.reason}")
    if report is not None:
        _write_report(built, normals, embedder, report)
    _print_result(built, out, as_json=as_json)


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


def _print_skipped(images: "GoodImages") -> None:
    for title, skipped in (("could not be read", images.unreadable), ("hold nothing to learn from", images.empty)):
        if skipped:
            warn(f"{len(skipped)} images {title} and were skipped:")
            for name, reason in skipped[:SHOWN_FILES]:
                stderr.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
            if len(skipped) > SHOWN_FILES:
                stderr.print(f"  … and {len(skipped) - SHOWN_FILES} more")


def _warn_of_weak_calibration(built: "BuiltBank") -> None:
    from bank_tools.bank.tail import weakness_of

    if (weakness := weakness_of(built.bank.calibration, built.bank.manifest.false_alarm_rate)) is not None:
        warn(weakness)
    if n_copies := built.images.n_copies:
        copies = "1 image is a copy of another" if n_copies == 1 else f"{n_copies} images are copies of others"
        warn(f"{copies}, which makes the threshold too low; name each good part once")


def _warn_of_outliers(built: "BuiltBank", *, shown: bool) -> None:
    cost = built.outlier_cost
    if cost is None:
        return
    import numpy as np

    manifest = built.bank.manifest
    one_alone = cost.n_outliers == 1
    number = "1 image scores" if one_alone else f"{cost.n_outliers} images score"
    them, they_are, these = ("it", "it is", "this one") if one_alone else ("them", "they are", "these")
    listed = f"{number} far above the other good ones (median {np.median(built.scores):.4f})"
    if manifest.n_excluded:
        warn(
            f"{listed}; left out of the bank and of its calibration as asked: the threshold is "
            f"{manifest.threshold:.4f} instead of {cost.threshold_with:.4f}, and parts like {these} are called "
            "anomalous:"
        )
    else:
        see = "" if shown else f", see {them} with --report page.html"
        warn(
            f"{listed}, which can make the threshold too high: it is {cost.threshold_with:.4f} with {them} "
            f"({cost.others_above_with} of the {cost.n_others} others above it) and about {cost.threshold_without:.4f} "
            f"without ({cost.others_above_without} above it), {_change(cost.fall_ratio)}; check whether "
            f"{they_are} good{see}, or leave {them} out with --exclude-outliers:"
        )
    for one in built.outliers[:SHOWN_FILES]:
        stderr.print(f"  {one.name}: {one.score:.4f}", markup=False, highlight=False)
    if cost.n_outliers > SHOWN_FILES:
        stderr.print(f"  … and {cost.n_outliers - SHOWN_FILES} more")


def _change(fall_ratio: float) -> str:
    return f"{abs(fall_ratio):.0%} {'lower' if fall_ratio >= 0 else 'higher'}"


def _print_result(built: "BuiltBank", out: Path, *, as_json: bool) -> None:
    import dataclasses

    manifest = built.bank.manifest
    if as_json:
        cost = built.outlier_cost
        found = {
            "outliers": [{"name": one.name, "score": one.score} for one in built.outliers],
            "outlier_cost": None if cost is None else dataclasses.asdict(cost),
        }
        typer.echo(json.dumps({"path": str(out), **dataclasses.asdict(manifest), **found}))
        return
    learned = f"{manifest.n_images} learned, {manifest.n_unreadable} unreadable, {manifest.n_empty} empty"
    learned += f", {manifest.n_excluded} excluded as outliers" if manifest.n_excluded else ""
    rows = [
        ("bank", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"),
        ("bank id", manifest.bank_id),
        ("model id", f"{manifest.model_id} ({manifest.backbone})"),
        ("images", learned),
        ("patches", _patches(manifest)),
        *([("tiles", _tiles(manifest.tiling))] if manifest.tiling else []),
        *([("decoding", "large JPEG pictures at a part of their size")] if manifest.reduced_decode else []),
        ("masking", _masking(manifest)),
        ("precision", _precisions(manifest)),
        ("threshold", f"{manifest.threshold:.6f} at a false-alarm rate of {manifest.false_alarm_rate:g}"),
    ]
    for label, value in rows:
        console.print(f"{label:<10} {value}", markup=False, highlight=False)


def _masking(manifest: "BankManifest") -> str:
    from bank_tools.bank.mask_rule import sentence_of

    told = f"kernel {manifest.bpm_kernel}, threshold {manifest.bpm_threshold:g}" if manifest.bpm_threshold else "none"
    return told if manifest.background_ratio is None else sentence_of(manifest.bpm_threshold, manifest.background_ratio)


def _tiles(tiling: "Tiling") -> str:
    (rows, columns), (down, across) = tiling.tiles_hw, tiling.overlap_hw
    return f"{rows}×{columns}, overlapping by {down} patches down and {across} across"


def _precisions(manifest: "BankManifest") -> str:
    if not manifest.precisions:
        return "fp32"
    best = manifest.precisions[0]
    found = best.certificate
    share = found.p99_score_difference / found.threshold if found.threshold else 0.0
    others = "".join(f" or {one.precision}" for one in manifest.precisions[1:])
    return (
        f"{best.precision}{others}, in {best.embedding_ms / best.fp32_embedding_ms:.0%} of fp32's time; {found.flips} "
        f"of {found.n_judged} verdicts differ, scores by {share:.1%} of the threshold (99th percentile)"
    )


def _patches(manifest: "BankManifest") -> str:
    bound = "" if manifest.max_patches is None else f", at most {manifest.max_patches}"
    return f"{manifest.n_patches} (coreset {manifest.coreset_ratio:g}{bound}; seed {manifest.seed})"
