"""Many machines by Ray: a cluster of real nodes' processes on this machine, one of which is killed on the way."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_uad.inference.bank import PatchBank
from tests.cluster_driver import N_SLOW
from tests.clusters import RunningCluster, running_cluster
from tests.conftest import edge_uad
from tests.service.test_cli_calls_nobody import connections, strace
from tests.trees import write_tree

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (the [cluster] extra)", allow_module_level=True)
if find_spec("sklearn") is None:
    pytest.skip("the [evaluate] extra is not installed", allow_module_level=True)

RATE = ("--false-alarm-rate", 0.3)
OF_THE_RUN = {"bank_id", "built_at"}
"""What two banks of the same images, built one after the other, do not share: the time, and the hash that covers it."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(2) as running:
        yield running


@pytest.fixture
def doomed() -> Iterator[RunningCluster]:
    """One whose second and third node may be killed."""
    with running_cluster(3) as running:
        yield running


def same_bank(one: Path, other: Path) -> None:
    first, second = PatchBank.load(one), PatchBank.load(other)
    np.testing.assert_array_equal(first.patches.view(np.uint32), second.patches.view(np.uint32))
    np.testing.assert_array_equal(first.calibration.view(np.uint32), second.calibration.view(np.uint32))
    assert facts(first) == facts(second)


def facts(bank: PatchBank) -> dict[str, Any]:
    manifest = bank.manifest
    return {name: getattr(manifest, name) for name in manifest.__slots__ if name not in OF_THE_RUN}


def drive(task: str, *arguments: object) -> str:
    command = [sys.executable, "-m", "tests.cluster_driver", task, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("how", [(), ("--tiles", "2x1")], ids=["whole", "tiles"])
def test_a_bank_is_the_single_machines_to_the_bit(
    cluster: RunningCluster, tiny_model: Path, good_parts: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    # what lower precisions are worth is measured, and two measurements differ
    call = ("build-bank", good_parts, "--model", tiny_model, *RATE, "--precision", "fp32", *how)
    edge_uad(*call, "--out", here)
    done = edge_uad(*call, "--out", there, "--cluster", cluster.address)
    same_bank(here, there)
    assert "images/s" in done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tree(tmp_path_factory.mktemp("tree") / "drawn", {"nut": 1}, n_good=8, n_test=3)
    (root / "nut" / "test" / "good" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


@pytest.mark.parametrize("command", ["evaluate", "ablate", "tune"])
def test_results_are_the_single_machines_to_the_bit_and_finished_steps_are_kept(
    cluster: RunningCluster,
    tiny_model: Path,
    tree: Path,
    tmp_path: Path,
    command: str,
) -> None:
    call: dict[str, list[object]] = {
        "evaluate": [tree, "--reweighted", "--levels", "1"],
        "ablate": [tree, "--sweep", "coreset=0.1,0.3", "--calibrate"],
        "tune": [tree / "nut/train/good", "--rejects", tree / "nut/test/scratch", "--candidate", "coreset=1"],
    }
    found = []
    for name, where in (("here", ()), ("there", ("--cluster", cluster.address))):
        # without a cache: what the other has embedded must not be found there
        options = ("--backbone", tiny_model, "--out", tmp_path / name, *RATE, "--cache-gib", "0", *where)
        arguments = (command, *call[command], *options)
        edge_uad(*arguments)
        found.append(comparable(tmp_path / name / "results.json"))
    assert found[0] == found[1]
    if command != "evaluate":
        return
    assert "cannot be judged" in json.dumps(found[0])  # the picture that is cut short
    steps = {file: file.stat().st_mtime_ns for file in (tmp_path / "there" / "steps").rglob("*") if file.is_file()}
    assert steps
    edge_uad(*arguments)
    assert {file: file.stat().st_mtime_ns for file in steps} == steps


def comparable(results: Path) -> Any:
    """All but when it was, the command that repeats it, which names the cluster, and the threads that searched."""
    found = json.loads(results.read_text(encoding="utf-8"))
    found["settings"].pop("search_threads", None)
    return {name: value for name, value in found.items() if name not in {"created_at", "commands"}}


def test_a_node_that_dies_costs_its_tasks_alone(doomed: RunningCluster, tmp_path: Path) -> None:
    out = drive("squares", doomed.address, doomed.killable[0], tmp_path)
    assert json.loads(out) == [number * number for number in range(N_SLOW)]
    begun = Counter(int(file.name.split("-")[0]) for file in tmp_path.iterdir())
    assert set(begun) == set(range(N_SLOW))
    assert 1 <= sum(begun.values()) - N_SLOW <= 2  # what ran there and what had been handed to it, nothing else


def test_a_bank_is_the_same_though_a_node_died_on_the_way(
    doomed: RunningCluster, tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here.safetensors"
    edge_uad("build-bank", good_parts, "--model", tiny_model, "--out", here, "--precision", "fp32")
    drive("bank", doomed.address, doomed.killable[0], tmp_path, tiny_model, good_parts)
    same_bank(here, tmp_path / "bank.safetensors")


def test_a_worker_whose_processor_computes_otherwise_is_refused(
    tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    """As if its processor knew the instructions of 2008 alone."""
    with running_cluster(1, environment={"OPENBLAS_CORETYPE": "Nehalem"}) as other:
        call = ("build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / "b.safetensors")
        done = edge_uad(*call, "--cluster", other.address, expect=2)
    assert "gives other last bits than this machine's" in done.stderr
    assert "leave it out of the cluster" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b.safetensors").exists()


def test_a_cluster_that_is_not_there_is_an_error_of_one_sentence(
    tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    call = ("build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / "b.safetensors", "--cluster")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        begun = time.monotonic()
        done = edge_uad(*call, address, expect=2)
        assert done.stderr.count("\n") == 1
        assert f"no cluster answers at {address} (Connection refused); start one with ray start" in done.stderr
        assert time.monotonic() - begun < 60
    for address in ("nonsense", "http://127.0.0.1:80", "ray://127.0.0.1", "127.0.0.1:x"):
        assert "give auto, ray://HOST:PORT or HOST:PORT" in edge_uad(*call, address, expect=2).stderr
    beside = edge_uad(*call, "auto", "--provider", "cuda", expect=2)
    assert "--cluster works on processors" in beside.stderr


def test_a_listener_that_says_nothing_is_an_error_within_a_bounded_time(
    tiny_model: Path, good_parts: Path, tmp_path: Path
) -> None:
    call = ("build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / "b.safetensors", "--cluster")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = edge_uad(*call, address, expect=2)
    assert f"the cluster {address} cannot be joined (" in done.stderr
    assert "Traceback" not in done.stderr


AUTO = """
import json, os, sys
from pathlib import Path
from bank_tools.cluster.connect import connect

def own():
    # this process, and all that it started
    parents = {int(p.name): int(p.joinpath("stat").read_text().rpartition(")")[2].split()[1])
               for p in Path("/proc").iterdir() if p.name.isdecimal() and p.joinpath("stat").exists()}
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found

assert list(connect("auto").spread(abs, range(-3, 0))) == [3, 2, 1]
inodes = set()
for pid in own():
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(entry))
        except FileNotFoundError:
            pass
rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
listening = [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
print(json.dumps([listening, os.environ["RAY_USAGE_STATS_ENABLED"]]))
"""
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
"""127.0.0.1, the same as IPv6 writes it, and ::1, as the kernel lists them."""


def test_a_cluster_of_this_machine_alone_listens_on_loopback_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = subprocess.run([sys.executable, "-c", AUTO], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    listening, usage_stats = json.loads(done.stdout)
    assert len(listening) > 3  # of the scheduler, the object store and the workers
    assert all(address.split(":")[0] in LOOPBACK for address in listening)
    assert usage_stats == "0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_cluster_of_this_machine_alone_calls_nobody(
    tiny_model: Path, good_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    call = ("build-bank", good_parts, "--model", tiny_model, "--out", tmp_path / "b.safetensors", "--cluster", "auto")
    calls = strace(tmp_path, sys.executable, "-m", "edge_uad", *call)
    assert any("127.0.0.1" in one for one in calls)  # they are seen at all
    assert [one for one in connections(calls) if '"::ffff:127.0.0.1"' not in one] == []  # loopback, as IPv6 writes it
