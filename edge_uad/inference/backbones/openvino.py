"""An exported backbone, run by OpenVINO on the CPU: the very file that ONNX Runtime takes."""

import hashlib
import importlib
import threading
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
from edge_uad.records import Float32, ModelCard

DEVICE = "CPU"


class OpenVinoBackbone(OnnxFileBackbone):
    """One compiled model, one inference at a time; one image at a time unless ``batched``.

    Its arithmetic is fp32 wherever the graph says so: OpenVINO would take bf16 by itself where the CPU has it. An
    embedding differs from ONNX Runtime's in the last bits only, so that a bank built with one serves the other.

    Args:
        path: the model file, ``.onnx``, as errors name it.
        opened: what reads it, where it is open already; None for the path itself.
        threads: for the work inside one inference; 0 for one per core.
        batched: several images in one run; see ``OnnxFileBackbone``.

    Raises:
        MissingExtraError: without the [openvino] extra.
        ModelError: the file is not there, or not a model of edge-uad.
    """

    def __init__(self, path: Path, *, opened: Path | None = None, threads: int = 0, batched: bool = False) -> None:
        openvino = _import_openvino()
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
        if not batched:
            model.reshape({INPUT_NAME: [1, 3, *card.input_hw]})
        super().__init__(card, batched=batched)
        compiled = core.compile_model(model, DEVICE, _options(threads))
        self._request = compiled.create_infer_request()
        # a request holds the state of one inference
        self._lock = threading.Lock()

    def _run(self, images: Float32) -> tuple[Float32, Float32]:
        with self._lock:
            self._request.infer({INPUT_NAME: np.ascontiguousarray(images)}, share_inputs=True)
            # copies: the request's own tensors are written again by the next inference
            tokens, attention = (np.array(self._request.get_tensor(name).data) for name in OUTPUT_NAMES)
        return tokens, attention


def _options(threads: int) -> dict[str, object]:
    options: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    return options


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


def _import_openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingExtraError("--provider openvino", "openvino") from error
