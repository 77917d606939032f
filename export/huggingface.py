"""The Hugging Face key layout of ViT, DINOv2 and DINOv2 with registers → the publishers' own layout."""

import re
from collections.abc import Mapping

import numpy as np

from edge_uad.records import Float32

_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.mask_token": "mask_token",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_IN_BLOCK = {
    "attention.output.dense": "attn.proj",
    # ViT
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    # DINOv2
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_LAYER_SCALE = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_QKV = ("query", "key", "value")

_MODEL_PREFIX = re.compile(r"^(vit|dinov2|dinov2_with_registers)\.(?=(embeddings|encoder|layernorm)\.)")
_BLOCK_KEY = re.compile(r"^encoder\.layer\.(\d+)\.(.+)$")
_PROJECTION = re.compile(r"^attention\.attention\.(query|key|value)\.(weight|bias)$")


def is_hugging_face(keys: Mapping[str, Float32]) -> bool:
    """Whether these keys are of this layout."""
    return any(_BLOCK_KEY.match(_MODEL_PREFIX.sub("", key)) for key in keys)


def from_hugging_face(state: Mapping[str, Float32]) -> dict[str, Float32]:
    """Rename every key and fuse query, key and value into one projection.

    Keys that belong to no backbone of this layout, a classifier's for one, keep their names for the caller to
    judge, and so do query, key and value of a block that lacks one of the three.
    """
    renamed: dict[str, Float32] = {}
    projections: dict[tuple[str, str], dict[str, Float32]] = {}
    for key, tensor in state.items():
        bare = _MODEL_PREFIX.sub("", key)
        in_block = _BLOCK_KEY.match(bare)
        projection = _PROJECTION.match(in_block[2]) if in_block else None
        if in_block and projection:
            projections.setdefault((in_block[1], projection[2]), {})[projection[1]] = tensor
        elif in_block:
            renamed[f"blocks.{in_block[1]}.{_block_name(in_block[2])}"] = tensor
        else:
            renamed[_EMBEDDINGS.get(bare, key)] = tensor
    for (block, kind), parts in projections.items():
        if len(parts) == len(_QKV):
            renamed[f"blocks.{block}.attn.qkv.{kind}"] = np.concatenate([parts[name] for name in _QKV])
        else:
            renamed |= {f"encoder.layer.{block}.attention.attention.{name}.{kind}": parts[name] for name in parts}
    return renamed


def _block_name(name: str) -> str:
    if name in _LAYER_SCALE:
        return _LAYER_SCALE[name]
    stem, _, kind = name.rpartition(".")
    return f"{_IN_BLOCK[stem]}.{kind}" if stem in _IN_BLOCK else name
