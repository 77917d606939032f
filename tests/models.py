"""Small backbones with random weights, exported by the very code that exports the real ones; no torch needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from edge_uad.records import Float32
    from export.architecture import VitSpec, VitWeights

TINY_PATCH_PX = 16
TINY_DEPTH = 3
ABOUT_ONE = ("norm1.weight", "norm2.weight", "norm.weight", "gamma")


def export_tiny_model(
    path: Path,
    *,
    seed: int = 0,
    input_px: int = 64,
    layers: tuple[int, ...] = (0, 1),
    attention_layer: int = 1,
    precision: Literal["fp32", "fp16"] = "fp32",
) -> Path:
    """A three-block ViT-Tiny of seeded random weights as an ONNX file, the card inside."""
    from export.request import ExportRequest  # noqa: PLC0415  # what needs no model need not load onnx
    from export.to_onnx import export_onnx  # noqa: PLC0415  # as above

    request = ExportRequest(
        backbone=f"tiny_seed{seed}",
        input_hw=(input_px, input_px),
        layers=layers,
        attention_layer=attention_layer,
        licence="Apache-2.0",
        weights_sha256="0" * 64,
        precision=precision,
    )
    export_onnx(random_weights(seed=seed), request, path)
    return path


def random_weights(
    *,
    seed: int = 0,
    depth: int = TINY_DEPTH,
    pos_grid: int = 4,
    layer_scale: bool = False,
    registers: int = 0,
    gated: bool = False,
) -> "VitWeights":
    """A ViT-Tiny with every tensor drawn at random, the norms and factors about 1; DINOv3's kind if pos_grid is 0."""
    from export.architecture import VitSpec  # noqa: PLC0415  # as above

    spec = VitSpec(
        dim=192,
        heads=3,
        depth=depth,
        patch_px=TINY_PATCH_PX,
        pos_grid=pos_grid,
        layer_scale=layer_scale,
        registers=registers,
        gated=gated,
    )
    return drawn_weights(spec, seed=seed)


def drawn_weights(spec: "VitSpec", *, seed: int = 0) -> "VitWeights":
    """Weights of any architecture, every tensor drawn at random, the norms and factors about 1, periods as they are.

    Periods are rounded to bfloat16, as in the published files, so that nothing can take computed ones for them.
    """
    from export.architecture import PERIODS, fit, tensor_shapes  # noqa: PLC0415  # as above
    from export.position import rotation_periods  # noqa: PLC0415  # as above

    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in tensor_shapes(spec).items():
        noise = rng.standard_normal(shape, dtype=np.float32)
        state[name] = 1 + np.float32(0.1) * noise if name.endswith(ABOUT_ONE) else np.float32(0.05) * noise
    if spec.rotary:
        state[PERIODS] = rounded_to_bfloat16(rotation_periods(spec.head_dim))
    return fit(spec, state)


def rounded_to_bfloat16(array: "Float32") -> "Float32":
    """The same numbers with 8 bits of mantissa, cut off."""
    return (array.view(np.uint32) & 0xFFFF0000).view(np.float32)
