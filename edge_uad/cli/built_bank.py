"""What build-bank says of a bank it made: what was skipped, what is weak, and what it has become."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edge_uad.cli.console import console, stderr, warn

if TYPE_CHECKING:
    from bank_tools.bank.build import BuiltBank
    from bank_tools.bank.good_images import GoodImages
    from edge_uad.records import BankManifest, Tiling

SHOWN_FILES = 20


def print_skipped(images: "GoodImages") -> None:
    """The images that the bank could not use, each with its reason."""
    for title, skipped in (("could not be read", images.unreadable), ("hold nothing to learn from", images.empty)):
        if skipped:
            warn(f"{len(skipped)} images {title} and were skipped:")
            for name, reason in skipped[:SHOWN_FILES]:
                stderr.print(f"  {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
            if len(skipped) > SHOWN_FILES:
                stderr.print(f"  … and {len(skipped) - SHOWN_FILES} more")


def warn_of_weak_calibration(built: "BuiltBank") -> None:
    """Too few images for the rate asked for, or the same one twice."""
    from bank_tools.bank.tail import weakness_of

    if (weakness := weakness_of(built.bank.calibration, built.bank.manifest.false_alarm_rate)) is not None:
        warn(weakness)
    if n_copies := built.images.n_copies:
        copies = "1 image is a copy of another" if n_copies == 1 else f"{n_copies} images are copies of others"
        warn(f"{copies}, which makes the threshold too low; name each good part once")


def warn_of_outliers(built: "BuiltBank", *, shown: bool) -> None:
    """Images far above the others, and what they do to the threshold.

    Args:
        built: the bank.
        shown: a page with their pictures is written.
    """
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


def print_result(built: "BuiltBank", out: Path, *, as_json: bool) -> None:
    """The bank's manifest, as a table or as JSON.

    Args:
        built: the bank.
        out: its file.
        as_json: for machines.
    """
    import dataclasses

    from edge_uad.inference.index import describe_search

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
        *([("rotations", _rotations(manifest))] if _are_rotations_said(manifest) else []),
        ("masking", _masking(manifest)),
        *([("cycle", f"{manifest.cycle_ms:g} ms")] if manifest.cycle_ms is not None else []),
        ("precision", _precisions(manifest)),
        ("threshold", f"{manifest.threshold:.6f} at a false-alarm rate of {manifest.false_alarm_rate:g}"),
        *([("search", search)] if (search := describe_search(manifest)) is not None else []),
    ]
    for label, value in rows:
        console.print(f"{label:<10} {value}", markup=False, highlight=False)


def _masking(manifest: "BankManifest") -> str:
    from bank_tools.bank.mask_rule import sentence_of

    told = f"kernel {manifest.bpm_kernel}, threshold {manifest.bpm_threshold:g}" if manifest.bpm_threshold else "none"
    return told if manifest.background_ratio is None else sentence_of(manifest.bpm_threshold, manifest.background_ratio)


def _are_rotations_said(manifest: "BankManifest") -> bool:
    from edge_uad.records import Rotations

    return manifest.rotations is not Rotations.NONE or manifest.turned_ratio is not None


def _rotations(manifest: "BankManifest") -> str:
    from bank_tools.bank.rotation import sentence_of

    return sentence_of(manifest.rotations, manifest.turned_ratio)


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
