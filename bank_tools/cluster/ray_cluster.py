"""Work on the workers of a Ray cluster. The only module that knows Ray.

A task is lost with its worker and done again elsewhere; what it was to compute depends on its item alone. Work that all
tasks share, such as a model or a bank, lies once in the object store of each machine.
"""

import atexit
import importlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from bank_tools.cluster.arithmetic import Arithmetic, arithmetic
from edge_uad.errors import ClusterError, EdgeUadError, FrameError, MissingExtraError
from edge_uad.runtime.in_order import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")

AUTO = "auto"
CLIENT_SCHEME = "ray"
CONNECT_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 60.0
RETRIES = 5
"""How often a task is begun again after its worker was lost; one that ends its worker each time must not go on."""
AHEAD = 2
"""Tasks that wait beyond those that run, so that no worker waits for the next."""
ALIVE_EVERY_S = 30.0
"""After so long without a result it is asked whether a worker is left at all."""
MOST_HELD = 3
"""What a worker keeps opened: a model, a bank that is searched, and the good images of a calibration."""
LOCAL_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has Ray bind to loopback. Its name is of the systems on which that is the default; no option does it."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """What went wrong on a worker, in one sentence: an exception may be none that can be pickled."""

    text: str
    of_frame: bool


class RayCluster:
    """The workers of a cluster, one for each core.

    Args:
        ray: the module, connected.
        name: of the cluster, as errors name it.
    """

    def __init__(self, ray: Any, name: str) -> None:
        self._ray = ray
        self._name = name
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_task)
        self._arithmetic = arithmetic()
        self.n_workers = self._n_cores()
        """When it was connected."""
        if not self.n_workers:
            raise ClusterError(f"the cluster {name} has no core to work on; start a worker: ray start --address=…")

    @property
    def n_at_a_time(self) -> int:
        """How many tasks should be under way, so that every worker has one."""
        return self.n_workers + AHEAD

    def on_workers(self, work: Callable[[Item], Result]) -> "RemoteWork[Item, Result]":
        """The work, done by workers: calling it waits for the result. Several threads may call it."""
        return RemoteWork(self, work)

    def spread(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Implements Spread."""
        return in_order(self.on_workers(work), items, workers=self.n_at_a_time)

    def submit(self, shared: Any, item: object) -> Any:
        """Have a worker do the shared work on an item; what its result can be had by.

        Raises:
            ClusterError: the cluster is lost.
        """
        try:
            # in a list, a reference is handed on as it is: the worker takes the work out once, not for every item
            return self._task.remote(shared.hex(), [shared], self._arithmetic, item)
        except self._ray.exceptions.RayError as error:
            raise self._lost(error) from error

    def result(self, reference: Any) -> Any:
        """Wait for a task's result.

        Raises:
            FrameError: what the work raised for this item.
            ClusterError: no worker is left, a worker is not like this machine, or the task failed again and again.
        """
        while True:
            try:
                found = self._ray.get(reference, timeout=ALIVE_EVERY_S)
            except self._ray.exceptions.GetTimeoutError:
                if not self._n_cores():
                    raise ClusterError(
                        f"the cluster {self._name} has no worker left; start one and run the command again: what is "
                        "finished is kept"
                    ) from None
                continue
            except self._ray.exceptions.RayError as error:
                raise self._lost(error) from error
            if isinstance(found, _Failed):
                raise FrameError(found.text) if found.of_frame else ClusterError(found.text)
            return found

    def put(self, value: object) -> Any:
        """Lay something into the object store."""
        return self._ray.put(value)

    def _n_cores(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    def _lost(self, error: Exception) -> ClusterError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return ClusterError(f"a task on the cluster {self._name} failed ({lines[-1]}); run ray status, then try again")


class RemoteWork(Generic[Item, Result]):
    """Work that workers do.

    Args:
        cluster: whose.
        work: what is done to one item; it lies in the object store as long as this object lives.
    """

    def __init__(self, cluster: RayCluster, work: Callable[[Item], Result]) -> None:
        self._cluster = cluster
        self._shared = cluster.put(work)

    def __call__(self, item: Item) -> Result:
        """The result of one item; see :meth:`RayCluster.result`."""
        found: Result = self._cluster.result(self._cluster.submit(self._shared, item))
        return found

    def each(self, items: Sequence[Item]) -> list[Result]:
        """The results of several items that workers may do at the same time."""
        references = [self._cluster.submit(self._shared, item) for item in items]
        return [self._cluster.result(reference) for reference in references]


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
    ray = _import_ray()
    # else what becomes of nodes is printed among the results; no option leaves that out
    vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    _init(ray, options, name=address)
    return RayCluster(ray, address)


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
                initialise()  # what it starts ends with the thread that started it
    except FutureTimeoutError:
        reason = f"no answer in {JOIN_TIMEOUT_S:g} s"
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    else:
        return
    raise ClusterError(
        f"the cluster {name} cannot be joined ({reason}); start it with ray start, by the Ray of this machine"
    )


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


def _import_ray() -> Any:
    return importlib.import_module("ray")


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


_HELD: OrderedDict[str, Callable[[Any], Any]] = OrderedDict()
"""On a worker: the last works it was given, opened."""


def _task(key: str, shared: Sequence[Any], expected: Arithmetic, item: object) -> object:
    """On a worker: do the shared work on one item."""
    try:
        if (difference := _difference(expected)) is not None:
            raise ClusterError(f"the machine cannot take part: {difference}")
        result = _held(key, shared[0])(item)
        return list(result) if isinstance(result, Iterator) else result
    except EdgeUadError as error:
        if isinstance(error, FrameError):
            return _Failed(str(error), of_frame=True)
        return _Failed(f"on worker {socket.gethostname()}: {error}", of_frame=False)


@cache
def _difference(expected: Arithmetic) -> str | None:
    return expected.difference_from(arithmetic())


def _held(key: str, reference: Any) -> Callable[[Any], Any]:
    work = _HELD.pop(key, None)
    if work is None:
        while len(_HELD) >= MOST_HELD:
            _HELD.popitem(last=False)
        work = _import_ray().get(reference)
    _HELD[key] = work
    return work
