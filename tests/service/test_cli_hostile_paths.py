"""Every path parameter of every command × whatever a path may be: a documented exit code and one sentence."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_uad.cli.run import exit_code_of
from tests.commands import Inputs, PathParameter, made_inputs, path_parameters, right_call

DOCUMENTED = {0, 1, 2, 3, 4}
NAME_MAX = 255
WORK_FIRST = {"export", "certify"}
"""Commands that work for seconds before they open some of their files."""
OPENED_LATE = {"file", "pipe", "device", "controls", "unknown user"}
"""What they are tried with."""


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> Iterator[Inputs]:
    pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")
    folder = tmp_path_factory.mktemp("inputs")
    with made_inputs(folder, model=tiny_model, bank=tiny_bank, good=good_parts) as inputs:
        yield inputs


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Of a bound socket; a short path, as it must be."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{folder}/socket")
        yield Path(folder, "socket")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder for output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def hostile_paths(folder: Path, suffix: str, bound: Path) -> dict[str, str]:
    """Paths that end in a suffix, by what is wrong with them."""
    garbage = os.urandom(300)
    file, inner = folder / f"a file{suffix}", folder / f"a folder{suffix}"
    circle, dangling, pipe = folder / f"circle{suffix}", folder / f"dangling{suffix}", folder / f"pipe{suffix}"
    not_utf8 = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe" + suffix.encode()))
    controls = folder / f"\x1b[31m\r\nINFO forged\x07{suffix}"
    reading_fails, endless = folder / f"reading fails{suffix}", folder / f"endless{suffix}"
    for path in (file, not_utf8, controls):
        path.write_bytes(garbage)
    inner.mkdir()
    circle.symlink_to(circle)
    dangling.symlink_to(folder / "nothing")
    os.mkfifo(pipe)
    reading_fails.symlink_to("/proc/self/mem")
    endless.symlink_to("/dev/zero")
    return {
        "missing": str(folder / f"nothing{suffix}"),
        "folder missing": str(folder / "nowhere" / f"deeper{suffix}"),
        "file": str(file),
        "folder": str(inner),
        "below a file": str(file / f"deeper{suffix}"),
        "name too long": str(folder / ("n" * NAME_MAX + suffix)),
        "path too long": str(folder) + "/n" * 4096 + suffix,
        "circle": str(circle),
        "dangling": str(dangling),
        "pipe": str(pipe),
        "device": str(endless),
        "socket": str(bound),
        "reading fails": str(reading_fails),
        "not UTF-8": str(not_utf8),
        "controls": str(controls),
        "unknown user": f"~no-such-user/x{suffix}",
        "only a tilde": "~no-such-user",
        "option-like": "-",
        "no pattern": str(folder / "[z-a]*"),
    }


@pytest.mark.usefixtures("log_as_before")
@pytest.mark.parametrize("parameter", path_parameters(), ids=str)
def test_any_path_ends_in_a_documented_code_and_a_sentence(
    parameter: PathParameter,
    inputs: Inputs,
    work: Path,
    socket_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = []
    for kind, path in hostile_paths(work, parameter.suffix, socket_path).items():
        if parameter.command in WORK_FIRST and kind not in OPENED_LATE:
            continue
        call = parameter.given(right_call(parameter.command, inputs, work / "out"), path)
        code = exit_code_of(call)
        out, err = capsys.readouterr()
        faults += [f"{kind}: {fault}" for fault in faults_of(code, out, err)]
    assert not faults, "\n".join(faults)
    assert not (work / "~no-such-user").exists()


def faults_of(code: int, out: str, err: str) -> Iterator[str]:
    """What is wrong with the end of a command."""
    lines = err.splitlines()
    if code not in DOCUMENTED:
        yield f"exit code {code}"
    if "Traceback" in out + err or "fault of its own" in err:
        yield err
    if code and not (lines and lines[-1].startswith("edge-uad: ")):
        yield f"exit code {code} without a sentence at the end: {err!r}"
    if odd := [line for line in (*lines, *out.splitlines()) if not line.isprintable()]:
        yield f"control characters: {odd!r}"
