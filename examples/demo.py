"""``make demo``: good parts in, a bank out; a stream of unseen frames in, verdicts out; over real sockets.

It uses the commands that users have (build-bank, serve, send) and a subscriber written here.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from rich.table import Table as TerminalTable
from textiles import KINDS, fetch_textiles

from bank_tools.metrics.image import image_auroc, roc_curve
from bank_tools.report.charts import Histogram, RocCurve
from bank_tools.report.page import Charts, Gallery, Picture, Section, Table, page
from edge_uad.cli.console import console, stderr
from edge_uad.errors import EdgeUadError
from edge_uad.inference.bank import PatchBank
from edge_uad.net.wire import decode_message
from edge_uad.runtime.backbones import load_backbone
from export.default import provide_default_model

OUT = Path("demo")
N_GOOD = 100
N_FRAMES_PER_KIND = 20
FALSE_ALARM_RATE = 0.05
STATION = "demo"
RATE_HZ = 5
START_TIMEOUT_S = 60.0
VERDICTS_TIMEOUT_S = 120.0
EDGE_UAD = [sys.executable, "-m", "edge_uad"]


@dataclass(frozen=True, slots=True)
class Inspected:
    """A frame's kind, verdict and overlay."""

    kind: str
    verdict: dict[str, Any]
    overlay_jpeg: bytes


def main() -> None:
    started_s = time.monotonic()
    model = provide_default_model()
    good, frames = lay_out(fetch_textiles())
    bank = built_bank(good, model)
    with serving(bank, model) as (frame_endpoint, verdict_endpoint):
        inspected = stream(frames, frame_endpoint, verdict_endpoint)
    write_overlays(inspected)
    print_table(inspected)
    write_report(inspected, PatchBank.load(bank))
    console.print(
        f"overlays in {OUT}/overlays, report in {OUT}/report.html, {time.monotonic() - started_s:.0f} s in all"
    )


def lay_out(textiles: Path) -> tuple[Path, Path]:
    """Links to the good parts to learn from, and to the frames of the stream in a shuffled but fixed order."""
    good, frames = OUT / "good", OUT / "frames"
    nominal = sorted((textiles / "nominal").iterdir())
    link(good, [(path.name, path) for path in nominal[:N_GOOD]])
    unseen = [
        (kind, path)
        for kind in KINDS
        for path in (nominal[N_GOOD:] if kind == "nominal" else sorted((textiles / kind).iterdir()))[:N_FRAMES_PER_KIND]
    ]
    random.Random(0).shuffle(unseen)  # noqa: S311  # an order, not a secret
    link(frames, [(f"{index:03}-{kind}.jpg", path) for index, (kind, path) in enumerate(unseen)])
    return good, frames


def link(folder: Path, names: list[tuple[str, Path]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.absolute())


def built_bank(good: Path, model: Path) -> Path:
    """The bank of the good parts; an earlier run's is taken where it was built with this model."""
    bank = OUT / "bank.safetensors"
    if bank.is_file() and PatchBank.load(bank).manifest.model_id == load_backbone(model).card.model_id:
        return bank
    command = [*EDGE_UAD, "build-bank", good, "--out", bank, "--model", model]
    # cloth fills the frame: there is no background to mask
    command += ["--bpm-threshold", "0", "--false-alarm-rate", str(FALSE_ALARM_RATE)]
    subprocess.run(command, check=True)
    return bank


@contextmanager
def serving(bank: Path, model: Path) -> Iterator[tuple[str, str]]:
    """A daemon process; stopped by SIGTERM, as systemd does."""
    frame_endpoint, verdict_endpoint = (f"tcp://127.0.0.1:{port}" for port in free_ports(2))
    command = [*EDGE_UAD, "serve", "--source", frame_endpoint, "--bank", bank, "--model", model, "--station", STATION]
    daemon = subprocess.Popen([*command, "--publish", verdict_endpoint, "--heatmap", "always"])
    try:
        yield frame_endpoint, verdict_endpoint
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(timeout=START_TIMEOUT_S)
    if code:
        sys.exit(f"the daemon ended with exit code {code}")


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def stream(frames: Path, frame_endpoint: str, verdict_endpoint: str) -> list[Inspected]:
    """Send every frame, and gather its verdict and its heatmap."""
    names = sorted(path.name for path in frames.iterdir())
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe(b"")
        subscriber.linger = 0
        subscriber.connect(verdict_endpoint)
        receive(
            subscriber, f"status/{STATION}", START_TIMEOUT_S
        )  # the daemon runs and the subscription is active: no verdict will be missed
        send = [*EDGE_UAD, "send", frames, "--to", frame_endpoint, "--station", STATION, "--rate", str(RATE_HZ)]
        with subprocess.Popen(send) as sender:
            verdicts, overlays = gather(subscriber, len(names))
        if sender.returncode:
            sys.exit(f"edge-uad send ended with exit code {sender.returncode}")
    return [Inspected(name.split("-")[1].removesuffix(".jpg"), verdicts[name], overlays[name]) for name in names]


def gather(subscriber: "zmq.Socket[bytes]", n_frames: int) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    verdicts: dict[str, dict[str, Any]] = {}
    overlays: dict[str, bytes] = {}
    deadline_s = time.monotonic() + VERDICTS_TIMEOUT_S
    while len(verdicts) < n_frames or len(overlays) < n_frames:
        topic, header, payload = receive(subscriber, "", deadline_s - time.monotonic())
        if topic.startswith("verdict/"):
            verdicts[header["part_id"]] = header
        elif topic.startswith("heatmap/") and payload is not None:
            overlays[header["part_id"]] = payload
    return verdicts, overlays


def receive(subscriber: "zmq.Socket[bytes]", topic: str, timeout_s: float) -> tuple[str, dict[str, Any], bytes | None]:
    """The next message whose topic begins like this."""
    deadline_s = time.monotonic() + timeout_s
    while (left_s := deadline_s - time.monotonic()) > 0:
        if subscriber.poll(int(left_s * 1000)):
            message = decode_message(subscriber.recv_multipart())
            if message[0].startswith(topic):
                return message
    sys.exit(f"the daemon sent no {topic or 'further'} message in time")


def write_overlays(inspected: list[Inspected]) -> None:
    (OUT / "overlays").mkdir(exist_ok=True)
    for one in inspected:
        (OUT / "overlays" / one.verdict["part_id"]).write_bytes(one.overlay_jpeg)


def auroc_of(inspected: list[Inspected]) -> float | None:
    return image_auroc([one.kind != "nominal" for one in inspected], [one.verdict["score"] for one in inspected])


def counts_of(inspected: list[Inspected]) -> list[list[object]]:
    """Per kind: frames, each decision, median score, median latency."""
    rows: list[list[object]] = []
    for kind in KINDS:
        verdicts = [one.verdict for one in inspected if one.kind == kind]
        decisions = Counter(verdict["decision"] for verdict in verdicts)
        score = np.median([verdict["score"] for verdict in verdicts])
        latency_ms = np.median([verdict["latency_ms"] for verdict in verdicts])
        counts = [decisions[decision] for decision in ("normal", "anomalous", "invalid")]
        rows.append([kind, len(verdicts), *counts, f"{score:.4f}", f"{latency_ms:.0f}"])
    return rows


COLUMNS = ("frames", "sent", "normal", "anomalous", "invalid", "median score", "median latency ms")


def print_table(inspected: list[Inspected]) -> None:
    verdict_table = TerminalTable(*COLUMNS, title="verdicts")
    for column in verdict_table.columns[1:]:
        column.justify = "right"
    for row in counts_of(inspected):
        verdict_table.add_row(*map(str, row))
    console.print(verdict_table)
    console.print(f"AUROC of {len(inspected)} frames: {auroc_of(inspected):.4f}")


def write_report(inspected: list[Inspected], bank: PatchBank) -> None:
    manifest = bank.manifest
    auroc = auroc_of(inspected)
    scores = {kind: [one.verdict["score"] for one in inspected if one.kind == kind] for kind in KINDS}
    curve = roc_curve([one.kind != "nominal" for one in inspected], [one.verdict["score"] for one in inspected])
    scored = [Histogram(scores=scores, threshold=manifest.threshold), RocCurve(points=curve, auroc=auroc)]
    by_score = sorted(inspected, key=lambda one: -one.verdict["score"])
    pictures = [
        Picture(one.overlay_jpeg, one.verdict["decision"], f"{one.kind}, score {one.verdict['score']:.4f}")
        for one in by_score
    ]
    lead = (
        f"{manifest.n_images} good images, {manifest.n_patches} patches of {manifest.backbone}; threshold "
        f"{manifest.threshold:.4f} at a false-alarm rate of {manifest.false_alarm_rate:g}; "
        f"bank {manifest.bank_id[:12]}, model {manifest.model_id[:12]}"
    )
    sections = [
        Section("Verdicts", [Table(COLUMNS, counts_of(inspected))]),
        Section("Scores", [Charts(scored)]),
        Section("Frames by score, highest first", [Gallery(pictures)]),
    ]
    (OUT / "report.html").write_bytes(page("edge-uad demo: simulated textiles", lead, sections))


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    try:
        main()
    except EdgeUadError as error:
        stderr.print(f"demo: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
