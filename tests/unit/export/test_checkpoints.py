"""Every layout that weights come in reads to the same backbone; what does not fit is refused by its keys."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the [export] extra is not installed")

from safetensors.torch import save_file  # noqa: E402  # after the skip

from edge_uad.errors import WeightsError  # noqa: E402  # as above
from export.checkpoints import KEYS_SHOWN, load_custom_vit, load_vit  # noqa: E402  # as above
from tests.models import random_vit  # noqa: E402  # as above

State = dict[str, "torch.Tensor"]


def hugging_face_vit(state: State) -> State:
    """The key layout of ViTModel: DINO and iBOT on the hub."""
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = _hugging_face(state, names)
    renamed["pooler.dense.weight"] = torch.zeros(192, 192)
    renamed["pooler.dense.bias"] = torch.zeros(192)
    return renamed


def hugging_face_dinov2(state: State) -> State:
    """The key layout of Dinov2Model, as part of a larger model."""
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    renamed = _hugging_face(state, names)
    renamed["embeddings.mask_token"] = torch.zeros(1, 192)
    prefix = "dinov2_with_registers" if "register_tokens" in state else "dinov2"
    whole = {f"{prefix}.{key}": tensor for key, tensor in renamed.items()}
    return {**whole, "classifier.weight": torch.zeros(10, 192), "classifier.bias": torch.zeros(10)}


def _hugging_face(state: State, names: dict[str, str]) -> State:
    fixed = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    renamed: State = {}
    for key, tensor in state.items():
        if key in fixed:
            renamed[fixed[key]] = tensor
            continue
        _, block, rest = key.split(".", 2)
        place = f"encoder.layer.{block}"
        if rest.startswith("attn.qkv"):
            kind = rest.rsplit(".", 1)[1]
            for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{place}.attention.attention.{name}.{kind}"] = part.clone()
        elif rest.startswith("ls"):
            renamed[f"{place}.layer_scale{rest[2]}.lambda1"] = tensor
        else:
            stem, kind = rest.rsplit(".", 1)
            renamed[f"{place}.{names[stem]}.{kind}"] = tensor
    return renamed


def dino_training_checkpoint(state: State) -> dict[str, object]:
    """DINO's full checkpoint: student and teacher with their heads, and the command line."""
    head = {"module.head.mlp.0.weight": torch.zeros(4, 192), "module.head.last_layer.weight_v": torch.zeros(3, 4)}
    return {
        "student": {**{f"module.backbone.{key}": torch.zeros_like(tensor) for key, tensor in state.items()}, **head},
        "teacher": {**{f"backbone.{key}": tensor for key, tensor in state.items()}, **head},
        "epoch": 300,
        "args": argparse.Namespace(arch="vit_tiny", patch_size=16),
    }


def dinov2_training_checkpoint(state: State) -> dict[str, object]:
    """DINOv2's own: blocks in chunks, heads beside the backbone."""
    chunked = {re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", key): tensor for key, tensor in state.items()}
    return {
        "teacher": {
            **{f"backbone.{key}": tensor for key, tensor in chunked.items()},
            "backbone.mask_token": torch.zeros(1, 192),
            "dino_head.mlp.0.weight": torch.zeros(4, 192),
        }
    }


LAYOUTS: dict[str, Callable[[State], object]] = {
    "plain": dict,
    "with mask_token": lambda state: {**state, "mask_token": torch.zeros(1, 192)},
    "iBOT: state_dict, masked_embed": lambda state: {"state_dict": {**state, "masked_embed": torch.zeros(1, 192)}},
    "under model, module.": lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}},
    "half precision": lambda state: {key: tensor.half() for key, tensor in state.items()},
    "DINO full checkpoint": dino_training_checkpoint,
    "DINOv2 training checkpoint": dinov2_training_checkpoint,
    "Hugging Face ViT": hugging_face_vit,
    "Hugging Face DINOv2": hugging_face_dinov2,
}


@pytest.mark.parametrize(
    ("layout", "layer_scale", "registers"),
    [
        *((name, False, 0) for name in LAYOUTS if name not in {"Hugging Face DINOv2", "DINOv2 training checkpoint"}),
        *((name, True, 0) for name in ("plain", "DINOv2 training checkpoint", "Hugging Face DINOv2")),
        *((name, True, 4) for name in ("plain", "DINOv2 training checkpoint", "Hugging Face DINOv2")),
    ],
)
def test_every_layout_reads_to_the_same_backbone(
    layout: str, layer_scale: bool, registers: int, tmp_path: Path
) -> None:
    vit = random_vit(seed=1, depth=2, layer_scale=layer_scale, registers=registers)
    path = tmp_path / "checkpoint.pth"
    torch.save(LAYOUTS[layout](vit.state_dict()), path)

    read = load_custom_vit(path, arch="vit_tiny", patch_px=16)

    assert read.spec == vit.spec
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        difference = (read(pixels) - vit(pixels)).abs().max()
    assert difference <= (0.05 if layout == "half precision" else 0)


@pytest.mark.parametrize("layout", [dict, hugging_face_dinov2])
def test_safetensors_are_told_by_their_content(layout: Callable[[State], State], tmp_path: Path) -> None:
    vit = random_vit(depth=1, layer_scale=True)
    path = tmp_path / "model.bin"
    save_file(layout(vit.state_dict()), path)
    read = load_custom_vit(path, arch="vit_tiny", patch_px=16)
    assert all(torch.equal(tensor, vit.state_dict()[key]) for key, tensor in read.state_dict().items())


def refusal(state: object, tmp_path: Path, *, arch: str = "vit_tiny", patch_px: int = 16) -> str:
    path = tmp_path / "checkpoint.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        load_custom_vit(path, arch=arch, patch_px=patch_px)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    state = random_vit(depth=2).state_dict()
    del state["blocks.0.attn.qkv.bias"], state["norm.weight"]
    assert "missing keys: blocks.0.attn.qkv.bias, norm.weight" in refusal(state, tmp_path)


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    state = {**random_vit(depth=1).state_dict(), "blocks.0.adapter.weight": torch.zeros(1)}
    assert "unknown keys: blocks.0.adapter.weight" in refusal(state, tmp_path)


def test_wrong_shapes_are_listed_with_both_shapes(tmp_path: Path) -> None:
    state = random_vit(depth=1).state_dict()
    told = refusal(state, tmp_path, patch_px=8)
    assert "patch_embed.proj.weight (192, 3, 16, 16) instead of (192, 3, 8, 8)" in told


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    state = {**random_vit(depth=1).state_dict(), **{f"extra.{n}": torch.zeros(1) for n in range(KEYS_SHOWN + 5)}}
    assert f"extra.{KEYS_SHOWN - 1} and 5 more" in refusal(state, tmp_path)


def test_another_width_is_refused(tmp_path: Path) -> None:
    assert "wrong shapes: cls_token (1, 1, 192) instead of (1, 1, 384)" in refusal(
        random_vit(depth=1).state_dict(), tmp_path, arch="vit_small"
    )


def test_a_known_backbone_cut_short_lists_what_is_missing(tmp_path: Path) -> None:
    whole, cut = random_vit(depth=3), random_vit(depth=2)
    path = tmp_path / "checkpoint.pth"
    torch.save(cut.state_dict(), path)
    with pytest.raises(WeightsError, match=r"cut short\? missing keys: blocks\.2\.norm1\.weight, "):
        load_vit(path, whole.spec)


def test_hugging_face_without_one_of_query_key_value_is_refused(tmp_path: Path) -> None:
    state = hugging_face_vit(random_vit(depth=1).state_dict())
    del state["encoder.layer.0.attention.attention.key.weight"]
    told = refusal(state, tmp_path)
    assert "missing keys: blocks.0.attn.qkv.weight" in told
    assert "encoder.layer.0.attention.attention.query.weight" in told


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({}, "holds no tensors"),
        ([1, 2], "holds no tensors"),
        ({"fc.weight": torch.zeros(1)}, "no pos_embed"),
        ({"pos_embed": torch.zeros(1, 18, 192)}, "for no square patch grid"),
        ({"pos_embed": torch.zeros(7)}, "for no square patch grid"),
    ],
)
def test_what_is_no_state_dict_is_refused(state: object, told: str, tmp_path: Path) -> None:
    assert told in refusal(state, tmp_path)


class Surprise:
    """What a malicious checkpoint would hold: an object whose loading runs code."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (print, ("loaded",))


def test_a_checkpoint_with_objects_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal({"pos_embed": torch.zeros(1, 17, 192), "surprise": Surprise()}, tmp_path)
    assert "no file of tensors alone" in told
    assert "\n" not in told
    assert "loaded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x10\0\0\0\0\0\0\0{broken", b"PK\x03\x04" + bytes(40), b"ustar" * 300]
)
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged or no file of tensors alone"):
        load_custom_vit(path, arch="vit_tiny", patch_px=16)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(random_vit(depth=1).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="is damaged"):
        load_custom_vit(path, arch="vit_tiny", patch_px=16)


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_a_path_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_custom_vit(tmp_path / name, arch="vit_tiny", patch_px=16)
