"""A Ray cluster of several nodes on this machine, held by a process of its own, on loopback alone.

``python -m tests.clusters N`` starts N nodes of one worker each and prints a line of JSON: the address, and the
process of each node but the first, which may be killed. It ends with its standard input.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bank_tools.cluster.connect import LOCAL_ONLY

OF_EACH_NODE = {"num_cpus": 1, "object_store_memory": 128 * 2**20}
START_TIMEOUT_S = 120


@dataclass(frozen=True)
class RunningCluster:
    address: str
    killable: tuple[int, ...]
    """Processes; a node ends with its own."""


@contextlib.contextmanager
def running_cluster(n_nodes: int, *, environment: Mapping[str, str] | None = None) -> Iterator[RunningCluster]:
    """A cluster that runs while the block does."""
    with tempfile.TemporaryDirectory(prefix="edge-uad-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environ = {**os.environ, **LOCAL_ONLY, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, **(environment or {})}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.clusters", str(n_nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        ) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            started = next((json.loads(line) for line in holder.stdout if line.startswith("{")), None)
            assert started is not None, "the cluster did not start"
            yield RunningCluster(started["address"], tuple(started["killable"]))
            holder.stdin.close()


def _hold(n_nodes: int) -> None:
    from ray.cluster_utils import Cluster  # noqa: PLC0415  # only the process that holds it needs Ray

    cluster = Cluster(initialize_head=True, head_node_args={**OF_EACH_NODE, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(**OF_EACH_NODE) for _ in range(n_nodes - 1)]
        cluster.wait_for_nodes(START_TIMEOUT_S)
        killable = [node.all_processes["raylet"][0].process.pid for node in nodes]
        print(json.dumps({"address": cluster.address, "killable": killable}), flush=True)  # to its parent
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    _hold(int(sys.argv[1]))
