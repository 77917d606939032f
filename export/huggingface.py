"""The Hugging Face key layouts of ViT, DINOv2 (with and without registers) and DINOv3 → the publishers' own layout."""

import re
from collections.abc import Mapping

import numpy as np

from edge_uad.records import Float32
from export.architecture import PERIODS
from export.position import rotation_periods

DINOV3_HEAD_DIM = 64
"""Channels of a head in every DINOv3 but the largest, of which no architecture here is."""

_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.mask_token": "mask_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    # DINOv3
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    # ViT
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    # DINOv2 and DINOv3
    "norm1": "norm1",
    "norm2": "norm2",
    # DINOv2
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    # DINOv3
    "attention.o_proj": "attn.proj",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}
_IN_GATED_BLOCK = {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
_LAYER_SCALE = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_QKV = ("query", "key", "value")

_MODEL_PREFIX = re.compile(
    r"^(vit|dinov2|dinov2_with_registers|dinov3_vit)\.(?=(embeddings|encoder|layernorm|model|layer|norm)\.)"
)
# DINOv3's blocks are "layer.0" in files, and "model.layer.0" in the memory of newer versions of transformers
_BLOCK_KEY = re.compile(r"^(?:encoder\.|model\.)?layer\.(\d+)\.(.+)$")
_PROJECTION = re.compile(r"^attention\.attention\.(query|key|value)\.(weight|bias)$")
_DINOV3_PROJECTION = re.compile(r"^attention\.([qkv])_proj\.(weight|bias)$")


def is_hugging_face(keys: Mapping[str, Float32]) -> bool:
    """Whether these keys are of one of these layouts."""
    return any(_in_block(key) for key in keys)


def from_hugging_face(state: Mapping[str, Float32]) -> dict[str, Float32]:
    """Rename every key and fuse query, key and value into one projection.

    What DINOv3's layout leaves out is put in: the keys' bias, which is 0, and the periods of the rotation, which its
    model computes in float32.

    Keys that belong to no backbone of these layouts, a classifier's for one, keep their names for the caller to
    judge, and so do query, key and value of a block that lacks one of the three.
    """
    gated = any(".mlp.gate_proj." in key for key in state)
    renamed: dict[str, Float32] = {}
    projections: dict[tuple[str, str], dict[str, str]] = {}
    rotary = False
    for key, tensor in state.items():
        in_block = _in_block(key)
        projection, of_dinov3 = _projection(in_block[1]) if in_block else (None, False)
        rotary = rotary or of_dinov3
        if in_block and projection:
            projections.setdefault((in_block[0], projection[1]), {})[projection[0]] = key
        elif in_block:
            renamed[f"blocks.{in_block[0]}.{_block_name(in_block[1], gated=gated)}"] = tensor
        else:
            renamed[_EMBEDDINGS.get(_MODEL_PREFIX.sub("", key), key)] = tensor
    if rotary:
        renamed[PERIODS] = rotation_periods(DINOV3_HEAD_DIM)
    for (block, kind), keys in projections.items():
        parts = {part: state[key] for part, key in keys.items()}
        if rotary and kind == "bias" and set(parts) == {"query", "value"}:
            parts["key"] = np.zeros_like(parts["query"])
        if len(parts) == len(_QKV):
            renamed[f"blocks.{block}.attn.qkv.{kind}"] = np.concatenate([parts[part] for part in _QKV])
        else:
            renamed |= {key: state[key] for key in keys.values()}
    return renamed


def _in_block(key: str) -> tuple[str, str] | None:
    """The block's number and what the key is called inside it; None where it is in no block of these layouts."""
    found = _BLOCK_KEY.match(_MODEL_PREFIX.sub("", key))
    return (found[1], found[2]) if found else None


def _projection(name: str) -> tuple[tuple[str, str] | None, bool]:
    """Which of query, key and value, and weight or bias; None where it is none. And whether it is DINOv3's."""
    if found := _PROJECTION.match(name):
        return (found[1], found[2]), False
    if found := _DINOV3_PROJECTION.match(name):
        return (next(part for part in _QKV if part[0] == found[1]), found[2]), True
    return None, False


def _block_name(name: str, *, gated: bool) -> str:
    if name in _LAYER_SCALE:
        return _LAYER_SCALE[name]
    stem, _, kind = name.rpartition(".")
    known = _IN_BLOCK | _IN_GATED_BLOCK if gated else _IN_BLOCK
    return f"{known[stem]}.{kind}" if stem in known else name
