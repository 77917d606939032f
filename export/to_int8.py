"""An ONNX file whose large matrix products run in int8; the rest of the graph stays float32."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from edge_uad.errors import FrameError, UsageError
from edge_uad.files import replacing
from edge_uad.inference.backbones.files import INPUT_NAME
from edge_uad.inference.backbones.onnx import OnnxBackbone
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Float32, Geometry, ModelCard
from edge_uad.sources.decode import read_image
from export.architecture import VitWeights
from export.parity import Difference, difference_between, parity_pixels
from export.request import ExportRequest
from export.to_onnx import cannot_be_written, export_onnx, with_card

CALIBRATION_IMAGES = 32
"""At most so many are read, spread over the folder: the ranges of a ViT's activations hardly depend on the part."""
FEWEST_CALIBRATION_IMAGES = 2
QUANTISED_OPERATORS = ("MatMul", "Gemm")


def export_int8(
    weights: VitWeights,
    request: ExportRequest,
    target: Path,
    *,
    good: Sequence[Path],
    parity_image: Path | None = None,
) -> list[Difference]:
    """Write the model file with int8 weights, one scale per channel, and int8 activations of calibrated range.

    Results of products, products of two activations, softmax, LayerNorm, GELU and the residuals stay float32. Weights
    take 7 of their 8 bits, so that CPUs without VNNI do not saturate and all CPUs give the same sums. The file carries
    no certificate yet: without one nothing but ``edge-uad certify`` runs it.

    Args:
        weights: of the backbone.
        request: what to make of it; its precision is fp32, that of what is quantised.
        target: where the file appears, whole or not at all.
        good: image files of good parts, for the ranges of the activations.
        parity_image: a real image to compare on; None for the packaged one.

    Returns:
        The differences between the file and the fp32 one, both run by ONNX Runtime, by image.

    Raises:
        UsageError: the request does not fit the backbone, or too few good parts can be read.
        ModelError: the file cannot be written.
    """
    files = spread(good, CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        plain, rough = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        export_onnx(weights, request, plain, parity_image=parity_image)
        reference = OnnxBackbone(plain)
        _quantise(plain, rough, _good_pixels(files, reference.card))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                temporary.write_bytes(with_card(onnx.load(rough), replace(reference.card, precision="int8")))
                lowered = OnnxBackbone(temporary)
                return [
                    difference_between(image, lowered.embed(pixels[None])[0], reference.embed(pixels[None])[0])
                    for image, pixels in parity_pixels(reference.card, parity_image).items()
                ]
        except OSError as error:
            raise cannot_be_written(target, error) from error


class _GoodParts(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no type information
    def __init__(self, pixels: Sequence[Float32]) -> None:
        self._left = iter(pixels)

    def get_next(self) -> dict[str, Float32] | None:
        """The next image, float32 (1, 3, H, W); None after the last."""
        pixels = next(self._left, None)
        return None if pixels is None else {INPUT_NAME: pixels[None]}


def spread(files: Sequence[Path], n: int) -> list[Path]:
    """At most ``n`` of them, from first to last."""
    places = np.linspace(0, len(files) - 1, min(len(files), n)).round().astype(int)
    return [files[place] for place in places]


def quantise_dynamically(plain: Path, target: Path, card: ModelCard) -> None:
    """The same products with activations scaled anew for every image: for comparison, no command makes it."""
    with _quiet_quantiser():
        quantize_dynamic(
            str(plain),
            str(target),
            op_types_to_quantize=list(QUANTISED_OPERATORS),
            nodes_to_quantize=_products_with_weights(plain),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    target.write_bytes(with_card(onnx.load(target), replace(card, precision="int8")))


def _good_pixels(files: Sequence[Path], card: ModelCard) -> list[Float32]:
    preprocessor = Preprocessor(
        geometry=Geometry.STRETCH, roi=None, input_hw=card.input_hw, mean=card.mean, std=card.std
    )
    pixels: list[Float32] = []
    for path in files:
        try:
            pixels.append(preprocessor.pixels(read_image(path)))
        except FrameError:
            continue  # build-bank names the unreadable ones; ranges do without
    if len(pixels) < FEWEST_CALIBRATION_IMAGES:
        raise UsageError(
            f"{len(pixels)} good parts of --calibrate can be read, at least {FEWEST_CALIBRATION_IMAGES} are needed; "
            "name another folder"
        )
    return pixels


def _quantise(plain: Path, rough: Path, pixels: Sequence[Float32]) -> None:
    with _quiet_quantiser():
        quantize_static(
            str(plain),
            str(rough),
            _GoodParts(pixels),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED_OPERATORS),
            nodes_to_quantize=_products_with_weights(plain),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # LayerScale and the queries' scale, multiplied into the weights, spread a product's channels too far for
            # one common range: what it gives stays float32
            extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": list(QUANTISED_OPERATORS)},
        )


def _products_with_weights(plain: Path) -> list[str]:
    """Names of the products whose right side is a constant: those of two activations stay float32."""
    graph = onnx.load(plain, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in QUANTISED_OPERATORS and node.input[1] in constants]


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Without the advice, given through the root logger, to prepare graphs that ours is not one of."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
