"""An exported backbone, run by OpenVINO on the CPU: the very file that ONNX Runtime takes."""

import hashlib
import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edge_uad.backbones.card import CARD_KEY, card_from_json, check_pixels
from edge_uad.backbones.files import INPUT_NAME, OUTPUT_NAMES, check_shapes, read_model_file
from edge_uad.errors import MissingExtraError, ModelError
from edge_uad.records import Embedding, Float32, ModelCard

DEVICE = "CPU"


class OpenVinoBackbone:
    """One compiled model, one inference at a time; one image at a time unless ``batched``.

    Its arithmetic is fp32 wherever the graph says so: OpenVINO would take bf16 by itself where the CPU has it. An
    embedding differs from ONNX Runtime's in the last bits only, so that a bank built with one serves the other.

    Args:
        path: the model file, ``.onnx``.
        threads: for the work inside one inference; 0 for one per core.
        batched: several images in one run; see ``OnnxBackbone``.

    Raises:
        MissingExtraError: without the [openvino] extra.
        ModelError: the file is not there, or not a model of edge-uad.
    """

    def __init__(self, path: Path, *, threads: int = 0, batched: bool = False) -> None:
        openvino = _import_openvino()
        self._batched = batched
        content = read_model_file(path)
        core = openvino.Core()
        try:
            model = core.read_model(content)
        except RuntimeError as error:  # all that OpenVINO raises
            raise ModelError(
                f"model {path} cannot be loaded: it is damaged, split into several files, or not ONNX; "
                "run edge-uad export again"
            ) from error
        try:
            self._card = _card_of(model, hashlib.sha256(content).hexdigest())
            _check_signature(model, self._card)
        except (ModelError, UnicodeDecodeError) as error:
            raise ModelError(f"model {path} is not from edge-uad export: {error}; export it again") from error
        if not batched:
            model.reshape({INPUT_NAME: [1, 3, *self._card.input_hw]})
        compiled = core.compile_model(model, DEVICE, _options(threads))
        self._request = compiled.create_infer_request()
        # a request holds the state of one inference
        self._lock = threading.Lock()

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
        return [embedding for images in runs for embedding in self._embed_together(images)]

    def _embed_together(self, images: Float32) -> list[Embedding]:
        with self._lock:
            self._request.infer({INPUT_NAME: np.ascontiguousarray(images)}, share_inputs=True)
            # copies: the request's own tensors are written again by the next inference
            all_tokens, all_attention = (np.array(self._request.get_tensor(name).data) for name in OUTPUT_NAMES)
        return [
            Embedding(tokens=tokens, attention=attention, grid_hw=self._card.grid_hw)
            for tokens, attention in zip(all_tokens, all_attention, strict=True)
        ]


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
