"""Checkpoint files → a filled vision transformer: every layout of ALGORITHM §7, refusing what does not fit."""

import argparse
import math
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edge_uad.errors import WeightsError
from export.huggingface import from_hugging_face, is_hugging_face
from export.vit import VisionTransformer, VitSpec

KEYS_SHOWN = 20

_NESTS = ("teacher", "state_dict", "model", "student")
"""Where publishers keep the weights inside a file; the teacher is the network that the papers evaluate."""
_WRAPPERS = re.compile(r"^(module\.|backbone\.)+")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)")
_NOT_BACKBONE = re.compile(r"^(head|dino_head|ibot_head|classifier|pooler)\.|^(mask_token|masked_embed)$")


@dataclass(frozen=True, slots=True)
class Arch:
    """What a state dict does not tell: the width by its common name, and the number of heads."""

    dim: int
    heads: int


ARCHS = {"vit_tiny": Arch(192, 3), "vit_small": Arch(384, 6), "vit_base": Arch(768, 12)}


def load_vit(path: Path, spec: VitSpec) -> VisionTransformer:
    """Read a checkpoint of a known architecture.

    Args:
        path: ``.pth``/``.pt`` of tensors alone, or safetensors.
        spec: the architecture.

    Raises:
        WeightsError: unreadable, or with keys unknown, missing or of another shape.
    """
    return _filled(path, spec, read_state(path))


def load_custom_vit(path: Path, *, arch: str, patch_px: int) -> VisionTransformer:
    """Read any DINO-style checkpoint; blocks, position grid, LayerScale and registers are read from its tensors.

    Args:
        path: ``.pth``/``.pt`` of tensors alone, or safetensors.
        arch: a key of :data:`ARCHS`.
        patch_px: side of a patch.

    Raises:
        WeightsError: unreadable, or with keys unknown, missing or of another shape.
    """
    state = read_state(path)
    return _filled(path, _spec_of(path, state, arch, patch_px), state)


def read_state(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors, float32, under their publishers' names.

    Raises:
        WeightsError: not a checkpoint, or none of tensors alone.
    """
    found = _named_tensors(_read_file(path))
    if not found:
        raise WeightsError(f"checkpoint {path} holds no tensors; name a DINO, iBOT or DINOv2 state dict")
    state = {_WRAPPERS.sub("", key): tensor for key, tensor in found.items()}
    if is_hugging_face(state):
        state = from_hugging_face(state)
    state = {_CHUNKED_BLOCK.sub(r"blocks.\1.", key): tensor for key, tensor in state.items()}
    return {key: tensor.float() for key, tensor in state.items() if not _NOT_BACKBONE.match(key)}


def fill(spec: VitSpec, state: Mapping[str, Tensor]) -> VisionTransformer:
    """A transformer with these tensors and no others.

    Raises:
        WeightsError: a key is unknown or missing, or a tensor has another shape.
    """
    vit = VisionTransformer(spec)
    own = vit.state_dict()
    faults = {
        "missing keys": [key for key in own if key not in state],
        "unknown keys": [key for key in state if key not in own],
        "wrong shapes": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    if any(faults.values()):
        raise WeightsError("; ".join(f"{fault}: {_listed(keys)}" for fault, keys in faults.items() if keys))
    vit.load_state_dict(dict(state))
    return vit.eval().requires_grad_(False)


def _filled(path: Path, spec: VitSpec, state: Mapping[str, Tensor]) -> VisionTransformer:
    try:
        return fill(spec, state)
    except WeightsError as error:
        raise WeightsError(
            f"checkpoint {path} does not fit, is it of another architecture or patch size, or cut short? {error}"
        ) from error


def _spec_of(path: Path, state: Mapping[str, Tensor], arch: str, patch_px: int) -> VitSpec:
    """What can be read from the tensors, the rest from the architecture's name."""
    known = ARCHS[arch]
    blocks = {int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))}
    registers = state.get("register_tokens")
    return VitSpec(
        dim=known.dim,
        heads=known.heads,
        depth=max(blocks, default=0) + 1,
        patch_px=patch_px,
        pos_grid=_pos_grid(path, state),
        layer_scale=any(key.endswith(".ls1.gamma") for key in state),
        registers=0 if registers is None or registers.dim() != 3 else registers.shape[1],
    )


def _pos_grid(path: Path, state: Mapping[str, Tensor]) -> int:
    positions = state.get("pos_embed")
    if positions is None:
        raise WeightsError(
            f"checkpoint {path} has no pos_embed, its keys begin with {_listed(sorted(state)[:3])}; "
            "name a DINO, iBOT or DINOv2 state dict"
        )
    patches = positions.shape[1] - 1 if positions.dim() == 3 else 0
    side = math.isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        raise WeightsError(f"checkpoint {path}: its pos_embed {tuple(positions.shape)} is for no square patch grid")
    return side


# what the readers let out on a broken file; there is no common root below Exception
_DAMAGE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
    struct.error,
)


def _read_file(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise WeightsError(f"checkpoint {path} cannot be read: {error.strerror}; name a file that is there") from error
    try:
        # a safetensors file starts with the 8-byte length of its JSON header
        return load_file(path) if start[8:] == b"{" else _load_pickled_tensors(path)
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}".strip().split("\n", 1)[0].rstrip(".")
        raise WeightsError(
            f"checkpoint {path} is damaged or no file of tensors alone ({reason}); fetch it again, "
            "or save its state dict as safetensors where you trust it"
        ) from error


def _load_pickled_tensors(path: Path) -> Any:
    # the publishers' full checkpoints carry their command line in a Namespace, which is a bag of plain values
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _named_tensors(content: Any) -> dict[str, Tensor]:
    """Go down into whatever the publisher wrapped the state dict in."""
    while isinstance(content, Mapping):
        inner = next((content[nest] for nest in _NESTS if isinstance(content.get(nest), Mapping)), None)
        if inner is None:
            return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        content = inner
    return {}


def _listed(keys: Iterable[str]) -> str:
    every = list(keys)
    more = f" and {len(every) - KEYS_SHOWN} more" if len(every) > KEYS_SHOWN else ""
    return ", ".join(every[:KEYS_SHOWN]) + more
