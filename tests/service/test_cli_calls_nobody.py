"""No command opens a connection, asks a name server, or writes a file that the user did not ask for.

The commands run under strace, in an environment without the variables by which libraries recognise a CI machine, where
they send nothing anyway.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_uad.no_telemetry import OPT_OUTS
from tests.commands import Inputs, leaves, made_inputs, right_call

REMOVED = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_RUNNING_UNIT_TESTS", *OPT_OUTS)
REMOVED_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR")
NETWORK_CALLS = "connect,sendto,sendmsg,sendmmsg"
FILE_CALLS = "open,openat,creat,mkdir,mkdirat"
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
RESOLVERS = re.compile(r'sun_path="[^"]*(?:resolve|avahi|mdns)')
PATH = re.compile(r'(?:open|openat|creat|mkdir|mkdirat)\((?:AT_FDCWD, )?"(/[^"]*)"')
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|mkdir|creat\(")
SYSTEM_PLACES = ("/dev/", "/proc/", "/tmp/edge-uad-")  # noqa: S108  # the last: bench's sockets, whose names must be short


def strace(folder: Path, *command: object) -> list[str]:
    """Run a program below ``folder``, with a home, a cache and a place for temporary files there; its system calls."""
    for name in ("home", "cache", "tmp"):
        (folder / name).mkdir()
    environ = {name: value for name, value in os.environ.items() if name not in REMOVED + REMOVED_FOLDERS}
    environ |= {"HOME": str(folder / "home"), "EDGE_UAD_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    environ |= {"PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-f", "--seccomp-bpf", "-qq", "-e", f"trace={NETWORK_CALLS},{FILE_CALLS}", "-o", folder / "trace"]
    done = subprocess.run(
        [str(argument) for argument in ("strace", *options, *command)],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "trace").read_text(errors="replace").splitlines()


def connections(calls: list[str]) -> list[str]:
    """Calls that address another machine, or a service that resolves names."""

    def is_far(call: str) -> bool:
        address = ADDRESS.search(call)
        return address is not None and not (address[1] or address[2]).startswith(("127.", "::1"))

    return [call for call in calls if is_far(call) or RESOLVERS.search(call)]


def files_outside(calls: list[str], *folders: Path) -> list[str]:
    """Files and folders that were written or made by an absolute path elsewhere."""
    inside = (*SYSTEM_PLACES, *(f"{folder}/" for folder in folders))
    found = []
    for call in calls:
        path = PATH.search(call)
        if path and WRITES.search(call) and " = -1 " not in call and not path[1].startswith(inside):
            found.append(call)
    return found


def left_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture(scope="module", autouse=True)
def _tracing_is_permitted() -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run(["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "true"], check=False)
    if probe.returncode:
        pytest.skip("this machine does not permit tracing")


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> Iterator[Inputs]:
    pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")
    folder = tmp_path_factory.mktemp("inputs")
    with made_inputs(folder, model=tiny_model, bank=tiny_bank, good=good_parts) as inputs:
        yield inputs


@pytest.mark.parametrize("command", leaves())
def test_a_command_calls_nobody_and_writes_where_it_was_asked_to(command: str, inputs: Inputs, tmp_path: Path) -> None:
    calls = strace(tmp_path, sys.executable, "-m", "edge_uad", *right_call(command, inputs, tmp_path))
    assert connections(calls) == []
    assert files_outside(calls, tmp_path, inputs.records.parent) == []
    assert left_in(tmp_path / "home") == []


def test_openvino_calls_nobody(inputs: Inputs, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the [openvino] extra is not installed")
    call = [*right_call("inspect", inputs, tmp_path), "--provider", "openvino"]
    calls = strace(tmp_path, sys.executable, "-m", "edge_uad", *call)
    assert connections(calls) == []
    assert left_in(tmp_path / "home") == []


@pytest.mark.parametrize("package", ["edge_uad", "bank_tools", "export", "benchmarks", "tests"])
def test_whatever_is_imported_first_comes_after_the_opt_out(package: str) -> None:
    program = (
        f"import os, sys, {package}; "
        f"assert {OPT_OUTS!r}.items() <= os.environ.items(); "
        "assert sys.modules['openvino_telemetry'] is None; "
        "assert not {'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    environ = {name: value for name, value in os.environ.items() if name not in OPT_OUTS}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2], env=environ)


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 53))",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('2001:db8::1', 53))",
    ],
)
def test_a_program_that_calls_another_machine_would_be_found(program: str, tmp_path: Path) -> None:
    guarded = f"import contextlib\nwith contextlib.suppress(OSError):\n    {program}"
    assert connections(strace(tmp_path, sys.executable, "-c", guarded))


def test_a_program_that_writes_elsewhere_would_be_found(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    calls = strace(inner, sys.executable, "-c", f"open({str(tmp_path / 'elsewhere')!r}, 'w')")
    assert len(files_outside(calls, inner)) == 1
