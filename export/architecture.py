"""The vision transformers that edge-uad exports: their sizes, their tensors by name, and a checked set of weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_uad.errors import WeightsError
from edge_uad.records import Float32

MLP_RATIO = 4
PERIODS = "rope_embed.periods"
"""The tensor by which a checkpoint says that it is DINOv3's: the periods of its rotation."""
KEYS_SHOWN = 20
"""How many keys an error lists before it counts the rest."""


@dataclass(frozen=True, slots=True)
class Arch:
    """What cannot be read from a state dict: the width by its common name, and the number of heads."""

    dim: int
    heads: int


ARCHS = {"vit_tiny": Arch(192, 3), "vit_small": Arch(384, 6), "vit_base": Arch(768, 12)}


@dataclass(frozen=True, slots=True, kw_only=True)
class VitSpec:
    """What distinguishes one of these transformers from another."""

    dim: int
    heads: int
    depth: int
    """Number of blocks."""
    patch_px: int
    pos_grid: int
    """Side of the square patch grid that the stored position embedding is for; 0 where none is stored (DINOv3)."""
    layer_scale: bool = False
    """A learned factor on every residual branch, since DINOv2."""
    registers: int = 0
    """Tokens between CLS and the patches that belong to no place in the image."""
    gated: bool = False
    """Whether the feed-forward part is SwiGLU instead of two layers around a GELU (DINOv3's ViT-S+)."""

    @property
    def rotary(self) -> bool:
        """Whether every block turns queries and keys by the place of their patch, instead of a position embedding."""
        return self.pos_grid == 0

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads

    @property
    def norm_eps(self) -> float:
        """Added to the variance in every LayerNorm: DINOv3 has another than its predecessors."""
        return 1e-5 if self.rotary else 1e-6

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the first patch: CLS and the registers."""
        return 1 + self.registers

    @property
    def pos_antialias(self) -> bool:
        """Whether the publisher resizes the position embedding with antialiasing."""
        return self.registers > 0

    @property
    def pos_offset(self) -> float:
        """Added to the grid's sides for the scale of the position embedding; 0 resizes to the grid exactly."""
        return 0.0 if self.registers else 0.1


@dataclass(frozen=True, slots=True)
class VitWeights:
    """A transformer's tensors, checked against its architecture by :func:`fit`.

    Their names are DINO's and DINOv2's; DINOv3's storage tokens go by the name of registers.
    """

    spec: VitSpec
    state: Mapping[str, Float32]


def tensor_shapes(spec: VitSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the architecture, in the publishers' order."""
    dim, hidden = spec.dim, MLP_RATIO * spec.dim
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim)}
    if not spec.rotary:
        shapes["pos_embed"] = (1, 1 + spec.pos_grid**2, dim)
    if spec.registers:
        shapes["register_tokens"] = (1, spec.registers, dim)
    shapes |= {"patch_embed.proj.weight": (dim, 3, spec.patch_px, spec.patch_px), "patch_embed.proj.bias": (dim,)}
    if spec.rotary:
        shapes[PERIODS] = (spec.head_dim // 4,)
    for index in range(spec.depth):
        block = f"blocks.{index}"
        shapes |= _norm(f"{block}.norm1", dim)
        shapes |= _linear(f"{block}.attn.qkv", dim, 3 * dim) | _linear(f"{block}.attn.proj", dim, dim)
        if spec.layer_scale:
            shapes[f"{block}.ls1.gamma"] = (dim,)
        shapes |= _norm(f"{block}.norm2", dim)
        if spec.gated:
            shapes |= _linear(f"{block}.mlp.w1", dim, hidden) | _linear(f"{block}.mlp.w2", dim, hidden)
            shapes |= _linear(f"{block}.mlp.w3", hidden, dim)
        else:
            shapes |= _linear(f"{block}.mlp.fc1", dim, hidden) | _linear(f"{block}.mlp.fc2", hidden, dim)
        if spec.layer_scale:
            shapes[f"{block}.ls2.gamma"] = (dim,)
    return shapes | _norm("norm", dim)


def fit(spec: VitSpec, state: Mapping[str, Float32]) -> VitWeights:
    """These tensors as the weights of the architecture.

    Raises:
        WeightsError: a key is unknown or missing, or a tensor has another shape.
    """
    shapes = tensor_shapes(spec)
    faults = {
        "missing keys": [key for key in shapes if key not in state],
        "unknown keys": [key for key in state if key not in shapes],
        "wrong shapes": [
            f"{key} {state[key].shape} instead of {shape}"
            for key, shape in shapes.items()
            if key in state and state[key].shape != shape
        ],
    }
    if any(faults.values()):
        raise WeightsError("; ".join(f"{fault}: {listed(keys)}" for fault, keys in faults.items() if keys))
    return VitWeights(spec, dict(state))


def listed(keys: Iterable[str]) -> str:
    """The first keys, and how many more there are."""
    every = list(keys)
    more = f" and {len(every) - KEYS_SHOWN} more" if len(every) > KEYS_SHOWN else ""
    return ", ".join(every[:KEYS_SHOWN]) + more


def _norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
