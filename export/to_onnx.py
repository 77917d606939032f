"""One ONNX file from a backbone: one graph, one pass, the card inside."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from edge_uad import __version__
from edge_uad.errors import ModelError
from edge_uad.files import replacing
from edge_uad.inference.backbones.card import CARD_KEY, card_to_json
from edge_uad.inference.backbones.files import INPUT_NAME, OUTPUT_NAMES
from edge_uad.inference.backbones.onnx import OnnxBackbone
from edge_uad.records import ModelCard
from export.features import PatchFeatures
from export.parity import Difference, parity_pixels, require_parity
from export.request import ExportRequest, check_request, make_card, requested_features
from export.vit import VisionTransformer

OPSET = 20
"""The first with Gelu as one operator."""


def export_onnx(
    vit: VisionTransformer, request: ExportRequest, target: Path, *, parity_image: Path | None = None
) -> list[Difference]:
    """Write the model file, once it is known to compute what torch computes.

    The same weights and request give the same bytes, and so the same ``model_id``.

    Args:
        vit: the filled transformer; taken over.
        request: what to make of it.
        target: where the file appears, whole or not at all.
        parity_image: a real image to compare on; None for the packaged one.

    Returns:
        How far ONNX Runtime lies from float32 torch.

    Raises:
        UsageError: what was asked for does not fit the backbone.
        ModelError: the file cannot be written, or computes something else.
    """
    check_request(request, vit)
    card = make_card(request, vit)
    images = parity_pixels(card, parity_image)
    features = requested_features(vit, request)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            beside.write_bytes(_onnx_bytes(features.with_precision(request.precision), card))
            differences = require_parity(OnnxBackbone(beside), features, images)
    except OSError as error:
        raise ModelError(
            f"model {target} cannot be written: {error.strerror}; name another place with --out"
        ) from error
    return differences


def _onnx_bytes(features: PatchFeatures, card: ModelCard) -> bytes:
    # two images, so that the exporter does not take the batch for a constant
    example = torch.zeros(2, 3, *card.input_hw)
    with _quiet_exporter():
        program = torch.onnx.export(
            features,
            (example,),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    if program is None:
        raise ModelError("torch made no ONNX program of the backbone; report it with the version of torch")
    content: bytes = _plain_model(program.model_proto, card).SerializeToString(deterministic=True)
    return content


def _plain_model(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Without what the exporter notes of this machine and of its own steps; with the card."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.producer_name, plain.producer_version, plain.doc_string = "edge-uad", __version__, ""
    plain.graph.name, plain.graph.doc_string = card.backbone, ""
    del plain.metadata_props[:], plain.graph.metadata_props[:], plain.graph.value_info[:]
    for item in (*plain.graph.node, *plain.graph.input, *plain.graph.output, *plain.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    onnx.helper.set_model_props(plain, {CARD_KEY: card_to_json(card)})
    onnx.checker.check_model(plain)
    return plain


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own deprecated helpers and of packages it does not need here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
