"""An exported backbone, run by OpenVINO on the CPU: the very file that ONNX Runtime takes, in fp32, bf16 or int8."""

import hashlib
import importlib
import math
import queue
from pathlib import Path
from typing import Any

import numpy as np

from edge_uad.errors import MissingExtraError, ModelError
from edge_uad.inference.backbones.card import CARD_KEY, card_from_json
from edge_uad.inference.backbones.files import (
    INPUT_NAME,
    OUTPUT_NAMES,
    OnnxFileBackbone,
    cannot_be_loaded,
    check_shapes,
    not_from_export,
    read_model_file,
)
from edge_uad.inference.backbones.processor import cpu_features
from edge_uad.records import Float32, InferencePrecision, LowerPrecision, ModelCard

DEVICE = "CPU"
ACTIVATIONS_PER_SCALE = (384, 256, 192, 128, 64, 32)
"""So many activations of a token share one scale in int8, found anew for every token: the first that divides the widths
of all layers. Fewer are more exact and slower: at 64 instead of 384 an inference takes a fifth longer, for scores that
are a third nearer to fp32's."""
_INT8_MOST = 127


class OpenVinoBackbone(OnnxFileBackbone):
    """One compiled model; one image at a time unless ``batched``.

    In fp32 an embedding differs from ONNX Runtime's in the last bits only, so that a bank built with one serves the
    other. OpenVINO would take bf16 by itself where the CPU has it; here it takes what is asked for. In int8 the
    products with weights are of whole numbers, and the rest is bf16 where the processor has that, else fp32.

    Args:
        path: the model file, ``.onnx``, as errors name it.
        opened: what reads it, where it is open already; None for the path itself.
        threads: for the work inside one inference; 0 for one per core.
        batched: several images in one run; see ``OnnxFileBackbone``.
        precision: of the arithmetic.
        at_once: how many threads may use it at a time without waiting for each other.

    Raises:
        MissingExtraError: without the [openvino] extra.
        ModelError: the file is not there, not a model of edge-uad, or no fp32 one and to be run in a lower precision.
    """

    def __init__(
        self,
        path: Path,
        *,
        opened: Path | None = None,
        threads: int = 0,
        batched: bool = False,
        precision: InferencePrecision = "fp32",
        at_once: int = 1,
    ) -> None:
        openvino = import_openvino()
        content = read_model_file(path, opened)
        core = openvino.Core()
        try:
            model = core.read_model(content)
        except RuntimeError as error:  # all that OpenVINO raises
            raise cannot_be_loaded(path) from error
        try:
            card = _card_of(model, hashlib.sha256(content).hexdigest())
            _check_signature(model, card)
        except (ModelError, UnicodeDecodeError) as error:
            raise not_from_export(path, error) from error
        if precision != "fp32" and card.precision != "fp32":
            raise ModelError(f"model {path} is {card.precision} itself; only an fp32 one can be run in {precision}")
        if not batched:
            model.reshape({INPUT_NAME: [1, 3, *card.input_hw]})
        options = _options(threads, precision, at_once)
        if precision == "int8":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _activations_per_scale(_round_weights(model))
        super().__init__(card, batched=batched)
        # a request holds the state of one inference
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            compiled = core.compile_model(model, DEVICE, options)
            for _ in range(at_once):
                self._requests.put(compiled.create_infer_request())
        except RuntimeError as error:
            raise ModelError(
                f"model {path} cannot be run in {precision} by OpenVINO here; use --provider cpu and --precision fp32"
            ) from error

    def _run(self, images: Float32) -> tuple[Float32, Float32]:
        request = self._requests.get()
        try:
            request.infer({INPUT_NAME: np.ascontiguousarray(images)}, share_inputs=True)
            # copies: the request's own tensors are written again by the next inference
            tokens, attention = (np.array(request.get_tensor(name).data) for name in OUTPUT_NAMES)
        finally:
            self._requests.put(request)
        return tokens, attention


def features_needed(precision: LowerPrecision) -> tuple[str, ...]:
    """What a precision uses of this processor, so that another one gives the same verdicts only if it has it, too.

    Returns:
        Empty where the processor has nothing for it.
    """
    found = cpu_features()
    if precision == "bf16":
        return ("bf16",) if "bf16" in found else ()
    if "int8_dot" not in found:
        return ()
    return ("int8_dot", "bf16") if "bf16" in found else ("int8_dot",)


def _options(threads: int, precision: InferencePrecision, at_once: int) -> dict[str, object]:
    lowered = precision != "fp32" and "bf16" in cpu_features()
    options: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": at_once,
        # else the threads of every model and every process keep to the same first cores
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if lowered else "f32",
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads * at_once
    return options


def _activations_per_scale(width: int) -> int:
    """How many activations share a scale; 0, by which OpenVINO leaves activations as they are, where no number fits."""
    return next((size for size in ACTIVATIONS_PER_SCALE if width % size == 0), 0)


def _round_weights(model: Any) -> int:
    """Replace the weights of every linear layer by whole numbers of 8 bits, with one scale for each output channel.

    The activations are scaled by OpenVINO, token by token: nothing is calibrated, and no picture decides on a range.

    Returns:
        The greatest number that divides the widths of what these layers read.
    """
    width = 0
    operators = importlib.import_module("openvino.opset13")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = node.input_value(1).get_node()
        if weights.get_type_name() != "Constant" or weights.data.ndim != 2:
            continue  # a product of two activations
        turned = node.get_attributes()
        if turned["transpose_a"]:
            continue
        whole, scale = rounded(weights.data if turned["transpose_b"] else weights.data.T)
        width = math.gcd(width, whole.shape[1])
        rows = operators.multiply(operators.convert(operators.constant(whole), "f32"), operators.constant(scale))
        product = operators.matmul(node.input_value(0), rows, False, True)
        product.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(product.output(0))
    model.validate_nodes_and_infer_types()
    return width


def rounded(weights: Float32) -> tuple[np.ndarray, Float32]:
    """Weights as int8 and the scale of each row: row = whole · scale, to half a scale.

    Args:
        weights: (outputs, inputs).

    Returns:
        int8 (outputs, inputs), and float32 (outputs, 1), above 0.
    """
    largest = np.abs(weights).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest / _INT8_MOST, 1).astype(np.float32)
    whole = np.clip(np.rint(weights / scale), -_INT8_MOST, _INT8_MOST).astype(np.int8)
    return np.ascontiguousarray(whole), scale


def _card_of(model: Any, model_id: str) -> ModelCard:
    key = ["framework", CARD_KEY]
    if not model.has_rt_info(key):
        raise ModelError("it carries no card")
    return card_from_json(model.get_rt_info(key).astype(str), model_id)


def _check_signature(model: Any, card: ModelCard) -> None:
    found = {
        port.any_name: (
            port.element_type.to_string(),
            ["batch" if side.is_dynamic else side.get_length() for side in port.partial_shape],
        )
        for port in (*model.inputs, *model.outputs)
    }
    check_shapes(found, card, float_type="f32")


def openvino_is_installed() -> bool:
    """Whether the [openvino] extra is there, and can be imported."""
    try:
        import_openvino()
    except MissingExtraError:
        return False
    return True


def import_openvino() -> Any:
    """The package.

    Raises:
        MissingExtraError: without the [openvino] extra.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingExtraError("--provider openvino", "openvino") from error
