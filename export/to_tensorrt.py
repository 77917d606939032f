"""A TensorRT engine from a backbone, with the card beside it; compiled from torch.

Written against the documented API of torch-tensorrt; no machine of ours has run it.
"""

import importlib
from pathlib import Path
from typing import Any

import torch

from edge_uad.errors import MissingExtraError, ProviderError
from edge_uad.files import replacing
from edge_uad.inference.backbones.card import card_to_json
from edge_uad.inference.backbones.tensorrt import TensorRtBackbone
from export.architecture import VitWeights
from export.parity import Difference, parity_pixels, require_parity
from export.request import ExportRequest, check_request, make_card
from export.to_onnx import cannot_be_written
from export.vit import PatchFeatures, requested_features


def export_tensorrt(
    weights: VitWeights, request: ExportRequest, target: Path, *, parity_image: Path | None = None
) -> list[Difference]:
    """Write an engine for this machine's GPU, one image at a time, and its card as ``.json`` beside it.

    Args:
        weights: of the backbone.
        request: what to make of it.
        target: where the engine appears, whole or not at all.
        parity_image: a real image to compare on; None for the packaged one.

    Returns:
        The differences between the engine and the float32 reference, by image.

    Raises:
        MissingExtraError: without the [tensorrt] extra.
        ProviderError: there is no GPU.
        UsageError: the request does not fit the backbone.
        ModelError: the engine cannot be built or written, or computes something else.
    """
    torch_tensorrt = _import_torch_tensorrt()
    if not torch.cuda.is_available():
        raise ProviderError("a TensorRT engine is built on the GPU that runs it, and there is none; check nvidia-smi")
    check_request(request, weights.spec)
    card = make_card(request, weights.spec)
    images = parity_pixels(card, parity_image)
    features = requested_features(weights, request)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target.with_suffix(".json")) as card_beside, replacing(target) as engine:
            card_beside.write_text(card_to_json(card), encoding="utf-8")
            engine.write_bytes(_engine_bytes(torch_tensorrt, features.with_precision(request.precision), request))
            differences = require_parity(TensorRtBackbone(engine), weights, request, images)
    except OSError as error:
        raise cannot_be_written(target, error) from error
    return differences


def _engine_bytes(torch_tensorrt: Any, features: PatchFeatures, request: ExportRequest) -> bytes:
    example = torch.zeros(1, 3, *request.input_hw, device="cuda")
    exported = torch.export.export(features.cuda(), (example,))
    engine: bytes = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        exported,
        arg_inputs=[example],
        use_explicit_typing=True,  # the module's own types are the requested precision
        disable_tf32=request.precision == "fp32",
    )
    return engine


def _import_torch_tensorrt() -> Any:
    try:
        return importlib.import_module("torch_tensorrt")
    except ImportError as error:
        raise MissingExtraError("edge-uad export --target tensorrt", "tensorrt") from error
