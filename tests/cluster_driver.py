"""Work on a cluster that loses a node on the way, as a process of its own: it prints a line of JSON.

``python -m tests.cluster_driver TASK ADDRESS PROCESS FOLDER …``: the process is that of a node, and is killed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bank_tools.bank.build import build_bank
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.recipe import embedder_for, recipe_for
from bank_tools.cluster.backbone import on_cluster
from bank_tools.cluster.connect import connect
from bank_tools.cluster.ray_cluster import RayCluster
from edge_uad.progress import SilentProgress
from edge_uad.records import AnyFrame
from edge_uad.runtime.assemble import load_backbone_for_many
from edge_uad.sources import recorded_source
from edge_uad.sources.recorded import frames_of

KILLED_AT = 10
N_SLOW = 9
SLOW_S = 1.0


def kill(node: int) -> None:
    """As a machine that loses its power: the node's process and its workers at once."""
    children = Path(f"/proc/{node}/task/{node}/children").read_text(encoding="ascii").split()
    for pid in (node, *map(int, children)):
        os.kill(pid, signal.SIGKILL)


def slow_square(folder: Path, number: int) -> int:
    """Leaves a file for each time that it was begun."""
    (folder / f"{number}-{os.getpid()}-{time.time_ns()}").touch()
    time.sleep(SLOW_S)
    return number * number


def squares(cluster: RayCluster, node: int, folder: Path) -> list[int]:
    """Kill the node while every worker is busy."""
    # every worker has begun before the node is lost
    list(cluster.spread(partial(slow_square, folder), range(2 * cluster.n_workers)))
    for file in folder.iterdir():
        file.unlink()
    found = []
    for square in cluster.spread(partial(slow_square, folder), range(N_SLOW)):
        if not found:
            time.sleep(SLOW_S / 2)  # the workers are in the middle of the next
            kill(node)
        found.append(square)
    return found


def bank(cluster: RayCluster, node: int, folder: Path, model: Path, good: str) -> None:
    """Build a bank; the node is lost while images are embedded."""

    def frames() -> Iterator[AnyFrame]:
        for number, frame in enumerate(frames_of(recorded_source(good)[0])):
            if number == KILLED_AT:
                kill(node)
            yield frame

    backbone = on_cluster(load_backbone_for_many(model)[0], model, "cpu", cluster.on_workers)
    recipe = recipe_for(backbone.card)
    embedder = embedder_for(backbone, recipe)
    images = embed_all(frames(), embedder, None, SilentProgress(), workers=cluster.n_at_a_time)
    built = build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress(), spread=cluster.spread)
    built.bank.save(folder / "bank.safetensors")


def main(task: str, address: str, node: str, folder: str, *others: str) -> None:
    cluster = connect(address)
    if task == "squares":
        print(json.dumps(squares(cluster, int(node), Path(folder))))
    else:
        bank(cluster, int(node), Path(folder), Path(others[0]), others[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
