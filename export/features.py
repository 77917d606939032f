"""The two outputs of an exported backbone, as one torch module (ALGORITHM §2, §3)."""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.vit import Block, VisionTransformer

Precision = Literal["fp32", "fp16"]


class PatchFeatures(nn.Module):
    """Pixels to patch tokens and CLS attention, in one pass and no further than needed.

    Args:
        vit: with its weights; its position embedding is brought to the grid of ``input_hw``. Taken over:
            later blocks are let go.
        input_hw: the fixed input size in pixels, multiples of the patch size.
        layers: 0-based blocks whose patch tokens are averaged.
        attention_layer: 0-based block whose CLS row is the second output.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        input_hw: tuple[int, int],
        layers: tuple[int, ...],
        attention_layer: int,
    ) -> None:
        super().__init__()
        patch_px = vit.spec.patch_px
        vit.fix_grid((input_hw[0] // patch_px, input_hw[1] // patch_px))
        del vit.blocks[max(*layers, attention_layer) + 1 :]
        self.vit = vit.eval().requires_grad_(False)
        self.layers = layers
        self.attention_layer = attention_layer

    def with_precision(self, precision: Precision) -> "PatchFeatures":
        """The same module with weights and blocks of this precision; input, outputs and mean stay float32."""
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
        mean = torch.stack(chosen).mean(dim=0)
        return functional.normalize(mean, dim=-1), attention[:, first_patch:]
