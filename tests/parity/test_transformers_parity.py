"""Exported files compute what Hugging Face's transformers compute from the same files: an implementation not ours.

Its library is no dependency of this project; where it is installed beside torch, this runs.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the [export] extra is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", minversion="4.56", reason="transformers is not installed")

import onnxruntime as ort  # noqa: E402  # after the skip

from edge_uad.records import Float32  # noqa: E402  # as above
from export.architecture import VitSpec  # noqa: E402  # as above
from export.checkpoints import read_custom_weights, read_weights  # noqa: E402  # as above
from export.fetch import spec_of  # noqa: E402  # as above
from export.request import ExportRequest  # noqa: E402  # as above
from export.to_onnx import onnx_bytes  # noqa: E402  # as above
from export.weights import named_backbone  # noqa: E402  # as above
from tests.models import random_weights  # noqa: E402  # as above

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TOLERANCE = 5e-5
GRID_HW = (4, 6)
"""Neither square nor the stored one."""


def seeded(model: Any) -> Any:
    """The model with every parameter drawn anew: a fresh one has zeros and ones, which hide mistakes.

    Norms and factors are about 1, tokens before the first block so short that what is added to their variance counts.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            about_one = name.endswith("lambda1") or ("norm" in name and name.endswith("weight"))
            scale = 0.002 if name.startswith("embeddings.") else 0.05
            parameter.copy_(1 + 0.1 * noise if about_one else scale * noise)
    return model.eval()


def dinov3(spec: VitSpec, **settings: Any) -> Any:
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            hidden_size=spec.dim,
            intermediate_size=4 * spec.dim,
            num_attention_heads=spec.heads,
            num_hidden_layers=spec.depth,
            num_register_tokens=spec.registers,
            patch_size=spec.patch_px,
            use_gated_mlp=spec.gated,
            hidden_act="silu" if spec.gated else "gelu",
            attn_implementation="eager",
            **settings,
        )
    )


def dinov2(spec: VitSpec) -> Any:
    kind = {"num_register_tokens": spec.registers} if spec.registers else {}
    config, model = (
        (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel)
        if spec.registers
        else (transformers.Dinov2Config, transformers.Dinov2Model)
    )
    return model(
        config(
            hidden_size=spec.dim,
            num_attention_heads=spec.heads,
            num_hidden_layers=spec.depth,
            patch_size=spec.patch_px,
            image_size=spec.pos_grid * spec.patch_px,
            attn_implementation="eager",
            **kind,
        )
    )


def last_block(model: Any, pixels: Float32, *, prefix_tokens: int) -> list[Float32]:
    """Patch tokens of the last block, unit norm, before the final norm; CLS's attention in it, mean over heads."""
    entered: list[Any] = []
    norm = model.norm if hasattr(model, "norm") else model.layernorm
    norm.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.inference_mode():
        attention = model(torch.from_numpy(pixels), output_attentions=True).attentions[-1]
    tokens = torch.nn.functional.normalize(entered[0][:, prefix_tokens:], dim=-1)
    return [tokens.numpy(), attention[:, :, 0, prefix_tokens:].mean(dim=1).numpy()]


def compare(model: Any, spec: VitSpec, folder: Path, *, grid_hw: tuple[int, int], by_name: bool = False) -> None:
    """Save as people download it, read it, export it, run it."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    arch = {192: "vit_tiny", 384: "vit_small", 768: "vit_base"}[spec.dim]
    weights = read_weights(file, spec) if by_name else read_custom_weights(file, arch=arch, patch_px=spec.patch_px)
    assert weights.spec == spec
    request = ExportRequest(
        backbone="theirs",
        licence="none",
        weights_sha256="0" * 64,
        input_hw=(grid_hw[0] * spec.patch_px, grid_hw[1] * spec.patch_px),
        layers=(spec.depth - 1,),
        attention_layer=spec.depth - 1,
    )
    pixels = np.random.default_rng(1).standard_normal((2, 3, *request.input_hw), dtype=np.float32)
    session = ort.InferenceSession(onnx_bytes(weights, request), providers=["CPUExecutionProvider"])
    ours: list[Float32] = session.run(["tokens", "attention"], {"pixels": pixels})
    theirs = last_block(model, pixels, prefix_tokens=spec.prefix_tokens)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=TOLERANCE, rtol=0)
    assert ours[1].std() > 100 * TOLERANCE / ours[1].size, "attention that is the same everywhere would show nothing"


@pytest.mark.parametrize("name", ["dinov3_vits16", "dinov3_vits16plus", "dinov3_vitb16"])
def test_dinov3_by_name(name: str, tmp_path: Path) -> None:
    spec = spec_of(named_backbone(name))
    compare(seeded(dinov3(spec)), spec, tmp_path, grid_hw=GRID_HW, by_name=True)


@pytest.mark.parametrize("name", ["dinov2_vits14_reg", "dinov2_vitb14_reg"])
def test_dinov2_with_registers_by_name(name: str, tmp_path: Path) -> None:
    spec = spec_of(named_backbone(name))
    compare(seeded(dinov2(spec)), spec, tmp_path, grid_hw=GRID_HW, by_name=True)


def test_dinov2_on_the_stored_grid(tmp_path: Path) -> None:
    """On another one transformers interpolates without the publisher's offset."""
    spec = random_weights(layer_scale=True, pos_grid=5).spec
    compare(seeded(dinov2(spec)), spec, tmp_path, grid_hw=(5, 5))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("grid_hw", [(1, 1), (3, 8), (16, 16)])
def test_dinov3_of_any_grid(grid_hw: tuple[int, int], gated: bool, tmp_path: Path) -> None:
    spec = random_weights(layer_scale=True, registers=4, pos_grid=0, gated=gated).spec
    compare(seeded(dinov3(spec)), spec, tmp_path, grid_hw=grid_hw)


def test_a_bias_of_the_keys_is_read_where_there_is_one(tmp_path: Path) -> None:
    spec = random_weights(layer_scale=True, registers=4, pos_grid=0).spec
    compare(seeded(dinov3(spec, key_bias=True)), spec, tmp_path, grid_hw=GRID_HW)
