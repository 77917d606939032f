"""A daemon process is stopped at every moment of its life: in bound, with nothing lost uncounted."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import edge_uad
from tests.processes import PATIENCE_S, Running

ANY_PORT = "tcp://127.0.0.1:*"
N_FRAMES = 120


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path, because a Unix socket's address is."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def config(tiny_model: Path, tiny_bank: Path, run_dir: Path) -> Path:
    """A line of one station that takes frames on a Unix socket."""
    path = run_dir / "line.yaml"
    path.write_text(
        f"stations:\n  - {{name: line, source: 'ipc://{run_dir}/in', bank: {tiny_bank}}}\n"
        f"model: {tiny_model}\nthreads: 1\npublish: {{endpoint: '{ANY_PORT}'}}\n"
    )
    return path


@pytest.mark.parametrize("stop_timeout_s", [30.0, 0.05])
def test_frames_that_were_sent_before_the_stop_are_judged_or_counted(
    config: Path, run_dir: Path, good_parts: Path, stop_timeout_s: float
) -> None:
    """The sender is done, most frames lie in ZeroMQ's queue and in the socket, and the signal comes."""
    config.write_text(config.read_text() + f"stop_timeout_s: {stop_timeout_s}\n")
    with Running.edge_uad("serve", "--config", config) as daemon:
        daemon.wait_for(" ready")
        edge_uad("send", *[good_parts] * (N_FRAMES // 24), "--to", f"ipc://{run_dir}/in")
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    match = daemon.wait_for(r"line  (\d+) frames judged: .*; (\d+) dropped;")
    assert int(match[1]) + int(match[2]) == N_FRAMES
    if stop_timeout_s == 30.0:
        assert int(match[2]) == 0


def test_a_signal_at_any_moment_of_the_start_ends_it_well(config: Path) -> None:
    """From the moment that Python can take one; each try is a little later than the one before."""
    for delay_s in (0.0, 0.2, 0.5, 1.0):
        with Running.edge_uad("serve", "--config", config) as daemon:
            handled = re.compile("SigCgt:\\s+([0-9a-f]+)")
            status = Path(f"/proc/{daemon.pid}/status")
            wait_until_caught(status, handled, signal.SIGTERM)
            time.sleep(delay_s)  # the moment is the matter of this test
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
        assert "Traceback" not in daemon.everything


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_while_the_line_is_loaded_does_not_wait_for_it(config: Path, run_dir: Path, signals: int) -> None:
    """Opening the bank does not return, as on a share that went away: another program holds a lease on the file."""
    bank = Path(re.search(r"bank: ([^}]*)", config.read_text())[1])  # type: ignore[index]
    own = run_dir / "leased.safetensors"
    own.write_bytes(bank.read_bytes())
    config.write_text(config.read_text().replace(str(bank), str(own)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, leased(own) as wait_until_wanted:
        manager.bind(str(run_dir / "notify"))
        manager.settimeout(PATIENCE_S)
        environ = os.environ | {"NOTIFY_SOCKET": str(run_dir / "notify")}
        with Running.edge_uad("serve", "--config", config, environ=environ) as daemon:
            assert manager.recv(4096) == b"STATUS=loading the model and the banks"
            wait_until_wanted()
            for _ in range(signals):
                daemon.signal(signal.SIGTERM)
            daemon.ends(code=0, timeout_s=20)
            assert manager.recv(4096) == b"STOPPING=1"
    assert "stopped while the model was loading" in daemon.everything
    assert "Traceback" not in daemon.everything


LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, lambda *_: print("wanted", flush=True))
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""
"""A program of its own: the kernel's signal must meet no handler, thread or library of the tests."""


@contextmanager
def leased(path: Path) -> Iterator[Callable[[], None]]:
    """Hold a lease: opening the file waits, for the kernel's 45 s at most.

    Yields:
        What waits until somebody tries.
    """
    with subprocess.Popen(
        [sys.executable, "-c", LEASE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        def wait_until_wanted() -> None:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "wanted\n"

        yield wait_until_wanted
        holder.stdin.close()


def wait_until_caught(status: Path, handled: re.Pattern[str], number: signal.Signals) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        match = handled.search(status.read_text())
        if match and int(match[1], 16) >> (number - 1) & 1:
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_a_second_signal_leaves_at_once_with_a_full_queue_and_a_dead_source(
    config: Path, run_dir: Path, tiny_bank: Path, good_parts: Path
) -> None:
    """One station floods, another one's camera took the connection and is silent; the first stop has an hour's time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = config.read_text().replace(
            "model:",
            f"  - {{name: dead, source: 'http://127.0.0.1:{silent.getsockname()[1]}/1', bank: {tiny_bank}}}\nmodel:",
        )
        config.write_text(text + "stop_timeout_s: 3600\n")
        with (
            Running.edge_uad("serve", "--config", config) as daemon,
            Running.edge_uad("watch", daemon.wait_for(r"verdicts on (\S+)")[1], "--json") as watch,
        ):
            silent.settimeout(PATIENCE_S)
            connection, _ = silent.accept()
            watch.wait_for('"state": "running"')
            with Running.edge_uad("send", *[good_parts] * 100, "--to", f"ipc://{run_dir}/in") as sender:
                watch.wait_for('"decision"')
                daemon.signal(signal.SIGTERM)
                watch.wait_for('"state": "stopping"')
                daemon.signal(signal.SIGTERM)
                daemon.ends(code=0)
                sender.signal(signal.SIGKILL)
            connection.close()
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
    last = [message for message in map(json.loads, watch.out) if message.get("state") and message["station"] == "line"][
        -1
    ]
    verdicts = [message for message in map(json.loads, watch.out) if "decision" in message]
    assert [one["frame_id"] for one in verdicts] == list(range(len(verdicts)))
    assert (last["judged"], last["frames_seen"]) == (len(verdicts), last["judged"] + last["dropped"])
    assert "dead: the source does not return its thread; it is left behind" in daemon.everything
    assert "Traceback" not in daemon.everything


def test_a_camera_whose_driver_never_answers_is_opened_anew_while_the_line_runs(
    config: Path, run_dir: Path, tiny_bank: Path, good_parts: Path
) -> None:
    """A server takes the connection and is silent: FFmpeg stays inside ``open``. The other station does not notice."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"  - {{name: dead, source: 'http://127.0.0.1:{silent.getsockname()[1]}/1', bank: {tiny_bank}}}\n"
        text = config.read_text().replace("model:", f"{dead}model:")
        config.write_text(text + "reconnect: {replace_after_s: 0.5}\nstop_timeout_s: 0.1\n")
        with (
            Running.edge_uad("serve", "--config", config) as daemon,
            Running.edge_uad("watch", daemon.wait_for(r"verdicts on (\S+)")[1], "--json") as watch,
        ):
            silent.settimeout(PATIENCE_S)
            connections = [silent.accept()[0] for _ in range(2)]
            daemon.wait_for(r"dead: the source has not answered for .* opened anew \(1 of 3\)")
            watch.wait_for('"hung_reads": [1-3],')
            edge_uad("send", good_parts, "--to", f"ipc://{run_dir}/in")
            watch.wait_for('"judged": 24, ')
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
            for connection in connections:
                connection.close()
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
