"""Does the exported file compute what the method states? Every export is checked before its file appears."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edge_uad.errors import ModelError
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.interfaces import Backbone
from edge_uad.records import Embedding, Float32, Geometry, ModelCard
from export.architecture import VitWeights
from export.reference import features
from export.request import ExportRequest

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest absolute difference allowed; tokens have unit norm, attention sums to at most 1."""
_RANDOM_SEED = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest absolute differences between two runs of one image."""

    image: str
    tokens: float
    attention: float

    @property
    def largest(self) -> float:
        """Of both outputs; NaN where either holds one."""
        return float(np.maximum(self.tokens, self.attention))


def parity_pixels(card: ModelCard, parity_image: Path | None) -> dict[str, Float32]:
    """A random and a real image, float32 (3, H, W), ready for the model.

    Args:
        card: of the model.
        parity_image: the real image; None for the packaged one.

    Raises:
        ModelError: the real image cannot be read.
    """
    random = np.random.default_rng(_RANDOM_SEED).standard_normal((3, *card.input_hw), dtype=np.float32)
    return {"random": random, "real": _real_pixels(parity_image, card)}


def require_parity(
    backbone: Backbone, weights: VitWeights, request: ExportRequest, images: Mapping[str, Float32]
) -> list[Difference]:
    """Compare an exported file with the reference computation of :mod:`export.reference`.

    Args:
        backbone: the exported file, opened.
        weights: that it was made from.
        request: that it was made for.
        images: float32 (3, H, W) by name.

    Returns:
        The differences, image by image.

    Raises:
        ModelError: a difference lies above the precision's tolerance, or is not a number.
    """
    precision = backbone.card.precision
    tolerance = TOLERANCE[precision]
    differences = []
    for image, pixels in images.items():
        tokens, attention = features(weights, request, pixels)
        reference = Embedding(tokens=tokens, attention=attention, grid_hw=backbone.card.grid_hw)
        differences.append(difference_between(image, backbone.embed(pixels[None])[0], reference))
    for difference in differences:
        if not difference.largest <= tolerance:
            raise ModelError(
                f"the exported model differs from the reference by {difference.largest:.2g} on the {difference.image} "
                f"image, {tolerance:.0e} is allowed for {precision}; no file was written: try --precision fp32, "
                "or report it with the versions of onnx and onnxruntime"
            )
    return differences


def difference_between(image: str, ours: Embedding, theirs: Embedding) -> Difference:
    """The difference of two embeddings of one image."""
    return Difference(
        image,
        tokens=float(np.abs(ours.tokens - theirs.tokens).max()),
        attention=float(np.abs(ours.attention - theirs.attention).max()),
    )


def _real_pixels(parity_image: Path | None, card: ModelCard) -> Float32:
    preprocessor = Preprocessor(
        geometry=Geometry.STRETCH, roi=None, input_hw=card.input_hw, mean=card.mean, std=card.std
    )
    with as_file(files("export") / "parity_image.jpg") as packaged:
        path = parity_image or packaged
        try:
            with Image.open(path) as image:
                return preprocessor.pixels(np.asarray(image.convert("RGB")))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ModelError(f"the parity image {path} cannot be read: {error}; name another one") from error
