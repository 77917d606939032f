"""The ONNX graph, written without torch, computes what the torch transformer computes: every architecture."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the [export] extra is not installed")

import onnxruntime as ort  # noqa: E402  # after the skip

from edge_uad.records import Float32  # noqa: E402  # as above
from export.architecture import VitWeights  # noqa: E402  # as above
from export.fetch import spec_of  # noqa: E402  # as above
from export.reference import features  # noqa: E402  # as above
from export.request import ExportRequest  # noqa: E402  # as above
from export.to_onnx import onnx_bytes  # noqa: E402  # as above
from export.vit import requested_features  # noqa: E402  # as above
from export.weights import named_backbone, weights_table  # noqa: E402  # as above
from tests.models import drawn_weights, random_weights  # noqa: E402  # as above

TOLERANCE = 2e-5


def request_of(**settings: Any) -> ExportRequest:
    common = {"backbone": "drawn", "licence": "none", "weights_sha256": "0" * 64}
    return ExportRequest(**{**common, **settings})


def images(request: ExportRequest, n: int = 2) -> Float32:
    return np.random.default_rng(1).standard_normal((n, 3, *request.input_hw), dtype=np.float32)


def by_onnx_runtime(weights: VitWeights, request: ExportRequest, pixels: Float32) -> list[Float32]:
    session = ort.InferenceSession(onnx_bytes(weights, request), providers=["CPUExecutionProvider"])
    found: list[Float32] = session.run(["tokens", "attention"], {"pixels": pixels})
    return found


def by_torch(weights: VitWeights, request: ExportRequest, pixels: Float32) -> list[Float32]:
    module = requested_features(weights, request).with_precision(request.precision)
    with torch.inference_mode():
        return [output.numpy() for output in module(torch.from_numpy(pixels))]


def by_reference(weights: VitWeights, request: ExportRequest, pixels: Float32) -> list[Float32]:
    return [np.stack(outputs) for outputs in zip(*(features(weights, request, image) for image in pixels), strict=True)]


def assert_same(ours: list[Float32], theirs: list[Float32], tolerance: float = TOLERANCE) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == np.float32
        np.testing.assert_allclose(mine, other, atol=tolerance, rtol=0)


ARCHITECTURES = {(spec_of(row), row.layers, row.attention_layer): name for name, row in weights_table().items()}
"""One name of each: iBOT's transformers are DINO's."""


@pytest.mark.parametrize("name", ARCHITECTURES.values())
def test_every_architecture(name: str) -> None:
    """All twelve blocks, on a grid other than the stored one, with the layers that the table states."""
    row = named_backbone(name)
    weights = drawn_weights(spec_of(row))
    request = request_of(
        input_hw=(4 * row.patch_px, 5 * row.patch_px), layers=row.layers, attention_layer=row.attention_layer
    )
    pixels = images(request)
    expected = by_torch(weights, request, pixels)
    assert_same(by_onnx_runtime(weights, request, pixels), expected)
    assert_same(by_reference(weights, request, pixels), expected)


KINDS: list[dict[str, Any]] = [
    {},
    {"layer_scale": True},
    {"registers": 4},
    {"layer_scale": True, "registers": 4},
    {"layer_scale": True, "registers": 4, "pos_grid": 0},
    {"layer_scale": True, "registers": 4, "pos_grid": 0, "gated": True},
]
"""Of ViT-Tiny: as DINO, DINOv2 with and without registers and DINOv3 have it, and one that nobody has."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        {"layers": (0, 1), "attention_layer": 1},
        {"layers": (1,), "attention_layer": 0},
        {"layers": (0,), "attention_layer": 1},
        {"layers": (0,), "attention_layer": 2},
        {"layers": (0, 2), "attention_layer": 1, "join": "concat"},
        {"layers": (0, 2), "attention_layer": 1, "join": "levels"},
        {"layers": (1,), "attention_layer": 1, "join": "levels"},
        {"layers": (0, 2), "attention_layer": 2, "join": "levels", "neighbourhood": 3},
        {"layers": (2,), "attention_layer": 2, "join": "concat"},
        {"layers": (0, 2), "attention_layer": 2, "neighbourhood": 3},
        {"layers": (0, 1, 2), "attention_layer": 1, "join": "concat", "neighbourhood": 5},
        {"layers": (0, 1), "attention_layer": 1, "neighbourhood": 9},
    ],
)
@pytest.mark.parametrize("input_hw", [(64, 64), (96, 160)])
def test_every_setting(settings: dict[str, Any], input_hw: tuple[int, int], kind: dict[str, Any]) -> None:
    weights = random_weights(seed=3, **kind)
    request = request_of(input_hw=input_hw, **settings)
    pixels = images(request)
    expected = by_torch(weights, request, pixels)
    assert_same(by_onnx_runtime(weights, request, pixels), expected)
    assert_same(by_reference(weights, request, pixels), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": (0, 1), "attention_layer": 1},
        {"layers": (0,), "attention_layer": 2},
        {"layers": (0, 2), "attention_layer": 1, "join": "concat", "neighbourhood": 3},
        {"layers": (0, 2), "attention_layer": 1, "join": "levels"},
    ],
)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_half_precision(settings: dict[str, Any], kind: dict[str, Any]) -> None:
    weights = random_weights(seed=5, **kind)
    request = request_of(input_hw=(64, 64), precision="fp16", **settings)
    pixels = images(request)
    assert_same(by_onnx_runtime(weights, request, pixels), by_torch(weights, request, pixels), tolerance=2e-3)


@pytest.mark.parametrize("kind", KINDS[3:])
def test_the_same_weights_and_request_give_the_same_bytes(kind: dict[str, Any]) -> None:
    request = request_of(input_hw=(96, 64), layers=(0, 2), attention_layer=1, neighbourhood=3)
    first, again = (onnx_bytes(random_weights(**kind), request) for _ in range(2))
    assert first == again
