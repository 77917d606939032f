"""``edge-uad certify`` as a station engineer runs it, and a daemon that runs nothing without it."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.conftest import edge_uad

pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")

from edge_uad.cli import app  # as above
from edge_uad.errors import ModelError  # as above
from edge_uad.inference.backbones import open_backbone  # as above
from edge_uad.inference.backbones.certificate import require_certificate  # as above
from edge_uad.runtime.backbones import load_backbone
from tests.models import random_weights  # as above

CUSTOM = ("--arch", "vit_tiny", "--patch", 16, "--input", 64, "--layers", "0-1", "--attention-layer", 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(dict(random_weights(seed=0).state), path)
    return path


def exported(checkpoint: Path, *arguments: object) -> Result:
    """The command in this process, which has onnx loaded already."""
    asked = ["export", "custom", "--checkpoint", checkpoint, *CUSTOM, *arguments]
    done = CliRunner().invoke(app, [str(argument) for argument in asked])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def fp32(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fp32") / "fp32.onnx"
    exported(checkpoint, "--out", out)
    return out


@pytest.fixture(scope="module")
def fp16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fp16") / "fp16.onnx"
    done = exported(checkpoint, "--precision", "fp16", "--out", out)
    assert f"edge-uad certify {out} --against" in " ".join(done.stderr.split())
    return out


def test_fp16_is_one_file_that_describes_itself_and_is_much_smaller(fp16: Path, fp32: Path) -> None:
    card, reference = open_backbone(fp16).card, open_backbone(fp32).card
    assert (card.precision, card.certificate) == ("fp16", None)
    assert (card.weights_sha256, card.layers, card.input_hw) == (
        reference.weights_sha256,
        reference.layers,
        reference.input_hw,
    )
    assert [path.name for path in fp16.parent.iterdir()] == ["fp16.onnx"]
    assert fp16.stat().st_size < 0.6 * fp32.stat().st_size


def test_the_daemon_refuses_a_model_without_a_certificate(fp16: Path, tiny_bank: Path, good_parts: Path) -> None:
    done = edge_uad("serve", "--source", good_parts, "--bank", tiny_bank, "--model", fp16, expect=3)
    told = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert told == [
        f"edge-uad: model {fp16} is fp16 and carries no parity certificate; "
        f"run edge-uad certify {fp16} --against FP32_MODEL --good FOLDER"
    ]


def test_certified_it_runs_where_it_was_certified_and_nowhere_else(
    fp16: Path, fp32: Path, good_parts: Path, scratched_parts: Path, tmp_path: Path
) -> None:
    test, out, bank = tmp_path / "test", tmp_path / "certified.onnx", tmp_path / "bank.safetensors"
    shutil.copytree(good_parts, test / "good")
    shutil.copytree(scratched_parts, test / "scratched")
    done = edge_uad("certify", fp16, "--against", fp32, "--good", good_parts, "--test", test, "--out", out, "--json")

    card = load_backbone(out).card
    assert card.certificate is not None
    told = json.loads(done.stdout)
    assert told["reference_model_id"] == open_backbone(fp32).card.model_id
    assert (told["runtime"], told["n_good"], told["n_test"], told["n_judged"]) == ("cpu", 24, 28, 52)
    assert told["flips"] == card.certificate.flips <= 1
    assert told["auroc_reference"] == 1.0
    assert 0 < told["p99_score_difference"] <= told["largest_score_difference"]
    assert open_backbone(fp16).card.certificate is None, "the file named by MODEL is left alone where --out is given"

    edge_uad("build-bank", good_parts, "--model", out, "--out", bank)
    judged = edge_uad("inspect", scratched_parts, "--model", out, "--bank", bank, "--json").stdout.splitlines()
    assert {json.loads(line)["decision"] for line in judged} == {"anomalous"}
    with pytest.raises(ModelError, match="is fp16 and certified for cpu, openvino is to run it"):
        require_certificate(card, out, provider="openvino")


def test_a_model_that_gives_other_verdicts_gets_no_certificate(
    fp16: Path, fp32: Path, good_parts: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(good_parts.iterdir())[:3]:
        shutil.copy(file, few)
    before = fp16.read_bytes()
    done = edge_uad("certify", fp16, "--against", fp32, "--good", few, expect=3)
    assert "was not certified: 3 images were judged, at least 10 are needed" in done.stderr
    assert fp16.read_bytes() == before
