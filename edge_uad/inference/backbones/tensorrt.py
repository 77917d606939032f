"""An exported backbone as a TensorRT engine, run without torch.

Written against the documented APIs of TensorRT 10 and of cuda-python; no machine of ours has run it.
"""

import hashlib
import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edge_uad.errors import MissingExtraError, ModelError, ProviderError
from edge_uad.inference.backbones.card import card_from_json, check_pixels
from edge_uad.records import Embedding, Float32, ModelCard


class TensorRtBackbone:
    """One engine for one image at a time, with the card in a ``.json`` beside it.

    Its buffers on the GPU are made once and held as long as the process lives.

    Args:
        path: the engine file, as errors name it and beside which its card lies.
        opened: what reads the engine, where it is open already; None for the path itself.

    Raises:
        MissingExtraError: without the [tensorrt] extra.
        ModelError: engine or card are not there, or not from ``edge-uad export``.
        ProviderError: there is no GPU that can run it.
    """

    def __init__(self, path: Path, *, opened: Path | None = None) -> None:
        self._trt, self._cudart = _import_runtime()
        content, card_text = _read(opened or path), _read(path.with_suffix(".json"))
        try:
            self._card = card_from_json(card_text, hashlib.sha256(content).hexdigest())
        except ModelError as error:
            raise ModelError(f"{path.with_suffix('.json')} beside the engine: {error}; export it again") from error
        self._stream = self._cuda("cudaStreamCreate")
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(content)
        if engine is None:
            raise ModelError(
                f"engine {path} cannot be loaded: it is damaged, or was built for another GPU or TensorRT; "
                "run edge-uad export --target tensorrt on this machine"
            )
        self._context = engine.create_execution_context()
        self._tokens, self._attention, self._pixels = self._bind(engine, path)
        # a context holds the state of one inference
        self._lock = threading.Lock()

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch, image by image. Each result depends on its own image alone.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W of the card.

        Raises:
            ValueError: pixels of another shape or type; the caller's mistake.
            ProviderError: the GPU failed.
        """
        check_pixels(pixels, self._card)
        with self._lock:
            return [self._embed_one(np.ascontiguousarray(image)) for image in pixels]

    def _embed_one(self, image: Float32) -> Embedding:
        copy_in = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        copy_out = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        patches = self._card.grid_hw[0] * self._card.grid_hw[1]
        tokens = np.empty((patches, self._card.dim), np.float32)
        attention = np.empty(patches, np.float32)
        self._cuda("cudaMemcpyAsync", self._pixels, image.ctypes.data, image.nbytes, copy_in, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise ProviderError("TensorRT could not run the engine; check the GPU and its driver, then restart")
        for host, device in ((tokens, self._tokens), (attention, self._attention)):
            self._cuda("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, copy_out, self._stream)
        self._cuda("cudaStreamSynchronize", self._stream)
        return Embedding(tokens=tokens, attention=attention, grid_hw=self._card.grid_hw)

    def _bind(self, engine: Any, path: Path) -> list[int]:
        """Device buffers of tokens, attention and pixels, known by their shapes: builders choose the names."""
        patches = self._card.grid_hw[0] * self._card.grid_hw[1]
        wanted = [(1, patches, self._card.dim), (1, patches), (1, 3, *self._card.input_hw)]
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {tuple(engine.get_tensor_shape(name)): name for name in names}
        is_float = all(engine.get_tensor_dtype(name) == self._trt.float32 for name in names)
        if set(found) != set(wanted) or len(names) != len(wanted) or not is_float:
            raise ModelError(
                f"engine {path} takes and gives {sorted(found)}, float32 {wanted} was expected by the card beside it; "
                "export it again"
            )
        buffers = []
        for shape in wanted:
            address = self._cuda("cudaMalloc", int(np.prod(shape)) * np.dtype(np.float32).itemsize)
            self._context.set_tensor_address(found[shape], int(address))
            buffers.append(address)
        return buffers

    def _cuda(self, function: str, *arguments: Any) -> Any:
        """Call the CUDA runtime; its first result is the status.

        Raises:
            ProviderError: any other status than success.
        """
        status, *results = getattr(self._cudart, function)(*arguments)
        if status != self._cudart.cudaError_t.cudaSuccess:
            raise ProviderError(f"the GPU cannot be used ({function}: {status.name}); check it with nvidia-smi")
        return results[0] if results else None


def _import_runtime() -> tuple[Any, Any]:
    try:
        return importlib.import_module("tensorrt"), importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingExtraError("running a TensorRT engine", "tensorrt") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}; an engine and its .json come together from edge-uad export"
        ) from error
