"""The settings that a line may change, one at a time against the default."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_THREADS_SHOWN = 8
ALL_DECISIONS = ("normal", "anomalous", "invalid")


@dataclass(frozen=True, slots=True)
class Setting:
    """One change to the default line."""

    name: str
    content: Mapping[str, Any]
    """Keys of the config."""
    n_stations: int = 1


def settings_to_compare(*, n_cores: int, batches: Sequence[int], folder: Path) -> list[Setting]:
    """Every optional setting that may cost or gain time.

    Args:
        n_cores: of this machine.
        batches: sizes of ``max_batch``; each has as many stations.
        folder: where logs and evidence may go.
    """
    threads = [Setting(f"threads {n}", {"threads": n}) for n in thread_counts(n_cores)]
    batched = [Setting(f"max_batch {n}, {n} stations", {"max_batch": n}, n) for n in batches if n > 1]
    in_turn = [Setting("parallel_frames false", {"parallel_frames": False})]
    heatmaps = [Setting(f"heatmap {policy}", {"publish": {"heatmap": policy}}) for policy in ("never", "always")]
    records = [
        Setting("audit log", {"audit": {"file": str(folder / "verdicts.jsonl")}}),
        Setting("evidence of every frame", {"evidence": _evidence(folder)}),
        Setting("metrics", {"metrics": {"endpoint": f"127.0.0.1:{_free_port()}"}}),
    ]
    return [*threads, *in_turn, *batched, *heatmaps, *records]


def thread_counts(n_cores: int) -> list[int]:
    """1 to all cores; of many the powers of two, and all of them."""
    if n_cores <= MOST_THREADS_SHOWN:
        return list(range(1, n_cores + 1))
    powers = [2**exponent for exponent in range(n_cores.bit_length()) if 2**exponent < n_cores]
    return [*powers, n_cores]


def _free_port() -> int:
    """Free at this moment; a metrics server is told its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _evidence(folder: Path) -> dict[str, Any]:
    return {"folder": str(folder / "evidence"), "decisions": list(ALL_DECISIONS)}
