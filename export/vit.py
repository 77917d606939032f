"""The vision transformers of DINO, iBOT, DINOv2 and DINOv3 in torch, and the two outputs that are made of them.

TensorRT engines are compiled from it, and the tests hold the ONNX graph of :mod:`export.graph` to it. Parameters have
their publishers' names.
"""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_uad.records import Join, Precision
from export.architecture import VitSpec, VitWeights
from export.request import ExportRequest
from export.vit_blocks import Block, PatchEmbed, RotaryEmbedding, Turns


class VisionTransformer(nn.Module):
    """Patch embedding, blocks, final norm: what a DINO-style state dict fills."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
        if spec.rotary:
            self.rope_embed = RotaryEmbedding(spec)
            self.register_buffer("cos", None, persistent=False)
            self.register_buffer("sin", None, persistent=False)
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + spec.pos_grid**2, spec.dim))
        if spec.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, spec.registers, spec.dim))
        self.patch_embed = PatchEmbed(spec)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.dim, eps=spec.norm_eps)

    def fix_grid(self, grid_hw: tuple[int, int]) -> None:
        """Bring the position embedding, or the rotation, to the patch grid of one input size, once and for all."""
        if self.spec.rotary:
            self.cos, self.sin = self.rope_embed(grid_hw)
            return
        self.pos_embed = nn.Parameter(
            interpolated_pos_embed(
                self.pos_embed.detach(),
                grid_hw,
                antialias=self.spec.pos_antialias,
                offset=self.spec.pos_offset,
            ),
            requires_grad=False,
        )

    @property
    def turns(self) -> Turns | None:
        """The rotation of every token on the grid that was fixed; None without one."""
        return (self.get_buffer("cos"), self.get_buffer("sin")) if self.spec.rotary else None

    def embed(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) → tokens before the first block (B, 1 + registers + N, D).

        The grid must be the one that the position embedding is for (see :meth:`fix_grid`).
        """
        patches: Tensor = self.patch_embed(pixels)
        prefix: Tensor = self.cls_token
        if not self.spec.rotary:
            patches, prefix = patches + self.pos_embed[:, 1:], prefix + self.pos_embed[:, :1]
        if self.spec.registers:
            prefix = torch.cat((prefix, self.register_tokens), dim=1)
        return torch.cat((prefix.expand(patches.shape[0], -1, -1), patches), dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) → all tokens after the final norm (B, 1 + registers + N, D)."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x, self.turns)
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

    def with_precision(self, precision: Precision) -> "PatchFeatures":
        """The same module with weights and blocks of this precision; input, outputs and joining stay float32."""
        if precision == "fp32":
            return self
        lowered = copy.deepcopy(self)
        lowered.vit.half()
        return lowered

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels float32 (B, 3, H, W) → tokens float32 (B, N, D), unit norm, and attention float32 (B, N)."""
        x = self.vit.embed(pixels.to(self.vit.cls_token.dtype))
        first_patch, turns = self.vit.spec.prefix_tokens, self.vit.turns
        chosen: list[Tensor] = []
        attention = x.new_empty(0)
        for index, module in enumerate(self.vit.blocks):
            block = cast("Block", module)
            if index == self.attention_layer and index > max(self.layers):
                attention = block.cls_row(x, turns)
            elif index == self.attention_layer:
                x, attention = block.forward_with_cls_row(x, turns)
            else:
                x = block(x, turns)
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
