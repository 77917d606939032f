"""A backbone as an ONNX graph, written operator by operator from its weights (ALGORITHM §2, §3): no torch needed.

Operators are chosen for what ONNX Runtime fuses and OpenVINO takes: LayerNormalization and Gelu are one node each, a
linear layer is MatMul and Add, attention is two products around a Softmax. Factors that never change are multiplied
into the weights: the queries' 1/√d and LayerScale. DINOv3's rotation is two products with constants and a swap of
halves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_uad.inference.backbones.files import INPUT_NAME, OUTPUT_NAMES
from edge_uad.records import Float32, joined_width
from export.architecture import PERIODS, VitWeights
from export.position import pos_embed_for, rotation_for
from export.request import ExportRequest

OPSET = 20
"""The first with Gelu as one operator."""
IR_VERSION = 10
GRAPH_VERSION = 2
"""Raised when the graph of the same weights is written differently; part of the file, as its producer's version."""
SMALLEST_NORM = 1e-12
"""A token shorter than this stays shorter than unit norm instead of being divided by zero."""


def vit_graph(weights: VitWeights, request: ExportRequest) -> onnx.GraphProto:
    """The graph from pixels to patch tokens and CLS attention, in one pass and no further than needed.

    Its input is pixels, float32 (batch, 3, H, W). Its outputs are tokens, float32 (batch, N, D), unit norm, and
    attention, float32 (batch, N). Weights and blocks have the requested precision; joining is float32 always. The same
    arguments give the same graph.

    Args:
        weights: of the backbone.
        request: one that :func:`export.request.check_request` accepts.
    """
    return _VitGraph(weights, request).proto()


class _VitGraph:
    """Nodes and constants in the order they are added; a node is named by its first output."""

    def __init__(self, weights: VitWeights, request: ExportRequest) -> None:
        self._spec, self._state, self._request = weights.spec, weights.state, request
        self._float = np.float16 if request.precision == "fp16" else np.float32
        patch = weights.spec.patch_px
        self._grid_hw = (request.input_hw[0] // patch, request.input_hw[1] // patch)
        self._patches = self._grid_hw[0] * self._grid_hw[1]
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}

    def proto(self) -> onnx.GraphProto:
        """The whole graph."""
        self._add_all()
        patches = self._patches
        width = self._spec.dim * joined_width(self._request.join, self._request.layers)
        tokens, attention = OUTPUT_NAMES
        return helper.make_graph(
            self._nodes,
            self._request.backbone,
            [_float_info(INPUT_NAME, (3, *self._request.input_hw))],
            [_float_info(tokens, (patches, width)), _float_info(attention, (patches,))],
            [numpy_helper.from_array(array, name) for name, array in self._constants.items()],
        )

    def _add_all(self) -> None:
        request = self._request
        x = self._embed()
        chosen: list[str] = []
        for index in range(max(*request.layers, request.attention_layer) + 1):
            if index == request.attention_layer and index > max(request.layers):
                self._cls_row_alone(x, f"block{index}")
                break
            x = self._block(x, index)
            if index in request.layers:
                chosen.append(self._patch_tokens(x))
        self._join(chosen)

    def _embed(self) -> str:
        """Tokens before the first block, (batch, T, D)."""
        spec, state = self._spec, self._state
        pixels = INPUT_NAME if self._float is np.float32 else self._cast(INPUT_NAME, "pixels_lowered", self._float)
        kernel = self._weight("patch_embed.weight", state["patch_embed.proj.weight"])
        bias = self._weight("patch_embed.bias", state["patch_embed.proj.bias"])
        side = [spec.patch_px] * 2
        self._add("Conv", [pixels, kernel, bias], "patch_embed", kernel_shape=side, strides=side)
        self._add("Reshape", ["patch_embed", self._integers("channels_first", [0, spec.dim, -1])], "patch_columns")
        self._add("Transpose", ["patch_columns"], "patch_rows", perm=[0, 2, 1])
        patches, prefix = "patch_rows", state["cls_token"]
        if not spec.rotary:
            places = pos_embed_for(state["pos_embed"], self._grid_hw, spec)
            patches = self._add("Add", [patches, self._weight("pos_embed", places[:, 1:])], "patches")
            prefix = prefix + places[:, :1]
        if spec.registers:
            prefix = np.concatenate([prefix, state["register_tokens"]], axis=1)
        self._add("Shape", [INPUT_NAME], "batch", start=0, end=1)
        size = self._integers("prefix_size", [spec.prefix_tokens, spec.dim])
        self._add("Concat", ["batch", size], "prefix_shape", axis=0)
        self._add("Expand", [self._weight("prefix", prefix), "prefix_shape"], "prefix_tokens")
        return self._add("Concat", ["prefix_tokens", patches], "embedded", axis=1)

    def _block(self, x: str, index: int) -> str:
        """Tokens after a block, (batch, T, D); the attention output, too, where this is its block."""
        name, dim = f"block{index}", self._spec.dim
        norm = self._norm(x, f"blocks.{index}.norm1", f"{name}.norm1")
        weight, bias = self._scaled_qkv(index)
        qkv = self._linear(norm, weight, bias, f"{name}.qkv")
        parts = [f"{name}.{part}" for part in ("queries", "keys", "values")]
        self._nodes.append(helper.make_node("Split", [qkv], parts, name=parts[0], axis=-1, num_outputs=3))
        queries = self._heads(parts[0], [0, 2, 1, 3], placed=True)
        keys = self._heads(parts[1], [0, 2, 3, 1], placed=True)
        values = self._heads(parts[2], [0, 2, 1, 3])
        if index == self._request.attention_layer:
            rows = [self._integers(f"cls.{key}", [value]) for key, value in (("from", 0), ("to", 1), ("axis", 2))]
            self._cls_row(self._add("Slice", [queries, *rows], "cls.queries"), keys)
        self._add("MatMul", [queries, keys], f"{name}.logits")
        self._add("Softmax", [f"{name}.logits"], f"{name}.shares", axis=-1)
        self._add("MatMul", [f"{name}.shares", values], f"{name}.gathered")
        self._add("Transpose", [f"{name}.gathered"], f"{name}.rows", perm=[0, 2, 1, 3])
        self._add("Reshape", [f"{name}.rows", self._integers("joined_heads", [0, -1, dim])], f"{name}.mixed")
        weight, bias = self._scaled_residual(f"blocks.{index}.attn.proj", f"blocks.{index}.ls1.gamma")
        branch = self._linear(f"{name}.mixed", weight, bias, f"{name}.proj")
        x = self._add("Add", [x, branch], f"{name}.attended")
        norm = self._norm(x, f"blocks.{index}.norm2", f"{name}.norm2")
        hidden, last = self._gate(norm, index) if self._spec.gated else self._gelu(norm, index)
        weight, bias = self._scaled_residual(f"blocks.{index}.mlp.{last}", f"blocks.{index}.ls2.gamma")
        branch = self._linear(hidden, weight, bias, f"{name}.{last}")
        return self._add("Add", [x, branch], f"{name}.tokens")

    def _gelu(self, norm: str, index: int) -> tuple[str, str]:
        """What the feed-forward part's last layer reads, and that layer's name."""
        name, fc1 = f"block{index}", f"blocks.{index}.mlp.fc1"
        hidden = self._linear(norm, self._state[f"{fc1}.weight"], self._state[f"{fc1}.bias"], f"{name}.fc1")
        return self._add("Gelu", [hidden], f"{name}.gelu"), "fc2"

    def _gate(self, norm: str, index: int) -> tuple[str, str]:
        """The same for SwiGLU, whose first two layers are one product."""
        name, mlp = f"block{index}", f"blocks.{index}.mlp"
        weight, bias = (
            np.concatenate([self._state[f"{mlp}.{layer}.{part}"] for layer in ("w1", "w2")])
            for part in ("weight", "bias")
        )
        halves = [f"{name}.gate", f"{name}.gated"]
        both = self._linear(norm, weight, bias, f"{name}.w1w2")
        self._nodes.append(helper.make_node("Split", [both], halves, name=halves[0], axis=-1, num_outputs=2))
        self._add("Sigmoid", halves[:1], f"{name}.sigmoid")
        self._add("Mul", [halves[0], f"{name}.sigmoid"], f"{name}.silu")
        return self._add("Mul", [f"{name}.silu", halves[1]], f"{name}.swiglu"), "w3"

    def _cls_row_alone(self, x: str, name: str) -> None:
        """The attention output of a block of which nothing else is read: one query, all keys, no values."""
        index, dim = self._request.attention_layer, self._spec.dim
        norm = self._norm(x, f"blocks.{index}.norm1", f"{name}.norm1")
        weight, bias = self._scaled_qkv(index)
        keys = self._linear(norm, weight[dim : 2 * dim], bias[dim : 2 * dim], f"{name}.keys")
        rows = [self._integers(f"cls.{key}", [value]) for key, value in (("from", 0), ("to", 1), ("axis", 1))]
        cls = self._add("Slice", [norm, *rows], "cls.token")
        queries = self._linear(cls, weight[:dim], bias[:dim], f"{name}.queries")
        # CLS has no place: only the keys may be turned
        self._cls_row(self._heads(queries, [0, 2, 1, 3]), self._heads(keys, [0, 2, 3, 1], placed=True))

    def _cls_row(self, query: str, keys: str) -> None:
        """The attention output from (batch, heads, 1, d) and (batch, heads, d, T); its softmax is float32."""
        logits = self._add("MatMul", [query, keys], "cls.logits")
        if self._float is not np.float32:
            logits = self._cast(logits, "cls.logits_float", np.float32)
        self._add("Softmax", [logits], "cls.shares", axis=-1)
        self._add("ReduceMean", ["cls.shares", self._integers("heads_and_query", [1, 2])], "cls.row", keepdims=0)
        self._add("Slice", ["cls.row", *self._patch_range()], OUTPUT_NAMES[1])

    def _patch_tokens(self, x: str) -> str:
        """Float32 (batch, N, D): without CLS and registers."""
        patches = self._add("Slice", [x, *self._patch_range()], f"{x}.patches")
        return patches if self._float is np.float32 else self._cast(patches, f"{patches}_float", np.float32)

    def _join(self, chosen: Sequence[str]) -> None:
        """The tokens output: of several layers the sum, whose direction is the mean's, or one after the other."""
        tokens, join = OUTPUT_NAMES[0], self._request.join
        if len(chosen) == 1:
            self._blend(chosen[0], tokens)
        elif join == "levels":
            self._add("Concat", [self._blend(one, f"{one}.level") for one in chosen], "joined", axis=-1)
            share = self._constant("level_norm", np.array(1 / np.sqrt(len(chosen)), np.float32))
            self._add("Mul", ["joined", share], tokens)
        elif join == "concat":
            self._blend(self._add("Concat", chosen, "joined", axis=-1), tokens)
        else:
            self._blend(self._add("Sum", chosen, "joined"), tokens)

    def _blend(self, joined: str, output: str) -> str:
        """Tokens at unit norm, the mean of their surroundings blended into each where that is asked for."""
        if self._request.neighbourhood == 1:
            return self._unit(joined, output)
        alone = self._unit(joined, f"{output}.alone")
        around = self._unit(self._mean_around(alone), f"{output}.around")
        return self._unit(self._add("Add", [alone, around], f"{output}.blended"), output)

    def _mean_around(self, tokens: str) -> str:
        """Float32 (batch, N, D): the mean of the patches around each one that lie inside the grid."""
        name, side = f"{tokens}.neighbours", self._request.neighbourhood
        columns = self._add("Transpose", [tokens], f"{name}.columns", perm=[0, 2, 1])
        shape = self._integers("neighbours.grid_shape", [0, 0, *self._grid_hw])
        grid = self._add("Reshape", [columns, shape], f"{name}.grid")
        pads = {"pads": [side // 2] * 4, "count_include_pad": 0}
        means = self._add("AveragePool", [grid], f"{name}.means", kernel_shape=[side, side], **pads)
        flat = self._add("Reshape", [means, self._integers("neighbours.shape", [0, 0, -1])], f"{name}.flat")
        return self._add("Transpose", [flat], name, perm=[0, 2, 1])

    def _scaled_qkv(self, index: int) -> tuple[Float32, Float32]:
        """Weight and bias of the common projection, 1/√d multiplied into the queries' part."""
        spec, name = self._spec, f"blocks.{index}.attn.qkv"
        scale = np.ones(3 * spec.dim, np.float32)
        scale[: spec.dim] = spec.head_dim**-0.5
        return self._state[f"{name}.weight"] * scale[:, None], self._state[f"{name}.bias"] * scale

    def _scaled_residual(self, name: str, gamma: str) -> tuple[Float32, Float32]:
        """Weight and bias of a branch's last layer, LayerScale multiplied in where there is one."""
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        if not self._spec.layer_scale:
            return weight, bias
        return weight * self._state[gamma][:, None], bias * self._state[gamma]

    def _norm(self, x: str, name: str, output: str) -> str:
        parameters = [self._weight(f"{output}.{part}", self._state[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self._add("LayerNormalization", [x, *parameters], output, axis=-1, epsilon=self._spec.norm_eps)

    def _linear(self, x: str, weight: Float32, bias: Float32, output: str) -> str:
        self._add("MatMul", [x, self._weight(f"{output}.weight", weight.T)], f"{output}.product")
        return self._add("Add", [f"{output}.product", self._weight(f"{output}.bias", bias)], output)

    def _heads(self, x: str, perm: Sequence[int], *, placed: bool = False) -> str:
        """(batch, T, D) → (batch, T, heads, d), turned by place where asked; its sides in another order."""
        shape = self._integers("split_heads", [0, 0, self._spec.heads, -1])
        heads = self._add("Reshape", [x, shape], f"{x}.heads")
        if placed and self._spec.rotary:
            heads = self._turned(heads)
        return self._add("Transpose", [heads], f"{x}.by_head", perm=perm)

    def _turned(self, heads: str) -> str:
        """(batch, T, heads, d) of all tokens, each pair of channels turned by its token's place."""
        cos, sin = rotation_for(self._state[PERIODS], self._grid_hw, self._spec)
        tables = {
            "rotation.cos": np.concatenate([cos, cos], axis=1),
            "rotation.sin": np.concatenate([-sin, sin], axis=1),
        }
        by_cos, by_sin = (self._weight(name, table[None, :, None]) for name, table in tables.items())
        halves = [f"{heads}.first", f"{heads}.second"]
        self._nodes.append(helper.make_node("Split", [heads], halves, name=halves[0], axis=-1, num_outputs=2))
        self._add("Concat", halves[::-1], f"{heads}.swapped", axis=-1)
        straight = self._add("Mul", [heads, by_cos], f"{heads}.straight")
        across = self._add("Mul", [f"{heads}.swapped", by_sin], f"{heads}.across")
        return self._add("Add", [straight, across], f"{heads}.turned")

    def _unit(self, tokens: str, output: str) -> str:
        """Rows at unit norm."""
        last = self._integers("last_axis", [-1])
        smallest = self._constant("smallest_norm", np.array(SMALLEST_NORM, np.float32))
        self._add("ReduceL2", [tokens, last], f"{output}.norm", keepdims=1)
        self._add("Max", [f"{output}.norm", smallest], f"{output}.divisor")
        return self._add("Div", [tokens, f"{output}.divisor"], output)

    def _patch_range(self) -> list[str]:
        """From the first patch to the last, along the tokens' axis."""
        first = self._spec.prefix_tokens
        bounds = (("first", first), ("end", first + self._patches), ("axis", 1))
        return [self._integers(f"patch.{name}", [value]) for name, value in bounds]

    def _cast(self, x: str, output: str, kind: type[np.floating[Any]]) -> str:
        return self._add("Cast", [x], output, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def _weight(self, name: str, array: Float32) -> str:
        with np.errstate(over="ignore"):  # what half precision cannot hold fails the parity check
            return self._constant(name, array.astype(self._float))

    def _integers(self, name: str, values: Sequence[int]) -> str:
        return self._constant(name, np.array(values, np.int64))

    def _constant(self, name: str, array: np.ndarray) -> str:
        self._constants[name] = array
        return name


def _float_info(name: str, sides: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *sides])
