"""``edge-uad export``: a backbone's weights → one model file."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import console, stderr, warn
from edge_uad.errors import MissingExtraError, UsageError
from edge_uad.records import Join, Precision

if TYPE_CHECKING:
    from export.architecture import VitWeights
    from export.parity import Difference
    from export.request import ExportRequest

CUSTOM = "custom"
CUSTOM_PATCHES_PX = (8, 14, 16)
UNKNOWN_LICENCE = "unknown"
MAX_INPUT_PX = 2048


class Target(StrEnum):
    """What is made."""

    ONNX = "onnx"
    TENSORRT = "tensorrt"


SUFFIXES = {Target.ONNX: ".onnx", Target.TENSORRT: ".engine"}


class CustomArch(StrEnum):
    """Widths and heads by their common names."""

    VIT_TINY = "vit_tiny"
    VIT_SMALL = "vit_small"
    VIT_BASE = "vit_base"


def export(
    backbone: Annotated[str, typer.Argument(help="A named backbone, or custom for weights of your own.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the model file appears: .onnx, or .engine for TensorRT.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help=r"Weights to use: .safetensors, or .pth, which needs the \[export] extra.",
            show_default="fetched by name",
        ),
    ] = None,
    arch: Annotated[CustomArch | None, typer.Option("--arch", help="Of a custom checkpoint.")] = None,
    patch: Annotated[int | None, typer.Option("--patch", help="Of a custom checkpoint: 8, 14 or 16 px.")] = None,
    input_px: Annotated[
        int | None,
        typer.Option(
            "--input",
            min=1,
            max=MAX_INPUT_PX,
            help="Side of the square input in px.",
            show_default="the backbone's in weights.yaml, 224 for most",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            help="0-based blocks whose tokens are joined: 2-9, or 2,5,8, or 11.",
            show_default="the backbone's in weights.yaml, 2-9 for most",
        ),
    ] = None,
    attention_layer: Annotated[
        int | None,
        typer.Option(
            "--attention-layer",
            min=0,
            help="0-based block whose CLS attention finds the object.",
            show_default="the backbone's in weights.yaml, 9 for most",
        ),
    ] = None,
    join: Annotated[
        Join | None,
        typer.Option(
            "--join",
            help="The blocks' tokens: their mean, or one after the other, raw (concat) or at unit norm (levels).",
            show_default="the backbone's in weights.yaml, mean for most",
        ),
    ] = None,
    neighbourhood: Annotated[
        int | None,
        typer.Option(
            "--neighbourhood",
            min=1,
            help="Side, in patches, odd, of the surroundings blended into each token; 1 for none.",
            show_default="the backbone's in weights.yaml, 1 for most",
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            help="Of weights and blocks; fp16, for a GPU, wants edge-uad certify next. bf16 and int8 are arithmetic on "
            "an fp32 file, which edge-uad build-bank certifies.",
        ),
    ] = "fp32",
    target: Annotated[Target, typer.Option("--target", help="What is made.")] = Target.ONNX,
    parity_image: Annotated[
        Path | None,
        typer.Option("--parity-image", help="Real image to check the model on.", show_default="a packaged one"),
    ] = None,
) -> None:
    """Make a model file of a backbone: one graph, its card inside, checked before it appears.

    Needs no torch, except for weights that are pickles (.pth) and for TensorRT.

    Example: [bold]edge-uad export dinov2_vits14 --out m.onnx[/bold]

    Your own weights: [bold]edge-uad export custom --checkpoint my.pth --arch vit_small --patch 16 --out m.onnx[/bold]
    """
    chosen_layers = None if layers is None else parse_layers(layers)
    _check_suffix(out, target)
    if target is Target.TENSORRT and find_spec("torch_tensorrt") is None:
        raise MissingExtraError("edge-uad export --target tensorrt", "tensorrt")
    source = _named(backbone, checkpoint, arch, patch) if backbone != CUSTOM else _custom(checkpoint, arch, patch)
    from edge_uad.files import sha256_of_file
    from export.request import ExportRequest

    request = ExportRequest(
        backbone=source.name,
        input_hw=(input_px or source.input_px, input_px or source.input_px),
        layers=chosen_layers or source.layers,
        attention_layer=source.attention_layer if attention_layer is None else attention_layer,
        licence=source.licence,
        weights_sha256=sha256_of_file(source.file),
        precision=precision,
        mean=source.mean,
        std=source.std,
        join=join or source.join,
        neighbourhood=source.neighbourhood if neighbourhood is None else neighbourhood,
        top_ratio=source.top_ratio,
    )
    with stderr.status(f"exporting {source.name} and checking it"):
        differences = _write(target, source.vit_weights, request, out, parity_image=parity_image)
    _report(differences, out, sha256_of_file(out), precision)


def parse_layers(text: str) -> tuple[int, ...]:
    """``2-9``, ``2,5,8`` or ``11`` → ascending blocks, each once.

    Raises:
        UsageError: neither of these.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        bounds = (first, last) if dash else (first, first)
        if not all(bound.isascii() and bound.isdigit() and len(bound) <= 3 for bound in bounds):
            raise UsageError(f"--layers is {text!r}; give 0-based blocks as 2-9, or 2,5,8, or 11")
        low, high = map(int, bounds)
        if low > high:
            raise UsageError(f"--layers is {text!r}; the range {part.strip()} ends before it begins")
        chosen.update(range(low, high + 1))
    return tuple(sorted(chosen))


@dataclass(frozen=True, slots=True)
class _Source:
    """A backbone's weights, and what the model card will say of them."""

    name: str
    vit_weights: "VitWeights"
    file: Path
    licence: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_px: int
    layers: tuple[int, ...]
    join: Join
    attention_layer: int
    neighbourhood: int
    top_ratio: float


def _named(name: str, checkpoint: Path | None, arch: CustomArch | None, patch: int | None) -> _Source:
    from export.weights import named_backbone

    if arch is not None or patch is not None:
        raise UsageError(f"--arch and --patch belong to custom weights; {name} has its own: leave them out")
    row = named_backbone(name)
    from export.fetch import fetch_weights, load_named

    weights = checkpoint or fetch_weights(name, stderr)
    return _Source(
        name=name,
        vit_weights=load_named(name, weights),
        file=weights,
        licence=row.licence,
        mean=row.mean,
        std=row.std,
        input_px=row.input_px,
        layers=row.layers,
        join=row.join,
        attention_layer=row.attention_layer,
        neighbourhood=row.neighbourhood,
        top_ratio=row.top_ratio,
    )


def _custom(checkpoint: Path | None, arch: CustomArch | None, patch: int | None) -> _Source:
    if checkpoint is None or arch is None or patch is None:
        raise UsageError("custom weights need all of --checkpoint FILE, --arch vit_tiny|vit_small|vit_base and --patch")
    if patch not in CUSTOM_PATCHES_PX:
        raise UsageError(f"--patch is {patch}; give one of {', '.join(map(str, CUSTOM_PATCHES_PX))}")
    from export.checkpoints import read_custom_weights
    from export.weights import (
        IMAGENET_MEAN,
        IMAGENET_STD,
        PAPER_ATTENTION_LAYER,
        PAPER_INPUT_PX,
        PAPER_LAYERS,
        PAPER_TOP_RATIO,
    )

    return _Source(
        name=f"{CUSTOM}_{arch.value}_patch{patch}",
        vit_weights=read_custom_weights(checkpoint, arch=arch.value, patch_px=patch),
        file=checkpoint,
        licence=UNKNOWN_LICENCE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_px=PAPER_INPUT_PX,
        layers=PAPER_LAYERS,
        join="mean",
        attention_layer=PAPER_ATTENTION_LAYER,
        neighbourhood=1,
        top_ratio=PAPER_TOP_RATIO,
    )


def _check_suffix(out: Path, target: Target) -> None:
    if out.suffix != SUFFIXES[target]:
        raise UsageError(f"--out is {out}; a model for {target.value} ends in {SUFFIXES[target]}")


def _write(
    target: Target,
    weights: "VitWeights",
    request: "ExportRequest",
    out: Path,
    *,
    parity_image: Path | None,
) -> "list[Difference]":
    if target is Target.TENSORRT:
        from export.to_tensorrt import export_tensorrt

        return export_tensorrt(weights, request, out, parity_image=parity_image)
    from export.to_onnx import export_onnx

    return export_onnx(weights, request, out, parity_image=parity_image)


def _report(differences: "list[Difference]", out: Path, model_id: str, precision: Precision) -> None:
    for difference in differences:
        console.print(
            f"parity on the {difference.image:<6} image: max abs difference to the reference "
            f"{difference.tokens:.2e} (tokens), {difference.attention:.2e} (attention)",
            highlight=False,
        )
    console.print(f"{out}: model {model_id}", markup=False, highlight=False)
    if precision != "fp32":
        warn(
            f"{precision} runs with a parity certificate alone; next: "
            f"edge-uad certify {out} --against FP32_MODEL --good FOLDER"
        )
