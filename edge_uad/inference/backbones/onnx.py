"""An exported backbone, run by ONNX Runtime."""

import hashlib
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edge_uad.errors import ModelError, ProviderError, UsageError
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
from edge_uad.inference.cpu_sessions import cpu_session_options
from edge_uad.records import Float32, ModelCard

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    # what TensorRT cannot take stays on the GPU
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
OTHER_RUNTIME = "openvino"
"""The provider that is no provider of ONNX Runtime."""
_LOG_FATAL_ONLY = 4
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    UnicodeDecodeError,
)


class OnnxBackbone(OnnxFileBackbone):
    """One session over one file; its card is in the file's metadata.

    Args:
        path: the model file, as errors name it.
        opened: what reads it, where it is open already; None for the path itself.
        provider: cpu, cuda or tensorrt; the requested one runs, or there is an error.
        threads: for the work inside one inference; 0 for one per core.
        batched: several images in one run; see ``OnnxFileBackbone``.

    Raises:
        ModelError: the file is not there, or not a model of edge-uad.
        ProviderError: the provider is unknown or not active.
    """

    def __init__(
        self,
        path: Path,
        *,
        opened: Path | None = None,
        provider: str = "cpu",
        threads: int = 0,
        batched: bool = False,
    ) -> None:
        content = read_model_file(path, opened)
        try:
            self._session = _open_session(content, _wanted_providers(provider), threads)
        except _LOAD_ERRORS as error:
            raise cannot_be_loaded(path) from error
        _require_active(self._session, provider)
        try:
            card = _card_of(self._session, hashlib.sha256(content).hexdigest())
            _check_signature(self._session, card)
        except (ModelError, UnicodeDecodeError) as error:
            raise not_from_export(path, error) from error
        super().__init__(card, batched=batched)

    def _run(self, images: Float32) -> tuple[Float32, Float32]:
        tokens, attention = self._session.run(OUTPUT_NAMES, {INPUT_NAME: images})
        return tokens, attention


def _wanted_providers(provider: str) -> list[str]:
    wanted = _PROVIDERS.get(provider)
    if wanted is None:
        raise UsageError(f"the provider {provider!r} is unknown; name one of {', '.join((*_PROVIDERS, OTHER_RUNTIME))}")
    if wanted[0] not in ort.get_available_providers():
        raise ProviderError(
            f"this ONNX Runtime has no {wanted[0]}; replace it by that of the [gpu] extra: "
            "pip uninstall onnxruntime, then pip install 'edge-uad[gpu]'"
        )
    return list(wanted)


def session_options(threads: int) -> ort.SessionOptions:
    """How a backbone is run, whatever the provider; ``threads`` of the CPU, 0 for one per core."""
    options = cpu_session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _LOG_FATAL_ONLY  # what goes wrong is raised
    # python -m benchmarks.sessions: this, the arena, the memory pattern, prepacking and bound outputs change nothing
    # that stands out of the noise, so that only what serves the verdicts is set
    options.use_deterministic_compute = True
    return options


def _open_session(model: bytes, providers: list[str], threads: int) -> Any:
    session = ort.InferenceSession(model, session_options(threads), providers=providers)
    session.disable_fallback()
    # its fallback would need them; else they lie beside the weights made of them for as long as the session does
    session._model_bytes = None  # noqa: SLF001  # there is no public way to let them go
    return session


def _require_active(session: Any, provider: str) -> None:
    wanted, active = _PROVIDERS[provider][0], session.get_providers()
    if wanted not in active:
        raise ProviderError(
            f"{wanted} was requested but {', '.join(active)} is active; check the GPU's driver and the CUDA libraries "
            "that this onnxruntime-gpu needs, or use --provider cpu"
        )


def _card_of(session: Any, model_id: str) -> ModelCard:
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelError("it carries no card")
    return card_from_json(text, model_id)


def _check_signature(session: Any, card: ModelCard) -> None:
    nodes = (*session.get_inputs(), *session.get_outputs())
    check_shapes({node.name: (node.type, node.shape) for node in nodes}, card, float_type="tensor(float)")
