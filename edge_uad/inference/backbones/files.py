"""What every runtime of an ONNX file of edge-uad shares: what is asked of the file, and how images are embedded."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge_uad.errors import ModelError
from edge_uad.inference.backbones.card import check_pixels
from edge_uad.records import Embedding, Float32, ModelCard

INPUT_NAME = "pixels"
OUTPUT_NAMES = ("tokens", "attention")

_MAX_MODEL_BYTES = 2**31 - 1
"""protobuf holds no more in one file."""
_DESCRIPTORS = Path("/proc/self/fd")


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
        """What the model file says of itself."""
        return self._card

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch. Each result depends on its own image alone, to the last bit unless ``batched``.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W as the card says.

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
    return ModelError(
        f"model {path} cannot be loaded: it is damaged, split into several files, or not ONNX; "
        "run edge-uad export again"
    )


def not_from_export(path: Path, error: Exception) -> ModelError:
    """For a file that the runtime would take, but that is none of ours."""
    return ModelError(f"model {path} is not from edge-uad export: {error}; export it again")


def read_model_file(path: Path) -> bytes:
    """The whole file at once, so that what is hashed is what is run.

    Raises:
        ModelError: it is not there, cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > _MAX_MODEL_BYTES:
            raise _too_large(path)
        return path.read_bytes()
    except OSError as error:
        raise _cannot_be_read(path, error) from error


def _cannot_be_read(path: Path, error: OSError) -> ModelError:
    return ModelError(f"model {path} cannot be read: {error.strerror}; name a file made by edge-uad export")


def _too_large(path: Path) -> ModelError:
    return ModelError(f"model {path} is larger than an ONNX file can be; name a file made by edge-uad export")


@contextmanager
def opened_model_file(path: Path) -> Iterator[tuple[str, Path]]:
    """SHA-256 of a model file, and a path that reads the very file hashed, even where ``path`` is replaced meanwhile.

    For a runtime that reads the file itself: handed its bytes, ONNX Runtime keeps them beside the weights made of
    them for as long as it runs.

    Raises:
        ModelError: it is not there, cannot be read, is too large, or was written to while it was open.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _cannot_be_read(path, error) from error
    with file:
        before = os.fstat(file.fileno())
        if before.st_size > _MAX_MODEL_BYTES:
            raise _too_large(path)
        try:
            model_id = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _cannot_be_read(path, error) from error
        yield model_id, _DESCRIPTORS / str(file.fileno())
        after = os.fstat(file.fileno())
        # the time of writing, not of change: to be replaced is a change, and harms nothing
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise ModelError(f"model {path} was written to while it was read; try again when the copy is done")


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
