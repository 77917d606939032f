"""The two outputs of a backbone in plain numpy, as ALGORITHM §2 and §3 state them: what every export is compared with.

Written for comparison, not for speed: every block and every attention map, head by head, in float32.
"""

import math
from collections.abc import Mapping

import numpy as np

from edge_uad.records import Float32
from export.architecture import PERIODS, VitSpec, VitWeights
from export.position import pos_embed_for, rotation_for
from export.request import ExportRequest

_ERF_END = 6
"""From here on erf is 1 in float32."""
_ERF_STEPS = 10_000
"""Per unit: linear interpolation between them is off by less than 2e-9."""
_ERF = np.array([math.erf(place / _ERF_STEPS) for place in range(-_ERF_END * _ERF_STEPS, _ERF_END * _ERF_STEPS + 2)])


def features(weights: VitWeights, request: ExportRequest, pixels: Float32) -> tuple[Float32, Float32]:
    """Patch tokens and CLS attention of one image.

    Args:
        weights: of the backbone.
        request: layers, attention layer, join and neighbourhood; its precision is left out of account.
        pixels: float32 (3, H, W), normalised, H and W multiples of the patch.

    Returns:
        Tokens float32 (N, D), unit norm; attention float32 (N,).
    """
    spec, state = weights.spec, weights.state
    grid_hw = (pixels.shape[1] // spec.patch_px, pixels.shape[2] // spec.patch_px)
    x = _embed(weights, pixels, grid_hw)
    turns = rotation_for(state[PERIODS], grid_hw, spec) if spec.rotary else None
    first_patch = spec.prefix_tokens
    chosen: list[Float32] = []
    attention = np.empty(0, np.float32)
    for index in range(max(*request.layers, request.attention_layer) + 1):
        block = {
            key.removeprefix(f"blocks.{index}."): state[key] for key in state if key.startswith(f"blocks.{index}.")
        }
        x, cls_row = _block(x, block, spec, turns)
        if index in request.layers:
            chosen.append(x[first_patch:])
        if index == request.attention_layer:
            attention = cls_row[first_patch:]
    match request.join:
        case "levels":
            levels = [_blend(one, grid_hw, request.neighbourhood) for one in chosen]
            return np.concatenate(levels, axis=1) / np.float32(math.sqrt(len(levels))), attention
        case "concat":
            return _blend(np.concatenate(chosen, axis=1), grid_hw, request.neighbourhood), attention
        case "mean":
            return _blend(np.mean(chosen, axis=0), grid_hw, request.neighbourhood), attention


def _embed(weights: VitWeights, pixels: Float32, grid_hw: tuple[int, int]) -> Float32:
    """float32 (1 + registers + N, D): the tokens before the first block."""
    spec, state = weights.spec, weights.state
    (rows, columns), side = grid_hw, spec.patch_px
    patches = pixels.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    kernel = state["patch_embed.proj.weight"].reshape(spec.dim, -1)
    tokens = patches @ kernel.T + state["patch_embed.proj.bias"]
    cls = state["cls_token"][0]
    if not spec.rotary:
        places = pos_embed_for(state["pos_embed"], grid_hw, spec)[0]
        tokens, cls = tokens + places[1:], cls + places[:1]
    registers = [state["register_tokens"][0]] if spec.registers else []
    return np.concatenate([cls, *registers, tokens])


def _block(
    x: Float32, block: Mapping[str, Float32], spec: VitSpec, turns: tuple[Float32, Float32] | None
) -> tuple[Float32, Float32]:
    """Tokens after the block, float32 (T, D), and CLS's attention to each token, mean over heads, float32 (T,)."""
    heads = spec.heads
    queries, keys, values = (
        np.ascontiguousarray(part.reshape(len(x), heads, -1).swapaxes(0, 1))
        for part in np.split(_linear(_layer_norm(x, block, "norm1", spec), block, "attn.qkv"), 3, axis=1)
    )
    if turns is not None:
        queries, keys = _turned(queries, *turns), _turned(keys, *turns)
    gathered = np.empty_like(queries)
    cls_row = np.zeros(len(x), np.float32)
    for head in range(heads):
        share = _softmax(queries[head] @ keys[head].T / math.sqrt(queries.shape[2]))
        gathered[head] = share @ values[head]
        cls_row += share[0] / heads
    x = x + _linear(gathered.swapaxes(0, 1).reshape(x.shape), block, "attn.proj") * block.get(
        "ls1.gamma", np.float32(1)
    )
    fed = _feed_forward(_layer_norm(x, block, "norm2", spec), block, gated=spec.gated)
    return x + fed * block.get("ls2.gamma", np.float32(1)), cls_row


def _turned(heads: Float32, cos: Float32, sin: Float32) -> Float32:
    """Channels (heads, T, d), of which those of the first half and those of the second are pairs, turned by angles."""
    first, second = np.split(heads, 2, axis=2)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)


def _feed_forward(x: Float32, block: Mapping[str, Float32], *, gated: bool) -> Float32:
    if not gated:
        return _linear(_gelu(_linear(x, block, "mlp.fc1")), block, "mlp.fc2")
    gate = _linear(x, block, "mlp.w1")
    with np.errstate(over="ignore"):  # exp of a large number: the gate is shut
        opened = gate / (1 + np.exp(-gate))
    return _linear(opened * _linear(x, block, "mlp.w2"), block, "mlp.w3")


def _layer_norm(x: Float32, block: Mapping[str, Float32], name: str, spec: VitSpec) -> Float32:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(spec.norm_eps))
    return np.asarray(scaled * block[f"{name}.weight"] + block[f"{name}.bias"])


def _linear(x: Float32, block: Mapping[str, Float32], name: str) -> Float32:
    return np.asarray(x @ block[f"{name}.weight"].T + block[f"{name}.bias"])


def _softmax(logits: Float32) -> Float32:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _gelu(x: Float32) -> Float32:
    place = (np.clip(x / math.sqrt(2), -_ERF_END, _ERF_END).astype(np.float64) + _ERF_END) * _ERF_STEPS
    below = place.astype(np.int32)
    erf = _ERF[below] + (_ERF[below + 1] - _ERF[below]) * (place - below)
    return np.asarray(x * (1 + erf.astype(np.float32)) / 2)


def _unit(rows: Float32) -> Float32:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12)))


def _blend(tokens: Float32, grid_hw: tuple[int, int], neighbourhood: int) -> Float32:
    """float32 (N, D), unit norm: each token, and the mean of its surroundings in equal parts where asked for."""
    tokens = _unit(tokens)
    return tokens if neighbourhood == 1 else _unit(tokens + _unit(_mean_around(tokens, grid_hw, neighbourhood)))


def _mean_around(tokens: Float32, grid_hw: tuple[int, int], side: int) -> Float32:
    """float32 (N, D): the mean of the patches around each one that lie inside the grid."""
    grid, reach = tokens.reshape(*grid_hw, -1), side // 2
    means = [
        grid[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].mean(axis=(0, 1))
        for y in range(grid_hw[0])
        for x in range(grid_hw[1])
    ]
    return np.stack(means)
