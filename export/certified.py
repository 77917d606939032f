"""A parity certificate, put into a model file's card."""

from dataclasses import replace
from pathlib import Path

import onnx

from edge_uad.errors import ModelError
from edge_uad.files import replacing
from edge_uad.inference.backbones.card import CARD_KEY, card_to_json
from edge_uad.records import ModelCard, ParityCertificate


def write_certificate(model: Path, card: ModelCard, certificate: ParityCertificate, target: Path) -> None:
    """The same model with this certificate in its card; an earlier one is replaced.

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
    certified = card_to_json(replace(card, certificate=certificate))
    try:
        if model.suffix == ".engine":
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target.with_suffix(".json")) as beside:
                beside.write_text(certified, encoding="utf-8")
            return
        proto = onnx.load(model)
        onnx.helper.set_model_props(proto, {CARD_KEY: certified})
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            beside.write_bytes(proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(
            f"model {target} cannot be written: {error.strerror}; name another place with --out"
        ) from error
