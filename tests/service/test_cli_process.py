"""The command line as a process: its streams, its signals, its user and its locale."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EDGE_UAD = (sys.executable, "-m", "edge_uad")


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [os.fsencode(argument if isinstance(argument, bytes) else str(argument)) for argument in arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | options
    return subprocess.run([*map(os.fsencode, EDGE_UAD), *command], check=False, **options)


def sentence(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line on stderr."""
    text = done.stderr.decode()
    assert "Traceback" not in text
    return text.splitlines()[-1]


@pytest.fixture
def inspect(tiny_bank: Path, tiny_model: Path) -> tuple[object, ...]:
    """Arguments that judge images; they follow."""
    return ("inspect", "--bank", tiny_bank, "--model", tiny_model, "--threads", 1)


# --- streams


def test_a_full_standard_output_is_one_sentence(inspect: tuple[object, ...], good_parts: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        for arguments in (("--version",), ("--help",), (*inspect, good_parts), (*inspect, good_parts, "--json")):
            done = run(*arguments, stdout=full)
            assert done.returncode == 1
            assert sentence(done).startswith("edge-uad: standard output cannot be written: No space left on device")


def test_a_reader_that_has_gone_ends_the_command_without_a_word(inspect: tuple[object, ...], good_parts: Path) -> None:
    for arguments in (("--help",), (*inspect, good_parts, "--json")):
        reading, writing = os.pipe()
        os.close(reading)
        done = run(*arguments, stdout=writing)
        os.close(writing)
        assert done.returncode == 141
        assert b"edge-uad: " not in done.stderr
        assert b"Broken pipe" not in done.stderr


def test_closed_streams_are_no_files_of_the_program(tmp_path: Path) -> None:
    done = run("keys", tmp_path, preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert sentence(done).startswith("edge-uad: standard output cannot be written: Bad file descriptor")
    assert {path.name for path in tmp_path.iterdir()} == {"line.key", "line.key_secret"}
    assert all(os.fsencode(tmp_path) not in path.read_bytes() for path in tmp_path.iterdir())

    done = run("keys", tmp_path / "more", preexec_fn=lambda: [os.close(descriptor) for descriptor in (0, 2)])
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2


def test_messages_that_cannot_be_written_change_no_exit_code(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        assert run("keys", tmp_path, stderr=full).returncode == 0
        assert run("keys", tmp_path, stderr=full).returncode == 2


# --- names


def test_a_terminal_that_lacks_a_names_characters_shows_escapes(
    inspect: tuple[object, ...], good_parts: Path, tmp_path: Path
) -> None:
    names = ["größe–µm.png".encode(), b"not-utf8-\xff.png", b"controls-\x1b[2J\n.png"]
    for name in names:
        shutil.copy(good_parts / "0.png", os.fsencode(tmp_path) + b"/" + name)
    environ = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run(*inspect, tmp_path, env=environ)
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert len(done.stdout.splitlines()) == 3
    assert all(line.decode().isprintable() for line in done.stdout.splitlines())
    assert b"gr\\xf6\\xdfe\\u2013\\xb5m.png" in done.stdout

    done = run(*inspect, tmp_path, "--json", env=environ)
    parts = [json.loads(line)["part_id"] for line in done.stdout.splitlines()]
    assert str(tmp_path / "größe–µm.png") in parts
    assert str(tmp_path / "controls-\x1b[2J\n.png") in parts

    done = run(*inspect, b"/nowhere/\xff\x1b", env=environ)
    assert done.returncode == 2
    assert sentence(done) == "edge-uad: /nowhere/\\xff\\x1b: there is no such file or folder; check the path"


# --- users


def test_a_user_without_a_home_is_told_what_to_set(good_parts: Path, tiny_bank: Path, tmp_path: Path) -> None:
    alone = ("unshare", "--user", "--map-user=54321")
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine permits no user namespace")
    environ = {name: value for name, value in os.environ.items() if name not in {"HOME", "EDGE_UAD_CACHE"}}
    environ = {name: value for name, value in environ.items() if not name.startswith("XDG_")}

    def run_alone(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [*alone, *EDGE_UAD, *map(str, arguments)]
        return subprocess.run(command, check=False, capture_output=True, env=environ, cwd=tmp_path, timeout=120)

    done = run_alone("inspect", good_parts, "--bank", tiny_bank)
    assert done.returncode == 2
    assert sentence(done) == "edge-uad: user id 54321 has no home folder for a cache; set EDGE_UAD_CACHE to a folder"
    assert sentence(run_alone("inspect", "~/parts", "--bank", tiny_bank)) == (
        "edge-uad: ~/parts: the home folder ~ is not known on this machine; write the folder's full path"
    )
    assert run_alone("keys", "made").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"made"}


def test_places_without_permission_are_one_sentence_each(
    good_parts: Path, tiny_bank: Path, tiny_model: Path, tmp_path: Path
) -> None:
    prefix = []
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("the superuser may read everything, and setpriv is not installed")
        rights = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    closed, file, readonly = tmp_path / "closed", tmp_path / "file", tmp_path / "readonly"
    shutil.copytree(good_parts, closed)
    file.write_bytes(b"x")
    readonly.mkdir()
    for path in (closed, file):
        path.chmod(0)
    readonly.chmod(0o500)
    judging = ["--bank", tiny_bank, "--model", tiny_model]
    calls: list[list[object]] = [
        ["inspect", closed / "0.png", *judging],
        ["inspect", good_parts, "--bank", file, "--model", tiny_model],
        ["inspect", good_parts, "--bank", closed / "bank", "--model", tiny_model],
        ["inspect", good_parts, *judging, "--heatmaps", readonly / "heat"],
        ["build-bank", good_parts, "--model", tiny_model, "--out", readonly / "bank"],
        ["serve", "--config", file],
        ["serve", "--source", good_parts, "--bank", closed / "bank", "--model", tiny_model],
        ["keys", readonly / "keys"],
        ["keys", closed / "keys"],
    ]
    program = (
        "import json, sys\nfrom edge_uad.cli.run import exit_code_of\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    print(exit_code_of(call), flush=True)\n    print('--', file=sys.stderr, flush=True)"
    )
    command = [*prefix, sys.executable, "-c", program, json.dumps(calls, default=str)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    for path in (closed, file, readonly):
        path.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "fault of its own" not in done.stderr
    codes = [line for line in done.stdout.splitlines() if re.fullmatch(r"\d+", line)]
    assert set(codes) <= {"2", "3"}, done.stderr
    sentences = [part.strip().splitlines()[-1] for part in done.stderr.split("--\n") if part.strip()]
    assert len(sentences) == len(calls)
    for call, text in zip(calls, sentences, strict=True):
        assert text.startswith("edge-uad: "), call
        assert str(tmp_path) in text, call


# --- Ctrl-C


@pytest.mark.parametrize("first_of", ["typer", "rich", "edge_uad.cli", "numpy", "onnxruntime"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(
    first_of: str, inspect: tuple[object, ...], good_parts: Path
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "edge_uad", *map(str, inspect), str(good_parts)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr as lines:
        next(line for line in lines if line.rsplit("|", 1)[-1].strip().startswith(first_of))
        process.send_signal(signal.SIGINT)
        rest = [line for line in lines if not line.startswith("import time:")]
    assert process.wait(60) == 130
    assert rest == []


def test_ctrl_c_while_it_works_is_no_traceback(
    tiny_bank: Path, tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    for index in range(400):
        (tmp_path / f"{index}.png").symlink_to(good_parts / "0.png")
    command = [*EDGE_UAD, "inspect", tmp_path, "--bank", tiny_bank, "--model", tiny_model]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
