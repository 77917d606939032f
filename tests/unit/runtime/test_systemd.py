"""What the service manager hears, on a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_uad.runtime.systemd import Notifier


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.setblocking(False)
        yield listening


def heard(listening: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listening.recv(4096).decode())
        except BlockingIOError:
            return messages


@pytest.mark.parametrize("abstract", [False, True])
def test_a_life_is_told_in_order(tmp_path: Path, abstract: bool) -> None:
    name = f"edge-uad-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager("\0" + name if abstract else name) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name if abstract else name})
        notifier.status("warming\nup")
        notifier.ready()
        notifier.status("line running")
        notifier.status("line running")
        notifier.progress()
        notifier.stopping()
        assert heard(listening) == ["STATUS=warming up", "READY=1", "STATUS=line running", "STOPPING=1"]


@pytest.mark.parametrize(
    ("interval_us", "pid", "fed"),
    [
        ("60000000", None, 1),
        pytest.param("60000000", str(os.getpid()), 1, id="own-pid"),
        ("60000000", "1", 0),
        ("0", None, 0),
        ("soon", None, 0),
        ("1", None, 5),
    ],
)
def test_progress_feeds_the_watchdog_that_is_ours_but_not_too_often(
    tmp_path: Path, interval_us: str, pid: str | None, fed: int
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": interval_us}
    with manager(environ["NOTIFY_SOCKET"]) as listening:
        notifier = Notifier(environ | ({} if pid is None else {"WATCHDOG_PID": pid}))
        for _ in range(5):
            notifier.progress()
        assert heard(listening) == ["WATCHDOG=1"] * fed


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}, {"NOTIFY_SOCKET": "vsock:1"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready()
    notifier.stopping()
