"""``edge-uad build-bank``: good images in, one bank file out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import TerminalProgress, console, stderr, warn
from edge_uad.cli.model import model_or_default
from edge_uad.cli.options import JsonOption, MachineOptions, ModelOption, RecipeOptions, recipe_of, with_option_groups
from edge_uad.errors import UsageError

if TYPE_CHECKING:
    from bank_tools.bank.build import BuiltBank, GoodImages
    from edge_uad.records import BankManifest

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
    machine: MachineOptions,
    as_json: JsonOption = False,
) -> None:
    """Learn from good parts: build a memory bank and calibrate its threshold.

    Example: [bold]edge-uad build-bank normals/ --out bank.safetensors --false-alarm-rate 0.02[/bold]
    """
    from bank_tools.bank.build import build_bank as build
    from bank_tools.bank.build import embed_all
    from bank_tools.bank.embeddings import scratch_folder
    from bank_tools.bank.recipe import embedder_for
    from edge_uad.inference.bank import check_writable
    from edge_uad.runtime.assemble import load_backbone_for_many
    from edge_uad.sources import recorded_source, reduce_decoding
    from edge_uad.sources.folder import FolderSource, describe_left_out, root_of
    from edge_uad.sources.recorded import frames_of, shortfall_of

    check_writable(out)
    source, total = recorded_source(normals)
    if isinstance(source, FolderSource) and (text := describe_left_out(source.left_out, root=root_of(normals))):
        warn(text)
    backbone, workers = load_backbone_for_many(
        model_or_default(model),
        provider=machine.provider,
        threads=machine.threads,
        search_device=machine.search_device,
    )
    chosen = recipe_of(backbone.card, recipe, machine, reduced_decode=reduced_decode)
    embedder = embedder_for(backbone, chosen)
    reduce_decoding(source, embedder.preprocessor.least_side_px if reduced_decode else None)
    progress = TerminalProgress()
    images = embed_all(frames_of(source), embedder, total, progress, workers=workers, folder=scratch_folder(out.parent))
    _print_skipped(images)
    if (shortfall := shortfall_of(source)) is not None:
        if not accept_damaged:
            raise UsageError(f"{shortfall}; copy the video again, or learn from what is there with --accept-damaged")
        warn(f"{shortfall}; the bank is built from the other frames")
    built = build(images, recipe=chosen, embedder=embedder, progress=progress)
    built.bank.save(out)
    _warn_of_weak_calibration(images, built)
    _print_result(built.bank.manifest, out, as_json=as_json)


def _print_skipped(images: "GoodImages") -> None:
    for title, skipped in (("could not be read", images.unreadable), ("hold nothing to learn from", images.empty)):
        if skipped:
            warn(f"{len(skipped)} images {title} and were skipped:")
            for name, reason in skipped[:SHOWN_FILES]:
                stderr.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
            if len(skipped) > SHOWN_FILES:
                stderr.print(f"  … and {len(skipped) - SHOWN_FILES} more")


def _warn_of_weak_calibration(images: "GoodImages", built: "BuiltBank") -> None:
    import numpy as np

    from bank_tools.bank.calibrate import outliers
    from edge_uad.inference.scoring import calibration_images_needed

    manifest = built.bank.manifest
    needed = calibration_images_needed(manifest.false_alarm_rate)
    if manifest.n_images < needed:
        warn(
            f"{manifest.n_images} images are too few for a false-alarm rate of {manifest.false_alarm_rate:g}: "
            f"{needed} are needed; with these the threshold is their highest score, which keeps it at about "
            f"{1 / (manifest.n_images + 1):.2g}"
        )
    if images.n_copies:
        warn(
            f"{images.n_copies} images are copies of others, which makes the threshold too low; "
            "name each good part once"
        )
    if far := outliers(built.scores):
        warn(
            f"{len(far)} images score far above the other good ones (median {np.median(built.scores):.4f}), "
            "which can make the threshold too high; check whether they are good:"
        )
        for image in far[:SHOWN_FILES]:
            stderr.print(f"  {images.names[image]}: {built.scores[image]:.4f}", markup=False, highlight=False)


def _print_result(manifest: "BankManifest", out: Path, *, as_json: bool) -> None:
    import dataclasses

    if as_json:
        typer.echo(json.dumps({"path": str(out), **dataclasses.asdict(manifest)}))
        return
    rows = [
        ("bank", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"),
        ("bank id", manifest.bank_id),
        ("model id", f"{manifest.model_id} ({manifest.backbone})"),
        ("images", f"{manifest.n_images} learned, {manifest.n_unreadable} unreadable, {manifest.n_empty} empty"),
        ("patches", _patches(manifest)),
        *([("decoding", "large JPEG pictures at a part of their size")] if manifest.reduced_decode else []),
        ("masking", _masking(manifest)),
        ("threshold", f"{manifest.threshold:.6f} at a false-alarm rate of {manifest.false_alarm_rate:g}"),
    ]
    for label, value in rows:
        console.print(f"{label:<10} {value}", markup=False, highlight=False)


def _masking(manifest: "BankManifest") -> str:
    from bank_tools.bank.mask_rule import sentence_of

    told = f"kernel {manifest.bpm_kernel}, threshold {manifest.bpm_threshold:g}" if manifest.bpm_threshold else "none"
    return told if manifest.background_ratio is None else sentence_of(manifest.bpm_threshold, manifest.background_ratio)


def _patches(manifest: "BankManifest") -> str:
    bound = "" if manifest.max_patches is None else f", at most {manifest.max_patches}"
    return f"{manifest.n_patches} (coreset {manifest.coreset_ratio:g}{bound}; seed {manifest.seed})"
