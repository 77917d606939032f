"""Small backbones with random weights, exported by the very code that exports the real ones."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from export.vit import VisionTransformer

TINY_PATCH_PX = 16
TINY_DEPTH = 3


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
    from export.request import ExportRequest  # noqa: PLC0415  # torch is loaded only where it is needed
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
    export_onnx(random_vit(seed=seed), request, path)
    return path


def random_vit(
    *, seed: int = 0, depth: int = TINY_DEPTH, pos_grid: int = 4, layer_scale: bool = False, registers: int = 0
) -> "VisionTransformer":
    """A ViT-Tiny with every tensor drawn at random, the norms and factors about 1."""
    import torch  # noqa: PLC0415  # as above

    from export.vit import VisionTransformer, VitSpec  # noqa: PLC0415  # as above

    spec = VitSpec(
        dim=192,
        heads=3,
        depth=depth,
        patch_px=TINY_PATCH_PX,
        pos_grid=pos_grid,
        layer_scale=layer_scale,
        registers=registers,
    )
    vit = VisionTransformer(spec)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in vit.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        about_one = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma"))
        parameter.data = 1 + 0.1 * noise if about_one else 0.05 * noise
    return vit.eval().requires_grad_(False)
