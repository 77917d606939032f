"""The public Python API: what docs/python.md shows runs, and an Inspector judges as the command line does."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_uad
from edge_uad import Decision, Inspector, build_bank, open_bank, part_ok
from edge_uad.api import BankRecipe
from edge_uad.cli.options import RecipeOptions
from edge_uad.errors import BankError, EdgeUadError, FrameError, ModelError, UsageError
from edge_uad.inference.scoring import calibration_images_needed
from edge_uad.runtime.cache import default_model_path
from tests.conftest import edge_uad as command
from tests.processes import Running

DOCUMENT = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
HEAVY = {"numpy", "zmq", "pydantic", "onnxruntime", "cv2", "PIL", "msgpack", "faiss"}


@pytest.fixture(scope="module")
def inspector(tiny_model: Path, tiny_bank: Path) -> Iterator[Inspector]:
    with Inspector.open(tiny_bank, model=str(tiny_model), threads=1) as inspector:
        yield inspector


def rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, edge_uad; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in edge_uad.__all__:
        assert getattr(edge_uad, name) is not None
        assert name in dir(edge_uad)
        assert name == "__version__" or re.search(rf"\b{name}\b", DOCUMENT), name
    with pytest.raises(AttributeError, match="has no attribute 'Judge'"):
        _ = edge_uad.Judge


def test_all_of_it_can_be_imported_at_once() -> None:
    program = "from edge_uad import *; print(Inspector.open, part_ok(None))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_a_type_checker_knows_the_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from edge_uad import Inspector, Subscriber, build_bank\n"
        "reveal_type(Inspector.open('b').inspect('a').score)\n"
        "reveal_type(next(Subscriber()).decision)\n"
        "build_bank('normals', seeds=3)\n"
    )
    config = Path(__file__).parents[2] / "pyproject.toml"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", tmp_path, program],
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout
    assert re.search(r'program.py:2: note: Revealed type is "(builtins\.)?float \| None"', told), told
    assert re.search(r'program.py:3: note: Revealed type is "edge_uad.records.Decision"', told), told
    assert 'Unexpected keyword argument "seeds"' in told


def test_a_file_is_judged_as_the_command_line_does(
    inspector: Inspector, tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> None:
    files = [*sorted(good_parts.iterdir())[:3], *sorted(scratched_parts.iterdir())]
    done = command("inspect", *files, "--bank", tiny_bank, "--model", tiny_model, "--json", "--threads", 1)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    verdicts = [inspector.inspect(file) for file in files]
    assert [(one.decision, one.score, one.peak, one.p_value) for one in verdicts] == [
        (line["decision"], line["score"], tuple(line["peak"]), line["p_value"]) for line in lines
    ]
    assert {part_ok(one) for one in verdicts} == {True, False}
    assert all(one.heatmap is not None and one.heatmap.dtype == np.float32 for one in verdicts)
    assert [one.part_id for one in verdicts] == list(map(str, files))
    ids = [one.frame_id for one in verdicts]
    assert ids == list(range(ids[0], ids[0] + len(files)))


def test_an_array_is_judged_as_its_file(inspector: Inspector, good_parts: Path) -> None:
    file = good_parts / "0.png"
    from_file, from_array = inspector.inspect(str(file)), inspector.inspect(rgb(file), part_id="SN-1")
    assert from_array.score == from_file.score
    assert from_array.part_id == "SN-1"
    not_contiguous = np.asfortranarray(rgb(file))
    assert inspector.inspect(not_contiguous).score == from_file.score


def test_grey_is_three_equal_channels(inspector: Inspector, good_parts: Path) -> None:
    grey = rgb(good_parts / "0.png")[:, :, 1].copy()
    assert inspector.inspect(grey).score == inspector.inspect(np.stack([grey] * 3, axis=2)).score


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((9, 9, 4), np.uint8), r"shape is \(9, 9, 4\); give \(H, W, 3\)"),
        (np.zeros((9, 9, 1), np.uint8), r"shape is \(9, 9, 1\)"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"shape is \(2, 9, 9, 3\)"),
        (np.zeros(9, np.uint8), r"shape is \(9,\)"),
        (np.zeros((0, 9, 3), np.uint8), r"shape is \(0, 9, 3\)"),
        (np.zeros((9, 9, 3), np.float32), "dtype is float32; give uint8"),
    ],
)
def test_an_array_that_is_no_picture_is_an_error(inspector: Inspector, image: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        inspector.inspect(image)
    with pytest.raises(TypeError, match="an array or a path, not list"):
        inspector.inspect(image.tolist())


def test_a_file_that_cannot_be_read_is_invalid(inspector: Inspector, good_parts: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((good_parts / "0.png").read_bytes()[:200])
    for file, told in ((torn, "damaged"), (tmp_path / "none.png", "no such file"), (tmp_path, "not a regular file")):
        verdict = inspector.inspect(file)
        assert verdict.decision is Decision.INVALID
        assert told in str(verdict.reason)
        assert not part_ok(verdict)
        with pytest.raises(FrameError, match=told):
            inspector.overlay(file, verdict)


def test_heat_is_drawn_over_the_image(inspector: Inspector, scratched_parts: Path) -> None:
    file = next(scratched_parts.iterdir())
    verdict = inspector.inspect(file)
    drawn = inspector.overlay(file, verdict)
    assert drawn.shape == rgb(file).shape
    assert np.array_equal(drawn, inspector.overlay(rgb(file), verdict))
    assert not np.array_equal(drawn, rgb(file))
    assert max(inspector.overlay(file, verdict, longest_side_px=20).shape) == 20


def test_a_closed_inspector_says_so(tiny_model: Path, tiny_bank: Path, good_parts: Path) -> None:
    with Inspector.open(tiny_bank, model=tiny_model) as inspector:
        assert inspector.threshold == open_bank(tiny_bank).threshold
    with pytest.raises(ValueError, match="closed"):
        inspector.inspect(good_parts / "0.png")


def test_a_missing_bank_or_model_is_an_error_with_the_remedy(
    tiny_bank: Path, other_tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_UAD_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"the default backbone .* is not at .*; run edge-uad build-bank"):
        Inspector.open(tiny_bank)
    with pytest.raises(ModelError, match="was built with model"):
        Inspector.open(tiny_bank, model=other_tiny_model)
    with pytest.raises(BankError, match="there is no bank at"):
        open_bank(tmp_path / "none.safetensors")


def test_a_bank_built_here_is_the_command_lines(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path: Path
) -> None:
    theirs = open_bank(tiny_bank)
    files = sorted(good_parts.iterdir(), key=lambda file: int(file.stem))
    for images in (str(good_parts), files, (rgb(file) for file in files)):
        out = tmp_path / "bank.safetensors"
        ours = build_bank(images, out=out, model=tiny_model, false_alarm_rate=0.05)
        assert open_bank(out) == ours
        assert (ours.source_digest, ours.threshold, ours.n_patches) == (
            theirs.source_digest,
            theirs.threshold,
            theirs.n_patches,
        )


def test_a_bank_counts_and_logs_what_it_skips(
    tiny_model: Path, good_parts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"no picture")
    images = [*sorted(good_parts.iterdir())[:5], torn]
    manifest = build_bank(images, out=tmp_path / "b.safetensors", model=tiny_model, roi=(0, 0, 32, 32), seed=3)
    assert (manifest.n_images, manifest.n_unreadable, manifest.roi, manifest.seed) == (5, 1, (0, 0, 32, 32), 3)
    assert f"{torn} was skipped: this is not an image" in caplog.text
    needed = calibration_images_needed(0.01)
    assert f"5 images are too few for a false-alarm rate of 0.01: {needed} are needed" in caplog.text


def test_a_bank_of_nothing_or_of_nonsense_is_an_error(tiny_model: Path, good_parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    with pytest.raises(UsageError, match="no such file or folder"):
        build_bank(tmp_path / "none", out=out, model=tiny_model)
    with pytest.raises(UsageError, match="0 usable images"):
        build_bank([], out=out, model=tiny_model)
    with pytest.raises(UsageError, match="coreset ratio"):
        build_bank(good_parts, out=out, model=tiny_model, coreset_ratio=2.0)
    wrong: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"seed": -1}, UsageError, "the seed is -1; use a whole number of at least 0"),
        ({"neighbours": 1.5}, UsageError, "number of neighbours is 1.5"),
        ({"max_patches": 2.5}, UsageError, "largest number of patches is 2.5"),
        ({"levels": 2}, UsageError, "the model's patches have one level"),
        ({"roi": (-5, 0, 32, 32)}, UsageError, r"region of interest is \(-5, 0, 32, 32\)"),
        ({"roi": (0, 0, 32)}, UsageError, r"region of interest is \(0, 0, 32\)"),
        ({"tiling": (2, 2)}, TypeError, r"the tiling is \(2, 2\); give an edge_uad.Tiling"),
        ({"geometry": "papr"}, ValueError, "papr"),
    ]
    for recipe, error, text in wrong:
        with pytest.raises(error, match=text):
            build_bank(good_parts, out=out, model=tiny_model, **recipe)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="coreset_ration"):
        build_bank(good_parts, out=out, model=tiny_model, coreset_ration=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="one array was given"):
        build_bank(np.zeros((9, 9, 3), np.uint8), out=out, model=tiny_model)
    assert not out.exists()
    assert issubclass(UsageError, EdgeUadError)


def test_numbers_of_numpy_are_numbers(tmp_path: Path, tiny_model: Path, good_parts: Path) -> None:
    one, roi = np.int64(1), np.array([0, 0, 100, 100])
    manifest = build_bank(
        good_parts,
        out=tmp_path / "b.safetensors",
        model=tiny_model,
        roi=roi,  # type: ignore[arg-type]
        seed=one,  # type: ignore[arg-type]
        neighbours=one,  # type: ignore[arg-type]
        top_ratio=np.float32(0.5),  # type: ignore[arg-type]
    )
    assert open_bank(tmp_path / "b.safetensors") == manifest
    assert (manifest.roi, manifest.seed, manifest.top_ratio) == ((0, 0, 100, 100), 1, 0.5)


def test_every_option_of_a_recipe_has_its_name_in_python() -> None:
    """Its name in the manifest; the tiles and their overlap are one tiling."""
    renamed = {"coreset": "coreset_ratio", "tiles": "tiling", "tile_overlap": "tiling"}
    options = {renamed.get(field.name, field.name) for field in fields(RecipeOptions)}
    assert options == set(BankRecipe.__annotations__) - {"reduced_decode", "index"}
    for name in BankRecipe.__annotations__:
        assert f"`{name}`" in DOCUMENT


def test_what_the_document_shows_runs(tmp_path: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path) -> None:
    """With a real daemon; the address alone is another one."""
    shutil.copytree(good_parts, tmp_path / "normals")
    shutil.copy(good_parts / "3.png", tmp_path / "part.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    examples = [example.replace("tcp://127.0.0.1:5570", endpoint) for example in EXAMPLES]
    [listening] = [example for example in examples if "while True" in example]
    others = [example for example in examples if example is not listening]
    assert len(others) >= 5
    command("keys", tmp_path, "--name", "line")
    command("keys", tmp_path, "--name", "plc")
    (tmp_path / "all.py").write_text("from edge_uad import Subscriber\n" + "\n".join(others))
    environ = _environ(tmp_path / "cache", tiny_model)
    done = subprocess.run(
        [sys.executable, "all.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^24 good parts, threshold 0\.\d+\nnormal 0\.\d+ \(\d+, \d+\) \(64, 64\)\n$", done.stdout)
    assert rgb(tmp_path / "part-heat.png").shape == rgb(tmp_path / "part.png").shape

    (tmp_path / "listen.py").write_text(listening)
    options = ["--bank", tiny_bank, "--model", tiny_model, "--publish", endpoint, "--threads", 1]
    with Running(tmp_path / "listen.py") as listener:
        listener.wait_for(f"REJECT no heartbeat from {endpoint} for 3 s")
        with Running.edge_uad("serve", "--source", f"ipc://{tmp_path}/in", *options) as daemon:
            daemon.wait_for(" ready")
            with Running.edge_uad("watch", endpoint, "--json", "--count", 24, "--timeout", 60) as watch:
                watch.wait_for('"state": "running"')
                command("send", tmp_path / "normals", "--to", f"ipc://{tmp_path}/in")
                watch.ends(code=0)
            listener.wait_for("pass line 23.png")
            daemon.signal(signal.SIGKILL)
        listener.wait_for(r"REJECT no heartbeat .* \(line was last running\)")
    assert [line for line in listener.out if line.startswith("pass")] == [f"pass line {n}.png" for n in range(24)]


def _environ(cache: Path, model: Path) -> dict[str, str]:
    """The tiny model in the place of the default one."""
    environ = os.environ | {"EDGE_UAD_CACHE": str(cache)}
    place = cache / default_model_path().relative_to(default_model_path().parents[1])
    place.parent.mkdir(parents=True)
    shutil.copy(model, place)
    return environ
