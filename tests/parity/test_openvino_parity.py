"""OpenVINO computes what ONNX Runtime computes, from the same file."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

pytest.importorskip("openvino", reason="the [openvino] extra is not installed")

from edge_uad.errors import ModelError  # as above
from edge_uad.inference.backbones import open_backbone  # as above
from edge_uad.inference.backbones.openvino import features_needed, rounded  # as above
from edge_uad.interfaces import Backbone  # as above
from edge_uad.records import Frame, InferencePrecision  # as above
from edge_uad.runtime.assemble import load_inspector  # after the skip
from edge_uad.runtime.backbones import load_backbone
from edge_uad.sources.decode import read_image  # as above
from export.request import ExportRequest  # as above
from export.to_onnx import export_onnx  # as above
from tests.models import random_weights  # as above
from tests.unit.inference.test_backbones import drawn_model  # as above

pytestmark = pytest.mark.usefixtures("every_feature")


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Backbone:
    return open_backbone(tiny_model, provider="openvino", threads=2)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((n, 3, 64, 64), dtype=np.float32)


def drawn_request(precision: Literal["fp32", "fp16"]) -> ExportRequest:
    return ExportRequest(
        backbone="drawn",
        input_hw=(64, 64),
        layers=(0, 1),
        attention_layer=2,
        licence="none",
        weights_sha256="0" * 64,
        precision=precision,
    )


def test_tokens_and_attention_are_those_of_onnx_runtime(tiny: Backbone, tiny_model: Path) -> None:
    reference = open_backbone(tiny_model)
    assert tiny.card == reference.card
    for ours, theirs in zip(tiny.embed(noise(3)), reference.embed(noise(3)), strict=True):
        assert ours.tokens.dtype == ours.attention.dtype == np.float32
        np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=1e-5)
        np.testing.assert_allclose(ours.attention, theirs.attention, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_so_are_those_of_dinov3(precision: Literal["fp32", "fp16"], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(random_weights(layer_scale=True, registers=4, pos_grid=0, gated=True), drawn_request(precision), path)
    (ours,) = open_backbone(path, provider="openvino", threads=2).embed(noise(1))
    (theirs,) = open_backbone(path).embed(noise(1))
    atol = 1e-5 if precision == "fp32" else 2e-3
    np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=atol)
    np.testing.assert_allclose(ours.attention, theirs.attention, atol=atol)


def test_an_embedding_depends_on_its_own_image_alone_and_is_repeated_to_the_bit(tiny: Backbone) -> None:
    pixels = noise(4)
    together = tiny.embed(pixels)
    for image, embedding in zip(pixels[::-1], together[::-1], strict=True):
        (alone,) = tiny.embed(image[None])
        np.testing.assert_array_equal(embedding.tokens, alone.tokens)
        np.testing.assert_array_equal(embedding.attention, alone.attention)


def test_a_batch_in_one_run_agrees_with_its_images_alone(tiny: Backbone, tiny_model: Path) -> None:
    batched = open_backbone(tiny_model, provider="openvino", threads=2, batched=True)
    for ours, theirs in zip(batched.embed(noise(3)), tiny.embed(noise(3)), strict=True):
        np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=1e-5)


def test_no_images_give_no_embeddings_and_other_shapes_are_the_callers_mistake(tiny: Backbone) -> None:
    assert tiny.embed(np.empty((0, 3, 64, 64), np.float32)) == []
    with pytest.raises(ValueError, match=r"float32 \(B, 3, 64, 64\) expected"):
        tiny.embed(np.zeros((1, 3, 32, 32), np.float32))


def test_a_bank_built_with_onnx_runtime_gives_the_same_verdicts(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> None:
    inspectors = [
        load_inspector(load_backbone(tiny_model, provider=provider), tiny_bank) for provider in ("cpu", "openvino")
    ]
    files = [*sorted(good_parts.iterdir())[:4], *scratched_parts.iterdir()]
    for index, file in enumerate(files):
        frame = Frame(
            station="s", frame_id=index, captured_at_ns=0, captured_mono_ns=0, image=read_image(file), part_id=file.name
        )
        ours, theirs = (inspector.inspect(frame) for inspector in inspectors)
        assert ours.decision == theirs.decision
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        open_backbone(path, provider="openvino")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_model_of_ours_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert "No such file" in refusal(path)
    path.write_bytes(b"not a model")
    assert "it is damaged" in refusal(path)
    path.write_bytes(tiny_model.read_bytes()[:1000])
    assert "it is damaged" in refusal(path)
    assert "carries no card" in refusal(drawn_model(path, card=None))
    assert "its card is not JSON" in refusal(drawn_model(path, card="{"))
    assert "float [batch, 6, 3] expected" in refusal(drawn_model(path, pool_px=1))
    assert "float [batch, " in refusal(drawn_model(path, batch=1))


@pytest.mark.parametrize(("precision", "atol"), [("bf16", 0.03), ("int8", 0.06)])
def test_a_lower_precision_lies_near_fp32_and_is_not_fp32(
    precision: InferencePrecision, atol: float, tiny: Backbone, tiny_model: Path
) -> None:
    if not features_needed("int8" if precision == "int8" else "bf16"):
        pytest.skip(f"this processor has nothing for {precision}")
    lowered = open_backbone(tiny_model, precision=precision, threads=2)
    assert lowered.card == tiny.card
    for ours, theirs in zip(lowered.embed(noise(3)), tiny.embed(noise(3)), strict=True):
        np.testing.assert_allclose(ours.tokens, theirs.tokens, atol=atol)
        assert np.abs(ours.tokens - theirs.tokens).max() > 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_several_threads_at_once_get_the_bits_of_one(precision: InferencePrecision, tiny_model: Path) -> None:
    images = noise(12)
    alone = open_backbone(tiny_model, provider="openvino", precision=precision, threads=1)
    shared = open_backbone(tiny_model, provider="openvino", precision=precision, threads=1, at_once=3)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: shared.embed(image[None])[0], images))
    for image, ours in zip(images, found, strict=True):
        (theirs,) = alone.embed(image[None])
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_array_equal(ours.attention, theirs.attention)


ALONE = """
import os, sys
from pathlib import Path
import numpy as np
from edge_uad.inference.backbones import open_backbone

allowed = os.sched_getaffinity(0)
backbone = open_backbone(Path(sys.argv[1]), precision="bf16", threads=len(allowed))
backbone.embed(np.zeros((1, 3, 64, 64), np.float32))
print([task for task in os.listdir("/proc/self/task") if os.sched_getaffinity(int(task)) != allowed])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux alone")
def test_no_thread_is_bound_to_a_core(tiny_model: Path) -> None:
    """Those of every other process would be bound to the same first cores."""
    done = subprocess.run([sys.executable, "-c", ALONE, tiny_model], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 8)),
        elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
    )
)
def test_rounded_weights_lie_within_half_a_scale(weights: np.ndarray) -> None:
    whole, scale = rounded(weights)
    assert whole.dtype == np.int8
    assert (scale > 0).all()
    assert (np.abs(weights - whole * scale) <= 0.5001 * scale).all()


def test_only_an_fp32_model_is_run_in_a_lower_precision(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(random_weights(), drawn_request("fp16"), path)
    with pytest.raises(ModelError, match="is fp16 itself; only an fp32 one can be run in bf16"):
        open_backbone(path, precision="bf16")
