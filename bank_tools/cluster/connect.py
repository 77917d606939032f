"""Joining a Ray cluster, or starting one of this machine alone: in a bounded time, on loopback, reporting nothing."""

import atexit
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from bank_tools.cluster.ray_cluster import RayCluster
from edge_uad.errors import ClusterError, MissingExtraError

AUTO = "auto"
CLIENT_SCHEME = "ray"
CONNECT_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 30.0
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has Ray bind to loopback. Its name is of the systems on which that is the default; no option does it."""

NO_NETWORK = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost,::1"}
"""Of what a local cluster starts: its head would ask three clouds' metadata whether it runs there, even where it
reports nothing, and no option stops it. At a proxy's address where nobody listens it asks in vain."""


@cache
def connect(address: str) -> RayCluster:
    """The cluster at an address: once a process, which leaves it when it ends.

    Args:
        address: ``ray://HOST:PORT`` of a head's client server, ``HOST:PORT`` of a cluster that this machine belongs to,
            or ``auto``: the cluster this machine belongs to, or where there is none, one of this machine's cores alone,
            which listens on loopback only and ends with the process.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: nothing answers there, or not in this language or version.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("--cluster", "cluster")
    running = _running_cluster() if address == AUTO else address
    if running is None:
        options: dict[str, Any] = {"include_dashboard": False, "_temp_dir": prepare_local_cluster()}
    else:
        options = {"address": running}
        if _require_listener(running).is_loopback:
            os.environ.update(LOCAL_ONLY)
    ray = importlib.import_module("ray")
    # else what becomes of nodes is printed among the results; no option leaves that out
    vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    _init(ray, options, name=address)
    cluster = RayCluster(ray, address)
    _interrupted_by_ctrl_c(cluster)
    return cluster


def _interrupted_by_ctrl_c(cluster: RayCluster) -> None:
    """Ctrl-C wakes the main thread alone, which then waits for the threads that wait for results."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return

    def handle(number: int, frame: FrameType | None) -> None:
        cluster.interrupt()
        before(number, frame)

    signal.signal(signal.SIGINT, handle)


def _init(ray: Any, options: dict[str, Any], *, name: str) -> None:
    """Join or start the cluster, in a bounded time.

    Raises:
        ClusterError: it cannot be joined.
    """
    initialise = partial(ray.init, logging_level=logging.ERROR, log_to_driver=False, **options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say comes as an error, too
            if "address" in options:
                _in_time(initialise)
            else:
                # on this thread: what it starts ends with the thread that started it
                with _environment(NO_NETWORK):
                    initialise()
    except FutureTimeoutError:
        reason = f"no answer in {JOIN_TIMEOUT_S:g} s"
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    else:
        return
    raise ClusterError(
        f"the cluster {name} cannot be joined ({reason}); start it with ray start, by the Ray of this machine"
    )


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """For what is started in the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_time(call: Callable[[], object]) -> None:
    """In a thread: Ray waits for ever where the other side listens and says nothing, and is deaf to Ctrl-C meanwhile.

    Raises:
        TimeoutError: the call has not returned.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="join-cluster", daemon=True).start()
    done.result(timeout=JOIN_TIMEOUT_S)


def _running_cluster() -> str | None:
    """The address of the cluster that this machine belongs to, as the environment or ``ray start`` has left it."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    try:
        folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
        return (folder / "ray_current_cluster").read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def prepare_local_cluster() -> str:
    """Set what a cluster of this machine alone needs, before Ray is imported and reads it; the folder of its sockets.

    Other users of the machine can reach loopback, too: a token keeps them out.
    """
    os.environ.update(LOCAL_ONLY)
    if os.environ.get("RAY_AUTH_MODE") is None:
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    folder = tempfile.mkdtemp(prefix="edge-uad-ray-", dir="/tmp")  # short, as the names of sockets must be
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # registered before Ray's own end, so called after it
    return folder


def _require_listener(address: str) -> IPv4Address | IPv6Address:
    """Try the address for a few seconds: Ray itself would try for minutes.

    Returns:
        What answered.

    Raises:
        ClusterError: it is none, or nothing answers there.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.scheme not in {"", CLIENT_SCHEME} or parts.path.strip("/"):
        raise ClusterError(f"--cluster is {address!r}; give auto, ray://HOST:PORT or HOST:PORT")
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S) as found:
            return ip_address(found.getpeername()[0])
    except OSError as error:
        raise ClusterError(
            f"no cluster answers at {address} ({error.strerror or error}); start one with ray start --head, or name "
            "another with --cluster"
        ) from error
