"""The two outputs of an exported backbone, as one torch module (ALGORITHM §2, §3)."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.vit import Block, VisionTransformer

Precision = Literal["fp32", "fp16"]
Join = Literal["mean", "concat"]


class PatchFeatures(nn.Module):
    """Pixels to patch tokens and CLS attention, in one pass and no further than needed.

    Args:
        vit: with its weights; its position embedding is brought to the grid of ``input_hw``. Taken over:
            later blocks are let go.
        input_hw: the fixed input size in pixels, multiples of the patch size.
        layers: 0-based blocks whose patch tokens are joined.
        attention_layer: 0-based block whose CLS row is the second output.
        join: their mean, or one after the other, D times their number.
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
        first_patch = self.vit.prefix_tokens
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
        joined = torch.stack(chosen).mean(dim=0) if self.join == "mean" else torch.cat(chosen, dim=-1)
        tokens = functional.normalize(joined, dim=-1)
        if self.neighbourhood > 1:
            tokens = self.with_surroundings(tokens)
        return tokens, attention[:, first_patch:]

    def with_surroundings(self, tokens: Tensor) -> Tensor:
        """Each token and the mean of the patches around it, in equal parts: (B, N, D) → (B, N, D), unit norm.

        At the grid's edge the mean is over the patches that are there.
        """
        grid = torch.unflatten(tokens.transpose(1, 2), 2, self.grid_hw)
        side = self.neighbourhood
        around = functional.avg_pool2d(grid, side, stride=1, padding=side // 2, count_include_pad=False)
        mean = functional.normalize(around.flatten(2).transpose(1, 2), dim=-1)
        return functional.normalize(tokens + mean, dim=-1)
