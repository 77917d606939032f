"""Pixels → Embedding: the frozen ViT, as a file of ``edge-uad export``."""

from pathlib import Path

from edge_uad.errors import ModelError
from edge_uad.interfaces import Backbone
from edge_uad.records import InferencePrecision, Provider

CPU_PROVIDERS: frozenset[Provider] = frozenset({"cpu", "openvino"})


def open_backbone(
    path: Path,
    *,
    opened: Path | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    batched: bool = False,
    precision: InferencePrecision = "fp32",
    at_once: int = 1,
) -> Backbone:
    """Open a model file by its kind: ``.onnx``, or ``.engine`` for a TensorRT engine.

    Args:
        path: the model file, whose suffix names its kind.
        opened: what reads it, where it is open already, as ``/proc/self/fd/N``; None for the path itself.
        provider: what runs an ONNX file: cpu, cuda, tensorrt or openvino. An engine runs on its own accelerator.
        threads: for the work inside one inference, on the CPU; 0 for one per core.
        batched: run several images of an ONNX file at once.
        precision: of an ONNX file's arithmetic on the CPU. OpenVINO runs every one below fp32.
        at_once: how many threads use it at a time.

    Raises:
        ModelError: not a model of edge-uad, or one that is no fp32 model, where a lower precision is asked for.
        MissingExtraError: a TensorRT engine without the [tensorrt] extra, or openvino without its own.
        ProviderError: the accelerator asked for is not active.
    """
    if path.suffix == ".engine":
        from edge_uad.inference.backbones.tensorrt import TensorRtBackbone  # noqa: PLC0415  # only engines need it

        return TensorRtBackbone(path, opened=opened)
    if path.suffix == ".onnx" and (provider == "openvino" or precision != "fp32"):
        from edge_uad.inference.backbones.openvino import OpenVinoBackbone  # noqa: PLC0415  # an optional extra

        return OpenVinoBackbone(
            path, opened=opened, threads=threads, batched=batched, precision=precision, at_once=at_once
        )
    if path.suffix == ".onnx":
        from edge_uad.inference.backbones.onnx import OnnxBackbone  # noqa: PLC0415  # ONNX Runtime takes a while to load

        return OnnxBackbone(path, opened=opened, provider=provider, threads=threads, batched=batched)
    raise ModelError(f"model {path} ends neither in .onnx nor in .engine; name a file made by edge-uad export")
