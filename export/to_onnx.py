"""One ONNX file from a backbone: one graph, one pass, the card inside."""

from dataclasses import replace
from pathlib import Path

import onnx

from edge_uad.errors import ModelError
from edge_uad.files import replacing
from edge_uad.inference.backbones.card import CARD_KEY, card_to_json
from edge_uad.inference.backbones.onnx import OnnxBackbone
from edge_uad.records import ModelCard, ParityCertificate
from export.architecture import VitWeights
from export.graph import GRAPH_VERSION, IR_VERSION, OPSET, vit_graph
from export.parity import Difference, parity_pixels, require_parity
from export.request import ExportRequest, check_request, make_card


def export_onnx(
    weights: VitWeights, request: ExportRequest, target: Path, *, parity_image: Path | None = None
) -> list[Difference]:
    """Write the model file, once it is known to compute what the method states.

    The same weights and request give the same bytes, and so the same ``model_id``.

    Args:
        weights: of the backbone.
        request: what to make of it.
        target: where the file appears, whole or not at all.
        parity_image: a real image to compare on; None for the packaged one.

    Returns:
        The differences between ONNX Runtime and the float32 reference, by image.

    Raises:
        UsageError: the request does not fit the backbone.
        ModelError: the file cannot be written, or computes something else.
    """
    check_request(request, weights.spec)
    card = make_card(request, weights.spec)
    images = parity_pixels(card, parity_image)
    content = onnx_bytes(weights, request)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(content)
            differences = require_parity(OnnxBackbone(temporary), weights, request, images)
    except OSError as error:
        raise cannot_be_written(target, error) from error
    return differences


def onnx_bytes(weights: VitWeights, request: ExportRequest) -> bytes:
    """The model file's content: the same bytes for the same arguments, with the card inside.

    Raises:
        UsageError: the request does not fit the backbone.
    """
    check_request(request, weights.spec)
    model = onnx.helper.make_model(
        vit_graph(weights, request),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edge-uad",
        producer_version=str(GRAPH_VERSION),
    )
    return with_card(model, make_card(request, weights.spec))


def with_card(model: onnx.ModelProto, card: ModelCard) -> bytes:
    """The checked model, serialised, with this card in its metadata in place of any other."""
    onnx.helper.set_model_props(model, {CARD_KEY: card_to_json(card)})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write_certificate(model: Path, card: ModelCard, certificate: ParityCertificate, target: Path) -> None:
    """The same model with this certificate in its card, in place of an earlier one.

    An ONNX file carries its card, so that it becomes another file with another ``model_id``; an engine's card lies
    beside it, and the engine stays as it is.

    Args:
        model: the file that was certified.
        card: its card.
        certificate: what was found.
        target: where the certified file appears, whole or not at all; for an engine the engine itself.

    Raises:
        ModelError: the file cannot be read or written.
    """
    certified = replace(card, certificate=certificate)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if model.suffix == ".engine":
            with replacing(target.with_suffix(".json")) as temporary:
                temporary.write_text(card_to_json(certified), encoding="utf-8")
            return
        content = with_card(onnx.load(model), certified)
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise cannot_be_written(target, error) from error


def cannot_be_written(target: Path, error: OSError) -> ModelError:
    """For a model file that could not be written."""
    return ModelError(f"model {target} cannot be written: {error.strerror}; name another place with --out")
