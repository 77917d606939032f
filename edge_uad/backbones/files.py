"""What every runtime asks of an ONNX file of edge-uad before it runs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_uad.errors import ModelError
from edge_uad.records import ModelCard

INPUT_NAME = "pixels"
OUTPUT_NAMES = ("tokens", "attention")

_MAX_MODEL_BYTES = 2**31 - 1
"""protobuf holds no more in one file."""


def read_model_file(path: Path) -> bytes:
    """The whole file at once, so that what is hashed is what is run.

    Raises:
        ModelError: it is not there, cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > _MAX_MODEL_BYTES:
            raise ModelError(f"model {path} is larger than an ONNX file can be; name a file made by edge-uad export")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"model {path} cannot be read: {error.strerror}; name a file made by edge-uad export"
        ) from error


def check_shapes(
    found: Mapping[str, tuple[str, Sequence[int | str | None]]], card: ModelCard, *, float_type: str
) -> None:
    """Inputs and outputs are those that the card promises, for any batch.

    Args:
        found: by name, the type as the runtime says it, and the shape; a side that is not fixed is no number.
        card: of the model.
        float_type: what the runtime calls float32.

    Raises:
        ModelError: they are not.
    """
    patches = card.grid_hw[0] * card.grid_hw[1]
    expected = {INPUT_NAME: [3, *card.input_hw], "tokens": [patches, card.dim], "attention": [patches]}
    if set(found) != set(expected):
        raise ModelError(f"its inputs and outputs are {', '.join(found)} instead of {', '.join(expected)}")
    for name, sides in expected.items():
        kind, shape = found[name]
        if kind != float_type or list(shape[1:]) != sides or isinstance(shape[0], int):
            raise ModelError(
                f"its {name} is {kind} {list(shape)}, float [batch, {', '.join(map(str, sides))}] expected"
            )
