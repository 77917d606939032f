"""Every layout that weights come in reads to the same backbone; what does not fit is refused by its keys."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from edge_uad.errors import WeightsError
from edge_uad.records import Float32
from export.architecture import KEYS_SHOWN
from export.checkpoints import read_custom_weights, read_weights
from tests.models import random_weights

State = dict[str, Float32]


def zeros(*shape: int) -> Float32:
    return np.zeros(shape, np.float32)


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
    renamed["pooler.dense.weight"] = zeros(192, 192)
    renamed["pooler.dense.bias"] = zeros(192)
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
    renamed["embeddings.mask_token"] = zeros(1, 192)
    prefix = "dinov2_with_registers" if "register_tokens" in state else "dinov2"
    whole = {f"{prefix}.{key}": tensor for key, tensor in renamed.items()}
    return {**whole, "classifier.weight": zeros(10, 192), "classifier.bias": zeros(10)}


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
            for name, part in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                renamed[f"{place}.attention.attention.{name}.{kind}"] = part.copy()
        elif rest.startswith("ls"):
            renamed[f"{place}.layer_scale{rest[2]}.lambda1"] = tensor
        else:
            stem, kind = rest.rsplit(".", 1)
            renamed[f"{place}.{names[stem]}.{kind}"] = tensor
    return renamed


def published_dinov3(state: State) -> State:
    """DINOv3's own layout, with all that it holds besides the backbone; the keys' bias is there, and masked."""
    renamed = {"storage_tokens" if key == "register_tokens" else key: tensor for key, tensor in state.items()}
    for key in [key for key in renamed if key.endswith("attn.qkv.bias")]:
        mask = np.ones(3 * 192, np.float32)
        mask[192 : 2 * 192] = 0
        renamed[f"{key}_mask"] = mask
    norms = {f"{name}.{part}": zeros(192) for name in ("cls_norm", "local_cls_norm") for part in ("weight", "bias")}
    return {**renamed, **norms, "mask_token": zeros(1, 192)}


def hugging_face_dinov3(state: State, *, place: str = "layer", prefix: str = "") -> State:
    """The key layout of DINOv3ViTModel: neither the periods nor the bias of the keys."""
    gated = any(".mlp.w1." in key for key in state)
    names = {"attn.proj": "attention.o_proj", "norm1": "norm1", "norm2": "norm2"} | (
        {"mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.up_proj", "mlp.w3": "mlp.down_proj"}
        if gated
        else {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
    )
    renamed: State = {"embeddings.mask_token": zeros(1, 1, 192)}
    for key, tensor in state.items():
        if key.startswith("patch_embed.proj."):
            renamed[f"embeddings.patch_embeddings.{key.rsplit('.', 1)[1]}"] = tensor
        elif key in {"cls_token", "register_tokens"}:
            renamed[f"embeddings.{key}"] = tensor
        elif key.startswith("norm."):
            renamed[key] = tensor
        elif key.startswith("blocks."):
            _, block, rest = key.split(".", 2)
            stem, kind = rest.rsplit(".", 1)
            if stem == "attn.qkv":
                parts = dict(zip("qkv", np.split(tensor, 3), strict=True))
                present = "qv" if kind == "bias" else "qkv"
                renamed |= {f"{place}.{block}.attention.{part}_proj.{kind}": parts[part].copy() for part in present}
            elif stem.startswith("ls"):
                renamed[f"{place}.{block}.layer_scale{stem[2]}.lambda1"] = tensor
            else:
                renamed[f"{place}.{block}.{names[stem]}.{kind}"] = tensor
    return {f"{prefix}{key}": tensor for key, tensor in renamed.items()}


def dino_training_checkpoint(state: State) -> dict[str, object]:
    """DINO's full checkpoint: student and teacher with their heads, and the command line."""
    head = {"module.head.mlp.0.weight": zeros(4, 192), "module.head.last_layer.weight_v": zeros(3, 4)}
    return {
        "student": {**{f"module.backbone.{key}": np.zeros_like(tensor) for key, tensor in state.items()}, **head},
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
            "backbone.mask_token": zeros(1, 192),
            "dino_head.mlp.0.weight": zeros(4, 192),
        }
    }


FLAT: dict[str, Callable[[State], State]] = {
    "plain": dict,
    "with mask_token": lambda state: {**state, "mask_token": zeros(1, 192)},
    "module.": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "Hugging Face ViT": hugging_face_vit,
    "Hugging Face DINOv2": hugging_face_dinov2,
}
NESTED: dict[str, Callable[[State], dict[str, object]]] = {
    "iBOT: state_dict, masked_embed": lambda state: {"state_dict": {**state, "masked_embed": zeros(1, 192)}},
    "under model, module.": lambda state: {"model": {f"module.{key}": tensor for key, tensor in state.items()}},
    "DINO full checkpoint": dino_training_checkpoint,
    "DINOv2 training checkpoint": dinov2_training_checkpoint,
}


def same(ours: Mapping[str, Float32], theirs: Mapping[str, Float32]) -> bool:
    return set(ours) == set(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("layout", "layer_scale", "registers"),
    [
        *((name, False, 0) for name in FLAT if name != "Hugging Face DINOv2"),
        *((name, True, registers) for name in ("plain", "Hugging Face DINOv2") for registers in (0, 4)),
    ],
)
def test_every_layout_of_safetensors_reads_to_the_same_weights(
    layout: str, layer_scale: bool, registers: int, tmp_path: Path
) -> None:
    weights = random_weights(seed=1, depth=2, layer_scale=layer_scale, registers=registers)
    path = tmp_path / "model.bin"  # known by its content, whatever its name
    save_file(FLAT[layout](dict(weights.state)), path)
    read = read_custom_weights(path, arch="vit_tiny", patch_px=16)
    assert read.spec == weights.spec
    assert same(read.state, weights.state)


@pytest.mark.parametrize(
    ("layout", "layer_scale", "registers"),
    [
        *((name, False, 0) for name in {**FLAT, **NESTED} if "DINOv2" not in name),
        *(
            (name, True, registers)
            for name in ("DINOv2 training checkpoint", "Hugging Face DINOv2")
            for registers in (0, 4)
        ),
    ],
)
def test_every_layout_of_a_pickle_reads_to_the_same_weights(
    layout: str, layer_scale: bool, registers: int, tmp_path: Path
) -> None:
    weights = random_weights(seed=1, depth=2, layer_scale=layer_scale, registers=registers)
    path = pickled({**FLAT, **NESTED}[layout](dict(weights.state)), tmp_path)
    read = read_custom_weights(path, arch="vit_tiny", patch_px=16)
    assert read.spec == weights.spec
    assert same(read.state, weights.state)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    weights = random_weights(depth=1)
    halves = {key: tensor.astype(np.float16) for key, tensor in weights.state.items()}
    save_file(halves, tmp_path / "half.safetensors")
    read = read_custom_weights(tmp_path / "half.safetensors", arch="vit_tiny", patch_px=16)
    assert same(read.state, {key: tensor.astype(np.float32) for key, tensor in halves.items()})


DINOV3: dict[str, Callable[[State], State]] = {
    "published": published_dinov3,
    "published, module.": lambda state: {f"module.{key}": tensor for key, tensor in published_dinov3(state).items()},
    "Hugging Face": hugging_face_dinov3,
    "Hugging Face in memory": lambda state: hugging_face_dinov3(state, place="model.layer"),
    "Hugging Face, part of a larger model": lambda state: {
        **hugging_face_dinov3(state, prefix="dinov3_vit."),
        "classifier.weight": zeros(10, 192),
    },
}


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("layout", DINOV3)
def test_every_layout_of_dinov3_reads_to_the_same_weights(layout: str, gated: bool, tmp_path: Path) -> None:
    weights = random_weights(seed=1, depth=2, layer_scale=True, registers=4, pos_grid=0, gated=gated)
    path = tmp_path / "model.safetensors"
    save_file(DINOV3[layout](dict(weights.state)), path)
    read = read_custom_weights(path, arch="vit_tiny", patch_px=16)
    assert read.spec == weights.spec
    expected = dict(weights.state)
    if "Hugging Face" in layout:  # its model computes the periods, and in float32
        expected["rope_embed.periods"] = 100 ** (np.arange(16, dtype=np.float32) / 16)
    for index in range(2):
        bias = expected[f"blocks.{index}.attn.qkv.bias"].copy()
        bias[192 : 2 * 192] = 0
        expected[f"blocks.{index}.attn.qkv.bias"] = bias
    assert set(read.state) == set(expected)
    for key, tensor in expected.items():
        np.testing.assert_allclose(read.state[key], tensor, rtol=1e-6 if "periods" in key else 0, err_msg=key)


def test_a_mask_that_fits_no_bias_is_refused(tmp_path: Path) -> None:
    state = published_dinov3(dict(random_weights(depth=1, layer_scale=True, registers=4, pos_grid=0).state))
    state["blocks.0.attn.qkv.bias_mask"] = zeros(7)
    assert "unknown keys: blocks.0.attn.qkv.bias_mask" in refusal(state, tmp_path)


def test_a_named_dinov3_without_its_periods_is_refused(tmp_path: Path) -> None:
    weights = random_weights(depth=1, layer_scale=True, registers=4, pos_grid=0)
    state = dict(weights.state)
    del state["rope_embed.periods"]
    save_file(state, tmp_path / "checkpoint.safetensors")
    with pytest.raises(WeightsError, match=r"missing keys: rope_embed\.periods"):
        read_weights(tmp_path / "checkpoint.safetensors", weights.spec)


def test_dinov3_of_hugging_face_without_one_of_query_key_value_is_refused(tmp_path: Path) -> None:
    state = hugging_face_dinov3(dict(random_weights(depth=1, layer_scale=True, registers=4, pos_grid=0).state))
    del state["layer.0.attention.v_proj.weight"]
    refused = refusal(state, tmp_path)
    assert "missing keys: blocks.0.attn.qkv.weight" in refused
    assert "unknown keys: layer.0.attention.k_proj.weight, layer.0.attention.q_proj.weight" in refused


def test_bfloat16_is_widened(tmp_path: Path) -> None:
    """Written by hand: numpy has no such type. Its numbers are the upper halves of float32."""
    weights = random_weights(depth=1)
    halves = {key: (tensor.view(np.uint32) >> 16).astype(np.uint16) for key, tensor in weights.state.items()}
    header: dict[str, object] = {}
    end = 0
    for key, half in halves.items():
        header[key] = {"dtype": "BF16", "shape": half.shape, "data_offsets": [end, end + half.nbytes]}
        end += half.nbytes
    text = json.dumps(header).encode()
    path = tmp_path / "bfloat16.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(half.tobytes() for half in halves.values()))
    read = read_custom_weights(path, arch="vit_tiny", patch_px=16)
    for key, tensor in read.state.items():
        np.testing.assert_array_equal(tensor.view(np.uint32) >> 16, halves[key])
        np.testing.assert_allclose(tensor, weights.state[key], rtol=2**-7)


def test_a_type_that_numpy_lacks_is_refused_by_its_name(tmp_path: Path) -> None:
    text = b'{"pos_embed":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'
    path = tmp_path / "float8.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(WeightsError, match="F8_E4M3"):
        read_custom_weights(path, arch="vit_tiny", patch_px=16)


def test_without_torch_a_pickle_names_the_extra_and_safetensors_are_read(tmp_path: Path) -> None:
    save_file(dict(random_weights(depth=1).state), tmp_path / "mine.safetensors")
    (tmp_path / "mine.pth").write_bytes(b"PK\x03\x04 as torch writes them")
    program = """
import sys
from pathlib import Path
sys.modules["torch"] = None
from edge_uad.errors import MissingExtraError
from export.checkpoints import read_custom_weights
print(read_custom_weights(Path("mine.safetensors"), arch="vit_tiny", patch_px=16).spec.depth)
try:
    read_custom_weights(Path("mine.pth"), arch="vit_tiny", patch_px=16)
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    depth, refused = done.stdout.splitlines()
    assert depth == "1"
    assert refused == (
        "reading mine.pth, which is no safetensors file but a pickle, needs the [export] extra; "
        "run: pip install 'edge-uad[export]'"
    )


def pickled(content: object, tmp_path: Path) -> Path:
    """As torch saves it, with tensors in the places of arrays."""
    torch = pytest.importorskip("torch", reason="the [export] extra is not installed")

    def tensors(content: Any) -> Any:
        if isinstance(content, np.ndarray):
            return torch.from_numpy(content)
        return {key: tensors(value) for key, value in content.items()} if isinstance(content, dict) else content

    path = tmp_path / "checkpoint.pth"
    torch.save(tensors(content), path)
    return path


def refusal(state: State, tmp_path: Path, *, arch: str = "vit_tiny", patch_px: int = 16) -> str:
    path = tmp_path / "checkpoint.safetensors"
    save_file(state, path)
    return refusal_of(path, arch=arch, patch_px=patch_px)


def refusal_of(path: Path, *, arch: str = "vit_tiny", patch_px: int = 16) -> str:
    with pytest.raises(WeightsError) as caught:
        read_custom_weights(path, arch=arch, patch_px=patch_px)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    state = dict(random_weights(depth=2).state)
    del state["blocks.0.attn.qkv.bias"], state["norm.weight"]
    assert "missing keys: blocks.0.attn.qkv.bias, norm.weight" in refusal(state, tmp_path)


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    state = {**dict(random_weights(depth=1).state), "blocks.0.adapter.weight": zeros(1)}
    assert "unknown keys: blocks.0.adapter.weight" in refusal(state, tmp_path)


def test_wrong_shapes_are_listed_with_both_shapes(tmp_path: Path) -> None:
    state = dict(random_weights(depth=1).state)
    refused = refusal(state, tmp_path, patch_px=8)
    assert "patch_embed.proj.weight (192, 3, 16, 16) instead of (192, 3, 8, 8)" in refused


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    state = {**dict(random_weights(depth=1).state), **{f"extra.{n:02}": zeros(1) for n in range(KEYS_SHOWN + 5)}}
    assert f"extra.{KEYS_SHOWN - 1} and 5 more" in refusal(state, tmp_path)


def test_another_width_is_refused(tmp_path: Path) -> None:
    assert "wrong shapes: cls_token (1, 1, 192) instead of (1, 1, 384)" in refusal(
        dict(random_weights(depth=1).state), tmp_path, arch="vit_small"
    )


def test_a_known_backbone_cut_short_lists_what_is_missing(tmp_path: Path) -> None:
    whole, cut = random_weights(depth=3), random_weights(depth=2)
    path = tmp_path / "checkpoint.safetensors"
    save_file(dict(cut.state), path)
    with pytest.raises(WeightsError, match=r"cut short\? missing keys: blocks\.2\.norm1\.weight, "):
        read_weights(path, whole.spec)


def test_hugging_face_without_one_of_query_key_value_is_refused(tmp_path: Path) -> None:
    state = hugging_face_vit(dict(random_weights(depth=1).state))
    del state["encoder.layer.0.attention.attention.key.weight"]
    refused = refusal(state, tmp_path)
    assert "missing keys: blocks.0.attn.qkv.weight" in refused
    assert "encoder.layer.0.attention.attention.query.weight" in refused


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "holds no tensors"),
        ({"fc.weight": zeros(1)}, "no pos_embed"),
        ({"pos_embed": zeros(1, 18, 192)}, "for no square patch grid"),
        ({"pos_embed": zeros(7)}, "for no square patch grid"),
    ],
)
def test_what_is_no_state_dict_is_refused(state: State, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(state, tmp_path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {}}])
def test_a_pickle_without_tensors_is_refused(content: object, tmp_path: Path) -> None:
    assert "holds no tensors" in refusal_of(pickled(content, tmp_path))


class Surprise:
    """What a malicious checkpoint would hold: an object whose loading runs code."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (print, ("loaded",))


def test_a_checkpoint_with_objects_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = refusal_of(pickled({"pos_embed": zeros(1, 17, 192), "surprise": Surprise()}, tmp_path))
    assert "no file of tensors alone" in refused
    assert "\n" not in refused
    assert "loaded" not in capsys.readouterr().out


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    assert "is damaged or no file of tensors alone" in refusal_of(path)
    save_file(dict(random_weights(depth=1).state), path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is damaged or no file of tensors alone" in refusal_of(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(40), b"ustar" * 300])
def test_a_damaged_pickle_is_refused(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the [export] extra is not installed")
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert "is damaged or no file of tensors alone" in refusal_of(path)


def test_a_truncated_pickle_is_refused(tmp_path: Path) -> None:
    path = pickled(dict(random_weights(depth=1).state), tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is damaged" in refusal_of(path)


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_a_path_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    assert "cannot be read" in refusal_of(tmp_path / name)
