"""The model card as JSON: what an exporter writes into a model file and a backbone reads from it."""

import json
import math
from dataclasses import MISSING, asdict, fields
from typing import get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edge_uad.errors import ModelError
from edge_uad.inference.backbones.certificate import is_sound
from edge_uad.records import Float32, Join, ModelCard

CARD_KEY = "edge_uad_card"
"""Name of the ONNX metadata property that holds the card."""

JOINS = get_args(Join)

_STORED_FIELDS = frozenset(field.name for field in fields(ModelCard)) - {"model_id"}
_NEEDED_FIELDS = frozenset(field.name for field in fields(ModelCard) if field.default is MISSING) - {"model_id"}
"""The others came later: a file without them means their defaults."""
_ADAPTER = TypeAdapter(ModelCard)


class FormerModelError(ModelError):
    """A file that edge-uad export made once and that is no longer run; the text goes on after the file's name."""


def card_to_json(card: ModelCard) -> str:
    """One line of JSON, the same for equal cards; without ``model_id``, the hash of what it goes into.

    Without a certificate there is no such key: the files of before there were any keep their hash.
    """
    stored = asdict(card)
    del stored["model_id"]
    if card.certificate is None:
        del stored["certificate"]
    return json.dumps(stored, sort_keys=True, separators=(",", ":"))


def card_from_json(text: str | bytes, model_id: str) -> ModelCard:
    """Read a card, refusing whatever is missing, unknown, of another type or at odds with the rest.

    Args:
        text: what :func:`card_to_json` wrote.
        model_id: SHA-256 of the model file, in hexadecimal.

    Raises:
        ModelError: the card cannot be used; the text names the fault, not the file.
    """
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise ModelError("its card is not JSON") from error
    if not isinstance(stored, dict):
        raise ModelError(f"its card is a JSON {type(stored).__name__}, an object was expected")
    if stored.get("precision") == "int8":
        raise FormerModelError(
            "is an int8 file, which is no longer run: export it again with --precision fp32, and edge-uad build-bank "
            "certifies int8 itself where the processor has it"
        )
    _check_keys(set(stored))
    try:
        card = _ADAPTER.validate_json(json.dumps({**stored, "model_id": model_id}), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"its card's {key} is {first['input']!r}: {first['msg']}") from error
    _check_consistency(card)
    return card


def _check_keys(keys: set[str]) -> None:
    if missing := sorted(_NEEDED_FIELDS - keys):
        raise ModelError(f"its card lacks {', '.join(missing)}")
    if unknown := sorted(keys - _STORED_FIELDS):
        raise ModelError(f"its card has the unknown {', '.join(unknown)}")


def _check_consistency(card: ModelCard) -> None:
    sizes = (*card.input_hw, *card.grid_hw, card.patch_px, card.dim)
    if min(sizes) < 1:
        raise ModelError("its card has a size below 1")
    if card.input_hw != (card.grid_hw[0] * card.patch_px, card.grid_hw[1] * card.patch_px):
        raise ModelError(
            f"its card's input of {card.input_hw} px is not the grid of {card.grid_hw} patches of {card.patch_px} px"
        )
    if not all(map(math.isfinite, (*card.mean, *card.std))) or min(card.std) <= 0:
        raise ModelError("its card's mean or std is not finite, or a std is not above 0")
    if not card.layers or min(*card.layers, card.attention_layer, 0) < 0:
        raise ModelError("its card names no layer, or one below 0")
    if card.neighbourhood < 1 or card.neighbourhood % 2 == 0 or not 0 < card.top_ratio <= 1:
        raise ModelError("its card's neighbourhood is no odd number of patches, or its top ratio not above 0 to 1")
    if card.certificate is not None and not is_sound(card.certificate):
        raise ModelError("its card's certificate holds a value that cannot be")


def check_pixels(pixels: Float32, card: ModelCard) -> None:
    """The one shape check of a backbone's input.

    Raises:
        ValueError: pixels of another shape or type.
    """
    if pixels.dtype != np.float32 or pixels.ndim != 4 or pixels.shape[1:] != (3, *card.input_hw):
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}, float32 (B, 3, {card.input_hw[0]}, {card.input_hw[1]}) expected"
        )
