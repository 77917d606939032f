"""The parts that the torch transformers of :mod:`export.vit` are made of; parameters have their publishers' names."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.architecture import MLP_RATIO, VitSpec

Turns = tuple[Tensor, Tensor]
"""Cosines and sines of every token, each (T, d): DINOv3's rotation by the place."""


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.scale = spec.head_dim**-0.5
        self.qkv = nn.Linear(spec.dim, 3 * spec.dim)
        self.proj = nn.Linear(spec.dim, spec.dim)

    def project(self, x: Tensor, turns: Turns | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) → queries, keys, values, each (B, heads, T, D/heads); the first two turned where asked."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if turns is None:
            return qkv[0], qkv[1], qkv[2]
        return turned(qkv[0], turns), turned(qkv[1], turns), qkv[2]

    def cls_row(self, q: Tensor, k: Tensor) -> Tensor:
        """CLS's attention to every token, mean over heads, float32 (B, T): one row, never the T×T map."""
        logits = (q[:, :, :1] * self.scale) @ k.transpose(-2, -1)
        row: Tensor = logits.float().softmax(dim=-1).mean(dim=(1, 2))
        return row

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What each token gathers from the others, (B, T, D)."""
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        gathered: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return gathered


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self.fc2(functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class SwiGlu(nn.Module):
    """Two linear layers side by side, one of them the other's gate, and a third."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, MLP_RATIO * dim)
        self.w2 = nn.Linear(dim, MLP_RATIO * dim)
        self.w3 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self.w3(functional.silu(self.w1(x)) * self.w2(x))  # type: ignore[no-any-return]  # as above


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.norm_eps)
        self.attn = Attention(spec)
        self.ls1 = LayerScale(spec.dim) if spec.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.norm_eps)
        self.mlp = SwiGlu(spec.dim) if spec.gated else Mlp(spec.dim)
        self.ls2 = LayerScale(spec.dim) if spec.layer_scale else nn.Identity()

    def forward(self, x: Tensor, turns: Turns | None = None) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self.step(x, self.attn.project(self.norm1(x), turns))

    def forward_with_cls_row(self, x: Tensor, turns: Turns | None = None) -> tuple[Tensor, Tensor]:
        """The block's output, and CLS's attention to every token in it, (B, T)."""
        q, k, v = self.attn.project(self.norm1(x), turns)
        return self.step(x, (q, k, v)), self.attn.cls_row(q, k)

    def cls_row(self, x: Tensor, turns: Turns | None = None) -> Tensor:
        """CLS's attention to every token, (B, T), and nothing else of the block."""
        q, k, _ = self.attn.project(self.norm1(x), turns)
        return self.attn.cls_row(q, k)

    def step(self, x: Tensor, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Both residual branches, queries, keys and values given."""
        x = x + self.ls1(self.attn.mix(*qkv))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class PatchEmbed(nn.Module):
    """One token per patch."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.dim, kernel_size=spec.patch_px, stride=spec.patch_px)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, N, D), row by row of the grid."""
        return self.proj(pixels).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]  # as above


class RotaryEmbedding(nn.Module):
    """DINOv3's place of a patch: angles that turn its queries and keys, half of them by its row, half by its column."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.prefix_tokens = spec.prefix_tokens
        self.register_buffer("periods", torch.ones(spec.head_dim // 4))

    def forward(self, grid_hw: tuple[int, int]) -> Turns:
        """For all tokens of one grid; those before the first patch are not turned."""
        rows, columns = (torch.linspace(-1 + 1 / side, 1 - 1 / side, side) for side in grid_hw)
        places = torch.cartesian_prod(rows, columns)
        angles = (2 * math.pi * places[:, :, None] / self.get_buffer("periods")).flatten(1).repeat(1, 2)
        angles = functional.pad(angles, (0, 0, self.prefix_tokens, 0))
        return angles.cos(), angles.sin()


def turned(heads: Tensor, turns: Turns) -> Tensor:
    """(B, heads, T, d), each pair of a first and a second half's channel turned by its token's angle."""
    cos, sin = turns
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
