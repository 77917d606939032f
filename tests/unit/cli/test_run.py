"""Exit codes and sentences, the arguments' laws, and what the command line may load before it is asked for work."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
from pydantic import BaseModel

from edge_uad.cli.run import _sentence_of, exit_code_of
from edge_uad.errors import BankError, FrameError, SettingsError, UsageError
from edge_uad.runtime.settings import Settings, make_settings
from tests.commands import PathParameter, leaves, path_parameters, types_in

pytestmark = pytest.mark.usefixtures("log_as_before")
ROOT = Path(__file__).parents[3]
OPENED_LATE = {"certify --test", "tune --rejects"}
"""Sources given as text that other files are read before: tests/service/test_cli_hostile_paths.py tries them."""
HEAVY = (
    "numpy",
    "onnxruntime",
    "av",
    "cv2",
    "PIL",
    "pydantic",
    "yaml",
    "faiss",
    "torch",
    "openvino",
    "sklearn",
    "scipy",
)


def test_the_command_line_loads_nothing_heavy_before_it_knows_the_command() -> None:
    program = f"import edge_uad.cli.run, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("x is y; do z"), 2, "x is y; do z"),
        (BankError("x is y; do z"), 3, "x is y; do z"),
        (FrameError("it is torn"), 2, "it is torn"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a"),
            2,
            "/a: Permission denied; check the permissions, or run as a user who has them",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/n"), 2, "/n: File name too long; choose a shorter name"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), 1, "/a: No space left on device; free the disk"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "CMD: No space left on device; free the disk"),
        (OSError(errno.EXDEV, "Cross-device link", "/a", None, "/b"), 1, "/a → /b: Cross-device link; set EDGE_UAD_"),
        (MemoryError(), 1, "CMD needs more memory than there is; close other programs, or give it less"),
        (RecursionError("too\ndeep"), 1, "CMD failed by a fault of its own (RecursionError: too deep); set EDGE_UAD_"),
        (ZeroDivisionError("division by zero"), 1, "CMD failed by a fault of its own (ZeroDivisionError: division"),
    ],
)
def test_every_error_is_a_sentence_and_a_code(error: Exception, code: int, text: str) -> None:
    sentence, found = _sentence_of(error, "CMD")
    assert sentence.startswith(text)
    assert found == code


def test_what_an_encoding_lacks_is_named() -> None:
    with pytest.raises(UnicodeEncodeError) as error:
        "a\udcff".encode()
    sentence, code = _sentence_of(error.value, "CMD")
    assert code == 2
    assert sentence == "'\\udcff' in 'a\\udcff' is not utf-8; rename the file, or change the text"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["no-such-command"], 2, "No such command 'no-such-command'; see edge-uad --help"),
        (["inspect"], 2, "Missing argument 'images'; see edge-uad inspect --help"),
        (["send", "x", "--rate", "many"], 2, "Invalid value for '--rate'"),
        (["send", "x", "--timeout", "inf"], 2, "--timeout is inf; give a number up to 2147483647"),
        (["watch", "--timeout", "nan"], 2, None),
        (["inspect", "x", "--bank", "b", "--threads", "9" * 30], 2, None),
        (["inspect", "x", "--bank", "b", "--threads", "9" * 5000], 2, None),
        (
            ["inspect", "", "--bank", "b"],
            2,
            "argument 2 is empty; leave it out",
        ),
        (["inspect", "x", "--bank="], 2, "the value of --bank is empty; leave it out"),
        ([], 2, None),
        (["--help"], 0, None),
        (["--version"], 0, None),
    ],
)
def test_a_wrong_command_line_is_a_sentence_and_code_2(
    arguments: list[str], code: int, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(arguments) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if code and arguments:
        assert err.splitlines()[-1].startswith(f"edge-uad: {text or ''}")


def number_options() -> list[tuple[str, str]]:
    """Every option of every command that takes a fraction."""
    found = []
    for command, leaf in leaves().items():
        for parameter in leaf.params:
            annotation = str(leaf.callback.__annotations__.get(parameter.name, ""))
            if "float" in annotation and parameter.opts[0].startswith("-"):
                found.append((command, parameter.opts[0]))
    return found


@pytest.mark.parametrize(("command", "option"), number_options())
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300"])
def test_no_option_takes_what_is_no_number(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of([*minimal_call(command), option, value]) == 2
    assert option in capsys.readouterr().err.splitlines()[-1]


FILLED_IN = {"verdict": "1", "what": "normal"}
"""Arguments that are no text."""


def minimal_call(command: str, replaced: PathParameter | None = None, value: str = "") -> list[str]:
    """What the command demands, with names of nothing; of one parameter the value."""
    call = command.split()
    for parameter in leaves()[command].params:
        given = (
            value
            if replaced is not None and parameter.name == replaced.name
            else FILLED_IN.get(parameter.name, "nothing.onnx")
        )
        is_argument = not parameter.opts[0].startswith("-")
        if is_argument and (parameter.required or given == value):
            call.append(given)
        elif parameter.required or given == value != "":
            call += [parameter.opts[0], given]
    return call


@pytest.mark.parametrize("parameter", [one for one in path_parameters() if str(one) not in OPENED_LATE], ids=str)
def test_a_tilde_is_expanded_in_every_path(
    parameter: PathParameter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call = minimal_call(parameter.command, parameter, "~no-such-user/x.onnx")
    if parameter.command == "serve" and parameter.name not in {"config", "bank"}:
        call += ["--bank", "nothing"]
    assert exit_code_of(call) == 2
    assert "the home folder ~no-such-user is not known" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def path_keys(
    section: type[BaseModel] = Settings, place: tuple[str | int, ...] = ()
) -> Iterator[tuple[str | int, ...]]:
    """Every key of a config file that takes a path."""
    for name, field in section.model_fields.items():
        kinds = set(types_in(field.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for one in inner:
            yield from path_keys(
                one, (*place, name, 0) if tuple in {get_origin(kind) for kind in kinds} else (*place, name)
            )
        if Path in kinds:
            yield (*place, name)


@pytest.mark.parametrize("place", [*path_keys(), ("stations", 0, "source")], ids=str)
def test_a_tilde_is_expanded_in_every_path_of_a_config(place: tuple[str | int, ...]) -> None:
    content: dict[str, Any] = {"stations": [{"name": "line", "source": "0", "bank": "b"}]}
    inner: Any = content
    for step in place[:-1]:
        inner = inner[step] if isinstance(inner, list) else inner.setdefault(step, {})
    inner[place[-1]] = "~no-such-user/x"
    with pytest.raises(SettingsError, match="the home folder ~no-such-user is not known"):
        make_settings(content, name="line.yaml")


def test_the_keys_of_a_config_are_found() -> None:
    assert {("stations", 0, "bank"), ("curve", "server_key"), ("model",), ("evidence", "folder")} <= set(path_keys())


def test_the_exit_codes_are_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", text, re.MULTILINE))
    assert set(table) == {"0", "1", "2", "3", "4", "5", "130", "141"}


def test_a_fault_of_ours_shows_its_traceback_on_demand() -> None:
    program = (
        "from edge_uad.cli import app\nfrom edge_uad.cli.run import exit_code_of\n"
        "@app.command('break')\ndef _break() -> None: raise LookupError('inside')\n"
        "raise SystemExit(exit_code_of(['break']))"
    )
    for debug, n_lines in (("0", 1), ("1", 10)):
        environ = os.environ | {"EDGE_UAD_DEBUG": debug}
        done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environ)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == (debug == "1")
        assert len(done.stderr.splitlines()) >= n_lines
        assert "(LookupError: inside)" in done.stderr.splitlines()[-1]
