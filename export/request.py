"""The settings of an export, and the card that follows from them."""

from dataclasses import dataclass

from edge_uad.errors import UsageError
from edge_uad.records import Join, ModelCard, Precision, joined_width
from export.architecture import VitSpec
from export.weights import IMAGENET_MEAN, IMAGENET_STD, PAPER_TOP_RATIO


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """The settings of one export."""

    backbone: str
    """Its name, for the card."""
    input_hw: tuple[int, int]
    layers: tuple[int, ...]
    attention_layer: int
    licence: str
    weights_sha256: str
    precision: Precision = "fp32"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    join: Join = "mean"
    neighbourhood: int = 1
    """Side, in patches, odd, of the surroundings blended into each token; 1 for none."""
    top_ratio: float = PAPER_TOP_RATIO


def check_request(request: ExportRequest, spec: VitSpec) -> None:
    """Refuse what this backbone cannot give.

    Raises:
        UsageError: an input size that is no multiple of the patch, a block that is not there, or a neighbourhood
            without a centre.
    """
    patch_px, depth = spec.patch_px, spec.depth
    if any(side < patch_px or side % patch_px for side in request.input_hw):
        raise UsageError(
            f"the input of {request.input_hw[0]}×{request.input_hw[1]} px is no multiple of the {patch_px} px patch; "
            f"try --input {max(1, round(request.input_hw[0] / patch_px)) * patch_px}"
        )
    if request.neighbourhood < 1 or request.neighbourhood % 2 == 0:
        raise UsageError(f"the neighbourhood is {request.neighbourhood} patches wide; use an odd number, 1 for none")
    beyond = [layer for layer in (*request.layers, request.attention_layer) if not 0 <= layer < depth]
    if beyond:
        raise UsageError(f"there is no block {beyond[0]}: {request.backbone} has the blocks 0 to {depth - 1}")


def make_card(request: ExportRequest, spec: VitSpec) -> ModelCard:
    """The card of the file to be."""
    height, width = request.input_hw
    return ModelCard(
        model_id="",
        backbone=request.backbone,
        input_hw=request.input_hw,
        grid_hw=(height // spec.patch_px, width // spec.patch_px),
        patch_px=spec.patch_px,
        dim=spec.dim * joined_width(request.join, request.layers),
        mean=request.mean,
        std=request.std,
        layers=request.layers,
        attention_layer=request.attention_layer,
        precision=request.precision,
        licence=request.licence,
        weights_sha256=request.weights_sha256,
        join=request.join,
        neighbourhood=request.neighbourhood,
        top_ratio=request.top_ratio,
    )
