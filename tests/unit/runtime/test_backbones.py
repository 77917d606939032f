"""In which precision a bank is judged: what it is certified for, what the machine can do, and what is wanted."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_uad.errors import ModelError, UsageError
from edge_uad.inference.backbones import open_backbone, processor
from edge_uad.records import BankManifest, CertifiedPrecision
from edge_uad.runtime.backbones import Backbones, choose_precision
from tests.banks import certified, random_bank

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the [openvino] extra is not installed"
)


INT8, BF16 = certified("int8", "int8_dot", "bf16"), certified("bf16", "bf16")


def manifest_with(*precisions: CertifiedPrecision) -> BankManifest:
    return random_bank(precisions=precisions).manifest


@pytest.fixture(autouse=True)
def flags(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the processor says of itself; tests change it."""
    found = {"flags": "avx512_vnni avx512_bf16"}
    monkeypatch.delenv(processor.HIDDEN_VARIABLE, raising=False)
    monkeypatch.setattr(processor, "cpu_info", lambda: found)
    return found


@needs_openvino
def test_the_first_that_the_bank_is_certified_for_is_taken() -> None:
    assert choose_precision(manifest_with(INT8, BF16), "auto", "cpu").precision == "int8"
    assert choose_precision(manifest_with(BF16, INT8), "auto", "openvino").precision == "bf16"
    assert choose_precision(manifest_with(INT8, BF16), "bf16", "cpu").precision == "bf16"


@needs_openvino
def test_a_lesser_processor_judges_in_fp32_and_says_why(flags: dict[str, str]) -> None:
    flags["flags"] = "avx2"
    chosen = choose_precision(manifest_with(INT8, BF16), "auto", "cpu")
    assert (chosen.precision, chosen.reason) == (
        "fp32",
        "this processor has no int8_dot and no bf16, which int8 needs",
    )
    with pytest.raises(ModelError, match="this processor has no bf16, which bf16 needs; use --precision auto or fp32"):
        choose_precision(manifest_with(INT8, BF16), "bf16", "cpu")


@needs_openvino
def test_one_that_the_processor_lacks_is_passed_over_for_the_next(flags: dict[str, str]) -> None:
    flags["flags"] = "avx512_bf16"
    assert choose_precision(manifest_with(INT8, BF16), "auto", "cpu").precision == "bf16"


@needs_openvino
def test_a_certificate_beyond_tolerance_counts_for_nothing() -> None:
    chosen = choose_precision(manifest_with(certified("int8", "int8_dot", flips=50)), "auto", "cpu")
    assert chosen.precision == "fp32"
    assert "50 of 100 verdicts differ from fp32" in str(chosen.reason)


def test_without_certificates_there_is_fp32_and_nothing_to_explain() -> None:
    chosen = choose_precision(manifest_with(), "auto", "cpu")
    assert (chosen.precision, chosen.reason) == ("fp32", None)
    with pytest.raises(ModelError, match="is not certified for int8; rerun edge-uad build-bank"):
        choose_precision(manifest_with(BF16), "int8", "cpu")


def test_fp32_can_always_be_wanted_and_a_gpu_has_its_own_precisions() -> None:
    assert choose_precision(manifest_with(INT8), "fp32", "cpu").precision == "fp32"
    assert choose_precision(manifest_with(INT8), "auto", "cuda").precision == "fp32"
    with pytest.raises(UsageError, match="--precision int8 is for the processor, the provider is cuda"):
        choose_precision(manifest_with(INT8), "int8", "cuda")


def test_a_model_is_opened_once_and_must_stay_the_same_file(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the [openvino] extra is not installed")
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_model.read_bytes())
    backbones = Backbones(path, threads=1, precision="auto")
    first = backbones.in_fp32()
    assert backbones.in_fp32() is first
    assert backbones.for_bank(manifest_with()).backbone is first


def test_a_model_that_is_replaced_before_a_second_precision_is_refused(
    tiny_model: Path, other_tiny_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="the [openvino] extra is not installed")
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_model.read_bytes())
    backbones = Backbones(path, threads=1)
    manifest = dataclasses.replace(manifest_with(BF16), model_id=backbones.in_fp32().card.model_id)
    path.write_bytes(other_tiny_model.read_bytes())
    with pytest.raises(ModelError, match=r"was replaced while it was in use; start again"):
        backbones.for_bank(manifest)


@needs_openvino
def test_no_precision_is_opened_for_a_bank_of_another_model(tiny_model: Path) -> None:
    backbones = Backbones(tiny_model, threads=1)
    first = backbones.in_fp32()
    found = backbones.for_bank(manifest_with(BF16))
    assert (found.backbone, found.precision) == (first, "fp32")


@needs_openvino
def test_below_fp32_several_images_give_the_bits_of_each_alone(tiny_model: Path) -> None:
    batched = Backbones(tiny_model, threads=2, batched=True).for_bank(manifest_with(BF16))
    assert batched.precision == "bf16"
    pixels = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    alone = open_backbone(tiny_model, precision="bf16", threads=2)
    for image, embedding in zip(pixels, batched.backbone.embed(pixels), strict=True):
        np.testing.assert_array_equal(embedding.tokens, alone.embed(image[None])[0].tokens)


def test_an_openvino_that_cannot_be_imported_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('a library is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    chosen = choose_precision(manifest_with(INT8), "auto", "cpu")
    assert (chosen.precision, chosen.reason) == (
        "fp32",
        "this installation has no OpenVINO (pip install 'edge-uad[openvino]'), which int8 needs",
    )
