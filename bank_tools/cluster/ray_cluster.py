"""Work on the workers of a Ray cluster.

A task is lost with its worker and done again elsewhere; what it was to compute depends on its item alone. Work that all
tasks share, such as a model or a bank, lies once in the object store of each machine.
"""

import importlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar

from bank_tools.cluster.arithmetic import Arithmetic, arithmetic
from edge_uad.errors import ClusterError, EdgeUadError, FrameError
from edge_uad.runtime.in_order import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 5
"""How often a task is begun again after its worker was lost; one that ends its worker each time must not go on."""
AHEAD = 2
"""Tasks that wait beyond those that run, so that no worker waits for the next."""
LOOK_UP_EVERY_S = 1.0
"""So often whoever waits for a result sees whether it was interrupted."""
ALIVE_EVERY_S = 30.0
"""So often it is asked whether a worker is left at all."""
MOST_HELD = 3
"""What a worker keeps opened: a model, a bank that is searched, and the good images of a calibration."""


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
        self._interrupted = threading.Event()
        self._asked_s = time.monotonic()
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
                found = self._ray.get(reference, timeout=LOOK_UP_EVERY_S)
            except self._ray.exceptions.GetTimeoutError:
                self._check_alive()
                continue
            except self._ray.exceptions.RayError as error:
                raise self._lost(error) from error
            if isinstance(found, _Failed):
                raise FrameError(found.text) if found.of_frame else ClusterError(found.text)
            return found

    def put(self, value: object) -> Any:
        """Lay something into the object store."""
        return self._ray.put(value)

    def interrupt(self) -> None:
        """Have every wait end within a second; sets a flag and nothing else."""
        self._interrupted.set()

    def _check_alive(self) -> None:
        """Raise ClusterError where waiting is in vain."""
        if self._interrupted.is_set():
            raise ClusterError(f"interrupted while the cluster {self._name} was at work; run the command again")
        now_s = time.monotonic()
        if now_s < self._asked_s + ALIVE_EVERY_S:
            return
        self._asked_s = now_s
        if not self._n_cores():
            raise ClusterError(
                f"the cluster {self._name} has no worker left; start one and run the command again: what is finished "
                "is kept"
            )

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
        work = importlib.import_module("ray").get(reference)
    _HELD[key] = work
    return work
