"""A user's own ``export.py`` and ``bank_tools.py`` in the working directory come in nobody's way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.models import random_weights

ROOT = Path(__file__).parents[2]
HOSTILE = "raise SystemExit('the module of the working directory was imported')\n"
NAMES = ("export", "bank_tools")


@pytest.fixture(params=["modules", "packages"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in NAMES:
        if request.param == "modules":
            (tmp_path / f"{name}.py").write_text(HOSTILE)
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(HOSTILE)
    return tmp_path


def python(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python in the folder, which comes first on its path."""
    environment = {**os.environ, "PYTHONPATH": f".{os.pathsep}{ROOT}"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_commands_do_not_import_them(folder: Path, good_parts: Path) -> None:
    """``python -m`` puts the working directory first, and so does ``PYTHONPATH=.``."""
    save_file(dict(random_weights(seed=9).state), folder / "mine.safetensors")
    arch = ("--arch", "vit_tiny", "--patch", 16, "--input", 64, "--layers", "0-1", "--attention-layer", 1)
    weights = ("--checkpoint", "mine.safetensors")
    made = python("-m", "edge_uad", "export", "custom", *weights, *arch, "--out", "m.onnx", folder=folder)
    assert made.returncode == 0, made.stdout + made.stderr
    bank = ("--model", "m.onnx", "--out", "bank.safetensors", "--false-alarm-rate", 0.05)
    built = python("-m", "edge_uad", "build-bank", good_parts, *bank, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.mark.parametrize("name", NAMES)
def test_one_that_is_imported_already_is_refused_by_its_path(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("")
    program = f"import {name}; from edge_uad.__main__ import main; main()"
    done = python("-c", program, "export", "dinov2_vits14", "--out", "m.onnx", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"edge-uad: a module called {name} is imported already, from {tmp_path}")
    assert done.stderr.endswith("rename that module\n")


def test_the_interpreters_own_finders_still_find_everything_else(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('mine')\n")
    program = (
        "from edge_uad._packages import own_packages as o; o(); o(); import mine, json, export; print(export.__file__)"
    )
    done = python("-c", program, folder=tmp_path)
    assert done.stdout.splitlines() == ["mine", str(ROOT / "export" / "__init__.py")]
