"""The vision transformers of DINO, iBOT and DINOv2 in torch, and the two outputs that are made of them.

TensorRT engines are compiled from it, and the tests hold the ONNX graph of :mod:`export.graph` to it. Parameters have
their publishers' names.
"""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_uad.records import Join
from export.architecture import LAYER_NORM_EPS, MLP_RATIO, VitSpec, VitWeights
from export.request import ExportRequest, FloatPrecision


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) → queries, keys, values, each (B, heads, T, D/heads)."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

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
        self.norm1 = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(spec.dim, spec.heads)
        self.ls1 = LayerScale(spec.dim) if spec.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(spec.dim)
        self.ls2 = LayerScale(spec.dim) if spec.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return self.step(x, self.attn.project(self.norm1(x)))

    def forward_with_cls_row(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and CLS's attention to every token in it, (B, T)."""
        q, k, v = self.attn.project(self.norm1(x))
        return self.step(x, (q, k, v)), self.attn.cls_row(q, k)

    def cls_row(self, x: Tensor) -> Tensor:
        """CLS's attention to every token, (B, T), and nothing else of the block."""
        q, k, _ = self.attn.project(self.norm1(x))
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


class VisionTransformer(nn.Module):
    """Patch embedding, blocks, final norm: what a DINO-style state dict fills."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + spec.pos_grid**2, spec.dim))
        if spec.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, spec.registers, spec.dim))
        self.patch_embed = PatchEmbed(spec)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)

    def fix_grid(self, grid_hw: tuple[int, int]) -> None:
        """Bring the position embedding to the patch grid of one input size, once and for all."""
        self.pos_embed = nn.Parameter(
            interpolated_pos_embed(
                self.pos_embed.detach(),
                grid_hw,
                antialias=self.spec.pos_antialias,
                offset=self.spec.pos_offset,
            ),
            requires_grad=False,
        )

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) → tokens before the first block (B, 1 + registers + N, D).

        The grid must be the one that the position embedding is for (see :meth:`fix_grid`).
        """
        patches = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        prefix = self.cls_token + self.pos_embed[:, :1]
        if self.spec.registers:
            prefix = torch.cat((prefix, self.register_tokens), dim=1)
        return torch.cat((prefix.expand(patches.shape[0], -1, -1), patches), dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) → all tokens after the final norm (B, 1 + registers + N, D)."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]  # as above


def interpolated_pos_embed(pos_embed: Tensor, grid_hw: tuple[int, int], *, antialias: bool, offset: float) -> Tensor:
    """A position embedding for another patch grid, exactly as its publishers interpolate it.

    DINO, iBOT and DINOv2 without registers scale bicubically by (side + 0.1)/stored side; the offset once
    kept a rounding error away, and remains part of what the weights saw. With registers DINOv2 resizes to
    the grid itself, antialiased.

    Args:
        pos_embed: float32 (1, 1 + g², D), CLS first.
        grid_hw: the patch grid wanted.
        antialias: as the publisher has it.
        offset: added to the grid's sides for the scale; 0 to resize to the grid exactly.

    Returns:
        float32 (1, 1 + gh·gw, D).
    """
    side = math.isqrt(pos_embed.shape[1] - 1)
    if grid_hw == (side, side):
        return pos_embed
    dim = pos_embed.shape[2]
    grid = pos_embed[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
    if offset:
        scale = ((grid_hw[0] + offset) / side, (grid_hw[1] + offset) / side)
        resized = functional.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        resized = functional.interpolate(grid, size=grid_hw, mode="bicubic", antialias=antialias)
    return torch.cat((pos_embed[:, :1], resized.permute(0, 2, 3, 1).reshape(1, -1, dim)), dim=1)


class PatchFeatures(nn.Module):
    """Pixels to patch tokens and CLS attention, in one pass and no further than needed.

    Args:
        vit: with its weights; its position embedding is brought to the grid of ``input_hw``. Changed in
            place: later blocks are removed.
        input_hw: the fixed input size in pixels, multiples of the patch size.
        layers: 0-based blocks whose patch tokens are joined.
        attention_layer: 0-based block whose CLS row is the second output.
        join: their mean, or one after the other, raw or each at unit norm, D times their number.
        neighbourhood: side, in patches, odd, of the surroundings blended into each token; 1 for none.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        input_hw: tuple[int, int],
        layers: tuple[int, ...],
        attention_layer: int,
        join: Join = "mean",
        neighbourhood: int = 1,
    ) -> None:
        super().__init__()
        patch_px = vit.spec.patch_px
        self.grid_hw = (input_hw[0] // patch_px, input_hw[1] // patch_px)
        vit.fix_grid(self.grid_hw)
        del vit.blocks[max(*layers, attention_layer) + 1 :]
        self.vit = vit.eval().requires_grad_(False)
        self.layers = layers
        self.attention_layer = attention_layer
        self.join = join
        self.neighbourhood = neighbourhood

    def with_precision(self, precision: FloatPrecision) -> "PatchFeatures":
        """The same module with weights and blocks of this precision; input, outputs and joining stay float32."""
        if precision == "fp32":
            return self
        lowered = copy.deepcopy(self)
        lowered.vit.half()
        return lowered

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels float32 (B, 3, H, W) → tokens float32 (B, N, D), unit norm, and attention float32 (B, N)."""
        x = self.vit.embed(pixels.to(self.vit.cls_token.dtype))
        first_patch = self.vit.spec.prefix_tokens
        chosen: list[Tensor] = []
        attention = x.new_empty(0)
        for index, module in enumerate(self.vit.blocks):
            block = cast("Block", module)
            if index == self.attention_layer and index > max(self.layers):
                attention = block.cls_row(x)
            elif index == self.attention_layer:
                x, attention = block.forward_with_cls_row(x)
            else:
                x = block(x)
            if index in self.layers:
                chosen.append(x[:, first_patch:].float())
        return self.joined(chosen), attention[:, first_patch:]

    def joined(self, chosen: list[Tensor]) -> Tensor:
        """The layers' tokens, each (B, N, D), as one: unit norm."""
        match self.join:
            case "levels":
                return torch.cat([self.blended(one) for one in chosen], dim=-1) / math.sqrt(len(chosen))
            case "concat":
                return self.blended(torch.cat(chosen, dim=-1))
            case "mean":
                return self.blended(torch.stack(chosen).mean(dim=0))

    def blended(self, tokens: Tensor) -> Tensor:
        """Each token and the mean of the patches around it, in equal parts: (B, N, D) → (B, N, D), unit norm.

        At the grid's edge the mean is over the patches that are there. Without a neighbourhood the token alone.
        """
        tokens = functional.normalize(tokens, dim=-1)
        if self.neighbourhood == 1:
            return tokens
        grid = torch.unflatten(tokens.transpose(1, 2), 2, self.grid_hw)
        side = self.neighbourhood
        around = functional.avg_pool2d(grid, side, stride=1, padding=side // 2, count_include_pad=False)
        mean = functional.normalize(around.flatten(2).transpose(1, 2), dim=-1)
        return functional.normalize(tokens + mean, dim=-1)


def torch_vit(weights: VitWeights) -> VisionTransformer:
    """The transformer with these weights, for inference."""
    with torch.device("meta"):  # no tensors are drawn that the weights replace at once
        vit = VisionTransformer(weights.spec)
    # copies: torch must not write into what is shared
    vit.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in weights.state.items()}, assign=True)
    return vit.eval().requires_grad_(False)


def requested_features(weights: VitWeights, request: ExportRequest) -> PatchFeatures:
    """The module that computes the two outputs of the request, in float32."""
    return PatchFeatures(
        torch_vit(weights),
        input_hw=request.input_hw,
        layers=request.layers,
        attention_layer=request.attention_layer,
        join=request.join,
        neighbourhood=request.neighbourhood,
    )
