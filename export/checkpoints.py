"""Checkpoint files → checked weights of a vision transformer: every layout of ALGORITHM §7, refusing what does not fit.

safetensors are read by numpy alone; a ``.pth`` or ``.pt`` is a pickle, which torch reads as tensors and nothing else.
"""

import argparse
import math
import pickle
import re
import struct
from collections.abc import Mapping
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from edge_uad.errors import MissingExtraError, WeightsError
from edge_uad.records import Float32
from export.architecture import ARCHS, PERIODS, VitSpec, VitWeights, fit, listed
from export.huggingface import from_hugging_face, is_hugging_face

_NESTS = ("teacher", "state_dict", "model", "student")
"""Where publishers keep the weights inside a file; the teacher is the network that the papers evaluate."""
_WRAPPERS = re.compile(r"^(module\.|backbone\.)+")
_CHUNKED_BLOCK = re.compile(r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)")
_NOT_BACKBONE = re.compile(
    r"^(head|dino_head|ibot_head|classifier|pooler|cls_norm|local_cls_norm)\.|^(mask_token|masked_embed)$"
)
"""Heads, what only training needs, and norms after the last block, whose output nothing here reads."""
_BIAS_MASK = ".attn.qkv.bias_mask"

_BFLOAT16 = "BF16"
_NUMPY_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""Of safetensors' types; bfloat16 is widened by hand, and float8 is refused."""


def read_weights(path: Path, spec: VitSpec) -> VitWeights:
    """Read a checkpoint of a known architecture.

    Args:
        path: safetensors, or ``.pth``/``.pt`` of tensors alone.
        spec: the architecture.

    Raises:
        WeightsError: unreadable, or with keys unknown, missing or of another shape.
        MissingExtraError: a pickle, and torch is not installed.
    """
    return _fitted(path, spec, read_state(path))


def read_custom_weights(path: Path, *, arch: str, patch_px: int) -> VitWeights:
    """Read any DINO-style checkpoint; all but its width, heads and patch size is read from its tensors.

    Args:
        path: safetensors, or ``.pth``/``.pt`` of tensors alone.
        arch: a key of :data:`export.architecture.ARCHS`.
        patch_px: side of a patch.

    Raises:
        WeightsError: unreadable, or with keys unknown, missing or of another shape.
        MissingExtraError: a pickle, and torch is not installed.
    """
    state = read_state(path)
    return _fitted(path, _spec_of(path, state, arch, patch_px), state)


def read_state(path: Path) -> dict[str, Float32]:
    """The backbone's tensors, float32, under the names of :class:`export.architecture.VitWeights`.

    Raises:
        WeightsError: not a checkpoint, or none of tensors alone.
        MissingExtraError: a pickle, and torch is not installed.
    """
    found = _read_file(path)
    if not found:
        raise WeightsError(f"checkpoint {path} holds no tensors; name a DINO, iBOT, DINOv2 or DINOv3 state dict")
    state = {_WRAPPERS.sub("", key): tensor for key, tensor in found.items()}
    if is_hugging_face(state):
        state = from_hugging_face(state)
    state = {_CHUNKED_BLOCK.sub(r"blocks.\1.", key): tensor for key, tensor in state.items()}
    state = _from_dinov3(state)
    return {key: tensor for key, tensor in state.items() if not _NOT_BACKBONE.match(key)}


def has_torch() -> bool:
    """Whether checkpoints that are pickles can be read here."""
    return find_spec("torch") is not None


def _from_dinov3(state: Mapping[str, Float32]) -> dict[str, Float32]:
    """Registers by their name, and what DINOv3 keeps of the keys' bias, nothing, multiplied into it."""
    renamed = {"register_tokens" if key == "storage_tokens" else key: tensor for key, tensor in state.items()}
    for mask in [key for key in renamed if key.endswith(_BIAS_MASK)]:
        bias = mask.removesuffix("_mask")
        # what does not fit together stays, as a key that is unknown
        if bias in renamed and renamed[bias].shape == renamed[mask].shape:
            renamed[bias] = renamed[bias] * renamed.pop(mask)
    return renamed


def _fitted(path: Path, spec: VitSpec, state: Mapping[str, Float32]) -> VitWeights:
    try:
        return fit(spec, state)
    except WeightsError as error:
        raise WeightsError(
            f"checkpoint {path} does not fit, is it of another architecture or patch size, or cut short? {error}"
        ) from error


def _spec_of(path: Path, state: Mapping[str, Float32], arch: str, patch_px: int) -> VitSpec:
    """What can be read from the tensors, the rest from the architecture's name."""
    known = ARCHS[arch]
    blocks = {int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))}
    registers = state.get("register_tokens")
    return VitSpec(
        dim=known.dim,
        heads=known.heads,
        depth=max(blocks, default=0) + 1,
        patch_px=patch_px,
        pos_grid=0 if PERIODS in state else _pos_grid(path, state),
        layer_scale=any(key.endswith(".ls1.gamma") for key in state),
        registers=0 if registers is None or registers.ndim != 3 else registers.shape[1],
        gated=any(key.endswith(".mlp.w1.weight") for key in state),
    )


def _pos_grid(path: Path, state: Mapping[str, Float32]) -> int:
    positions = state.get("pos_embed")
    if positions is None:
        raise WeightsError(
            f"checkpoint {path} has no pos_embed, its keys begin with {listed(sorted(state)[:3])}; "
            "name a DINO, iBOT, DINOv2 or DINOv3 state dict"
        )
    patches = positions.shape[1] - 1 if positions.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        raise WeightsError(f"checkpoint {path}: its pos_embed {positions.shape} is for no square patch grid")
    return side


# what the readers raise on a broken file; there is no common root below Exception
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


def _read_file(path: Path) -> dict[str, Float32]:
    try:
        with path.open("rb") as file:
            start = file.read(9)
            # a safetensors file starts with the 8-byte length of its JSON header
            content = start + file.read() if start[8:] == b"{" else None
    except OSError as error:
        raise WeightsError(f"checkpoint {path} cannot be read: {error.strerror}; name a file that is there") from error
    if content is None and not has_torch():
        raise MissingExtraError(f"reading {path}, which is no safetensors file but a pickle,", "export")
    try:
        return _pickled_tensors(path) if content is None else _safetensors(content)
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}".strip().split("\n", 1)[0].rstrip(".")
        raise WeightsError(
            f"checkpoint {path} is damaged or no file of tensors alone ({reason}); fetch it again, "
            "or save its state dict as safetensors where you trust it"
        ) from error


def _safetensors(content: bytes) -> dict[str, Float32]:
    views = deserialize(content)  # type: ignore[no-untyped-call]  # its stub names no types
    # in the order of their names: as they come they have another one every time
    return {name: _array(view["dtype"], view["shape"], view["data"]) for name, view in sorted(views, key=itemgetter(0))}


def _array(kind: str, shape: list[int], data: bytes) -> Float32:
    if kind == _BFLOAT16:
        # the upper half of a float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, _NUMPY_TYPES[kind]).reshape(shape).astype(np.float32)


def _pickled_tensors(path: Path) -> dict[str, Float32]:
    import torch  # noqa: PLC0415  # only pickles need it

    # the publishers' full checkpoints carry their command line in a Namespace, which is a bag of plain values
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    # go down into whatever the publisher wrapped the state dict in
    while isinstance(content, Mapping):
        inner = next((content[nest] for nest in _NESTS if isinstance(content.get(nest), Mapping)), None)
        if inner is None:
            tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
            return {key: tensor.detach().float().numpy() for key, tensor in tensors.items()}
        content = inner
    return {}
