"""Opening and running model files: what a good one gives, and how a bad one is refused."""

import dataclasses
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_uad.errors import MissingExtraError, ModelError, ProviderError, UsageError
from edge_uad.inference.backbones import open_backbone
from edge_uad.inference.backbones.card import CARD_KEY, card_to_json
from edge_uad.inference.backbones.files import read_model_file
from edge_uad.records import ModelCard, Provider
from edge_uad.runtime.artefacts import opened_inside
from edge_uad.runtime.backbones import load_backbone

CARD = ModelCard(
    model_id="",
    backbone="drawn",
    input_hw=(4, 6),
    grid_hw=(2, 3),
    patch_px=2,
    dim=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    layers=(0,),
    attention_layer=0,
    precision="fp32",
    licence="Apache-2.0",
    weights_sha256="0" * 64,
)


def drawn_model(
    path: Path,
    *,
    card: str | None = card_to_json(CARD),
    pool_px: int = 2,
    names: tuple[str, str, str] = ("pixels", "tokens", "attention"),
    batch: str | int = "batch",
    external: bool = False,
) -> Path:
    """A hand-made graph of the right shape: tokens are the patches' mean colours, attention their mean."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    height, width = CARD.input_hw[0] // pool_px, CARD.input_hw[1] // pool_px
    pixels, tokens, attention = names
    nodes = [
        helper.make_node("AveragePool", [pixels], ["pooled"], kernel_shape=[pool_px] * 2, strides=[pool_px] * 2),
        helper.make_node("Reshape", ["pooled", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], [tokens], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", [tokens, "last"], [attention], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "drawn",
        [helper.make_tensor_value_info(pixels, floats, [batch, 3, *CARD.input_hw])],
        [
            helper.make_tensor_value_info(tokens, floats, [batch, height * width, 3]),
            helper.make_tensor_value_info(attention, floats, [batch, height * width]),
        ],
        [
            onnx.numpy_helper.from_array(np.array([0, 3, height * width]), "flat"),
            onnx.numpy_helper.from_array(np.array([-1]), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: card})
    onnx.save(model, path, save_as_external_data=external, size_threshold=0)
    return path


def test_an_embedding_is_the_models_own_outputs(tmp_path: Path) -> None:
    backbone = open_backbone(drawn_model(tmp_path / "m.onnx"))
    pixels = np.arange(3 * 4 * 6, dtype=np.float32).reshape(1, 3, 4, 6)
    (embedding,) = backbone.embed(pixels)
    means = pixels[0].reshape(3, 2, 2, 3, 2).mean(axis=(2, 4)).reshape(3, 6).T
    np.testing.assert_allclose(embedding.tokens, means)
    np.testing.assert_allclose(embedding.attention, means.mean(axis=1))
    assert embedding.tokens.dtype == embedding.attention.dtype == np.float32
    assert embedding.grid_hw == (2, 3)


def test_the_model_id_is_the_files_sha256(tmp_path: Path) -> None:
    path = drawn_model(tmp_path / "m.onnx")
    assert open_backbone(path).card.model_id == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_an_int8_file_of_before_is_refused_with_what_to_do(provider: Provider, tmp_path: Path) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino", reason="the [openvino] extra is not installed")
    path = drawn_model(tmp_path / "m.onnx", card=card_to_json(CARD).replace('"fp32"', '"int8"'))
    with pytest.raises(ModelError) as caught:
        load_backbone(path, provider=provider)
    assert str(caught.value) == (
        f"model {path} is an int8 file, which is no longer run: export it again with --precision fp32, and edge-uad "
        "build-bank certifies int8 itself where the processor has it"
    )


def test_an_embedding_depends_on_its_own_image_alone(tiny_model: Path) -> None:
    backbone = open_backbone(tiny_model, threads=2)
    pixels = np.random.default_rng(0).standard_normal((5, 3, 64, 64), dtype=np.float32)
    together = backbone.embed(pixels)
    for image, embedding in zip(pixels, together, strict=True):
        (alone,) = backbone.embed(image[None])
        np.testing.assert_array_equal(embedding.tokens, alone.tokens)
        np.testing.assert_array_equal(embedding.attention, alone.attention)


def test_the_number_of_threads_changes_nothing(tiny_model: Path) -> None:
    pixels = np.random.default_rng(1).standard_normal((1, 3, 64, 64), dtype=np.float32)
    (one,) = open_backbone(tiny_model, threads=1).embed(pixels)
    (two,) = open_backbone(tiny_model, threads=2).embed(pixels)
    np.testing.assert_array_equal(one.tokens, two.tokens)


def test_the_exported_graph_takes_any_batch(tiny_model: Path) -> None:
    pixels = np.random.default_rng(2).standard_normal((3, 3, 64, 64), dtype=np.float32)
    tokens, attention = ort.InferenceSession(tiny_model).run(["tokens", "attention"], {"pixels": pixels})
    assert (tokens.shape, attention.shape) == ((3, 16, 192), (3, 16))
    for index, embedding in enumerate(open_backbone(tiny_model).embed(pixels)):
        np.testing.assert_allclose(embedding.tokens, tokens[index], atol=1e-5)


def test_tokens_have_unit_norm_and_attention_is_a_share(tiny_model: Path) -> None:
    pixels = np.random.default_rng(3).standard_normal((1, 3, 64, 64), dtype=np.float32)
    (embedding,) = open_backbone(tiny_model).embed(pixels)
    np.testing.assert_allclose(np.linalg.norm(embedding.tokens, axis=1), 1, atol=1e-5)
    assert embedding.attention.min() >= 0
    assert embedding.attention.sum() < 1, "CLS keeps its own share"


def test_no_images_give_no_embeddings(tmp_path: Path) -> None:
    assert open_backbone(drawn_model(tmp_path / "m.onnx")).embed(np.empty((0, 3, 4, 6), np.float32)) == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 3, 6, 4), np.float32),
        np.zeros((1, 1, 4, 6), np.float32),
        np.zeros((3, 4, 6), np.float32),
        np.zeros((1, 3, 4, 6), np.float64),
    ],
)
def test_pixels_of_another_shape_or_type_are_the_callers_mistake(pixels: np.ndarray, tmp_path: Path) -> None:
    backbone = open_backbone(drawn_model(tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match=r"float32 \(B, 3, 4, 6\) expected"):
        backbone.embed(pixels)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_backbone(path)
    told = str(caught.value)
    assert str(path) in told
    assert "\n" not in told
    assert "edge-uad export" in told, "the remedy"
    return told


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.onnx")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    assert "cannot be read" in refusal(tmp_path / "folder.onnx")


@pytest.mark.parametrize("content", [b"", b"\0", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_not_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refusal(path)


def test_a_truncated_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_model.read_bytes()[: tiny_model.stat().st_size // 2])
    refusal(path)


def test_a_byte_that_is_no_text_in_names_or_card_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    content = tiny_model.read_bytes()
    card_at = content.rindex(b"edge_uad_card")
    refused = 0
    for position in range(card_at, len(content), 25):
        damaged = bytearray(content)
        damaged[position] = 0xFF
        path = tmp_path / "damaged.onnx"
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"damaged\.onnx"):
            open_backbone(path)
        refused += 1
    assert refused > 10


def test_a_model_without_a_card_is_refused(tmp_path: Path) -> None:
    assert "carries no card" in refusal(drawn_model(tmp_path / "m.onnx", card=None))


def test_a_model_with_a_broken_card_is_refused(tmp_path: Path) -> None:
    assert "its card is not JSON" in refusal(drawn_model(tmp_path / "m.onnx", card="{"))


def test_a_model_with_its_weights_in_another_file_is_refused(tmp_path: Path) -> None:
    assert "keeps weights in other files" in refusal(drawn_model(tmp_path / "m.onnx", external=True))


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_weights_in_another_file_are_refused_wherever_it_lies(provider: str, tmp_path: Path) -> None:
    """ONNX Runtime would load them by the number of a descriptor, OpenVINO by an absolute path."""
    if provider == "openvino":
        pytest.importorskip("openvino", reason="the [openvino] extra is not installed")
    weights = tmp_path / "weights.bin"
    weights.write_bytes(np.ones(3, np.float32).tobytes())
    with weights.open("rb") as file:
        for place in (str(weights), "weights.bin", str(file.fileno()), f"../../..{weights}"):
            path = tmp_path / "m.onnx"
            model = onnx.load(drawn_model(path))
            tensor = model.graph.initializer.add(name="shift", data_type=onnx.TensorProto.FLOAT, dims=[3])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", place), ("offset", "0"), ("length", "12")):
                tensor.external_data.add(key=key, value=value)
            model.graph.node[-2].output[0] = "unshifted"
            model.graph.node.insert(3, onnx.helper.make_node("Add", ["unshifted", "shift"], ["tokens"]))
            path.write_bytes(model.SerializeToString())
            with pytest.raises(ModelError, match="keeps weights in other files, which its id does not cover"):
                open_backbone(path, provider=provider)


def test_the_bytes_of_the_file_are_not_kept_beside_the_weights(tmp_path: Path) -> None:
    """If ONNX Runtime keeps them elsewhere one day, this names the place to look at."""
    assert open_backbone(drawn_model(tmp_path / "m.onnx"))._session._model_bytes is None


def test_a_file_swapped_between_its_check_and_its_loading_is_not_loaded(tmp_path: Path) -> None:
    path = drawn_model(tmp_path / "m.onnx")
    checked = hashlib.sha256(path.read_bytes()).hexdigest()
    with opened_inside(path, tmp_path) as opened:
        other = card_to_json(dataclasses.replace(CARD, backbone="other"))
        drawn_model(tmp_path / "other.onnx", card=other).replace(path)
        assert load_backbone(path, opened=opened).card.model_id == checked
    assert load_backbone(path).card.backbone == "other"


def test_a_model_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)  # takes a while to read
    started, ended = threading.Event(), threading.Event()

    def write() -> None:
        with path.open("r+b") as file:
            while not ended.is_set():
                os.pwrite(file.fileno(), b"\0", 0)
                os.utime(path, ns=(time.time_ns(), time.time_ns()))  # clocks of file systems are coarse
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert started.wait(10)
        with pytest.raises(ModelError, match="was written to while it was read"):
            read_model_file(path)
    finally:
        ended.set()
        writer.join()


def test_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    refusal(tmp_path / "m.onnx")


def test_inputs_and_outputs_of_other_names_are_refused(tmp_path: Path) -> None:
    told = refusal(drawn_model(tmp_path / "m.onnx", names=("input", "tokens", "attention")))
    assert "input" in told
    assert "pixels" in told


def test_shapes_at_odds_with_the_card_are_refused(tmp_path: Path) -> None:
    assert "float [batch, 6, 3] expected" in refusal(drawn_model(tmp_path / "m.onnx", pool_px=1))


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    assert "float [batch, " in refusal(drawn_model(tmp_path / "m.onnx", batch=1))


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    assert "neither in .onnx nor in .engine" in refusal(tmp_path / "model.pt")


def test_an_unknown_provider_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'gpu' is unknown; name one of cpu, cuda, tensorrt, openvino"):
        open_backbone(drawn_model(tmp_path / "m.onnx"), provider="gpu")


@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_provider_that_is_not_there_is_never_the_cpu(provider: str, name: str, tmp_path: Path) -> None:
    if name in ort.get_available_providers():
        pytest.skip(f"this ONNX Runtime has {name}")
    with pytest.raises(ProviderError) as caught:
        open_backbone(drawn_model(tmp_path / "m.onnx"), provider=provider)
    assert name in str(caught.value)
    assert "'edge-uad[gpu]'" in str(caught.value)


def test_an_engine_without_tensorrt_names_the_extra(tmp_path: Path) -> None:
    try:
        import tensorrt  # noqa: F401, PLC0415  # is it there?
    except ImportError:
        pass
    else:
        pytest.skip("tensorrt is installed")
    with pytest.raises(MissingExtraError, match=r"'edge-uad\[tensorrt\]'"):
        open_backbone(tmp_path / "m.engine")


def test_openvino_that_is_not_there_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # an import of it fails, as where it is not installed
    with pytest.raises(MissingExtraError, match=r"--provider openvino needs .*'edge-uad\[openvino\]'"):
        open_backbone(drawn_model(tmp_path / "m.onnx"), provider="openvino")
