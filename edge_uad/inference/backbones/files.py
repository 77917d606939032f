"""What every runtime of an ONNX file of edge-uad shares: how the file is read and checked, how images are embedded."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_uad.errors import ModelError
from edge_uad.files import open_regular
from edge_uad.inference.backbones.card import FormerModelError, check_pixels
from edge_uad.inference.backbones.external import has_external_data
from edge_uad.records import Embedding, Float32, ModelCard

INPUT_NAME = "pixels"
OUTPUT_NAMES = ("tokens", "attention")

_MAX_MODEL_BYTES = 2**31 - 1
"""protobuf holds no more in one file."""


class OnnxFileBackbone(ABC):
    """A card and a batch that is run as one or image by image.

    Args:
        card: of the file.
        batched: several images in one run. The last bits of a matrix product depend on how many rows it has, so an
            embedding then agrees with that of the image alone to about 1e-6 only.
    """

    def __init__(self, card: ModelCard, *, batched: bool) -> None:
        self._card = card
        self._batched = batched

    @property
    def card(self) -> ModelCard:
        """The model card, from the file."""
        return self._card

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch. Each result depends on its own image alone, to the last bit unless ``batched``.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W of the card.

        Raises:
            ValueError: pixels of another shape or type; the caller's mistake.
        """
        check_pixels(pixels, self._card)
        if not len(pixels):
            return []
        runs = [pixels] if self._batched else [image[None] for image in pixels]
        return [
            Embedding(tokens=tokens, attention=attention, grid_hw=self._card.grid_hw)
            for images in runs
            for tokens, attention in zip(*self._run(images), strict=True)
        ]

    @abstractmethod
    def _run(self, images: Float32) -> tuple[Float32, Float32]:
        """Tokens (B, N, D) and attention (B, N) of images (B, 3, H, W), in arrays that no later run writes to."""


def cannot_be_loaded(path: Path) -> ModelError:
    """For a file that the runtime refuses."""
    return ModelError(f"model {path} cannot be loaded: it is damaged, or not ONNX; run edge-uad export again")


def not_from_export(path: Path, error: Exception) -> ModelError:
    """For a file that the runtime would take, but that is none of ours, or one of ours that is no longer run."""
    if isinstance(error, FormerModelError):
        return ModelError(f"model {path} {error}")
    return ModelError(f"model {path} is not from edge-uad export: {error}; export it again")


def read_model_file(path: Path, opened: Path | None = None) -> bytes:
    """The whole file, read once through one descriptor: what is hashed is what is run, whatever is done to the file.

    Args:
        path: the model file, as errors name it.
        opened: what reads it, where it is open already; None for the path itself.

    Raises:
        ModelError: it is not there, cannot be read, is too large, damaged, was written to while it was read, or keeps
            weights in other files.
    """
    try:
        with open_regular(opened or path) as file:
            before = os.fstat(file.fileno())
            content = file.read(_MAX_MODEL_BYTES + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise ModelError(
            f"model {path} cannot be read: {error.strerror}; name a file made by edge-uad export"
        ) from error
    if len(content) > _MAX_MODEL_BYTES:
        raise ModelError(f"model {path} is larger than an ONNX file can be; name a file made by edge-uad export")
    # the time of writing, not of change: to be replaced is a change, and harms nothing
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ModelError(f"model {path} was written to while it was read; try again when the copy is done")
    _refuse_external_data(memoryview(content), path)
    return content


def _refuse_external_data(content: memoryview, path: Path) -> None:
    try:
        external = has_external_data(content)
    except ValueError as error:
        raise cannot_be_loaded(path) from error
    if external:
        raise ModelError(
            f"model {path} keeps weights in other files, which its id does not cover; run edge-uad export again"
        )


def check_shapes(
    found: Mapping[str, tuple[str, Sequence[int | str | None]]], card: ModelCard, *, float_type: str
) -> None:
    """Inputs and outputs are those that the card promises, for any batch.

    Args:
        found: by name, the runtime's name of the type, and the shape; a side that is not fixed is no number.
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
