"""One subscriber that follows a plant's stations: what arrives, how late, and what it costs.

    python -m benchmarks.fan_in [--stations 64] [--rate-hz 30] [--seconds 60] [--quick]

Simulated daemons, each a process of its own, publish the verdicts and heartbeats of their stations by the daemon's
own publisher, paced by the clock; nothing is judged. The subscriber is the class that programs use, in a process of its
own. Two ways lead to it: one daemon with all stations, and eight daemons behind a forwarder (an XSUB/XPUB proxy, as a
plant's bus would stand there). Latency is from the moment a verdict is made to the moment the program has it, on one
clock.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that `python benchmarks/fan_in.py` works anywhere
from bank_tools.bench.machine import machine
from benchmarks.report import Report, Table, options_of, say
from edge_uad.errors import GapError, SilenceError
from edge_uad.net.subscriber import Subscriber
from edge_uad.outputs.zmq import ZmqPublisher
from edge_uad.records import Decision, StationState, StationStatus, UnreadableFrame, Verdict

N_STATIONS = 64
RATE_HZ = 30.0
SECONDS = 60.0
N_DAEMONS = 8
HEARTBEAT_S = 1.0
SETTLE_S = 4.0
"""Until every connection stands, before anything is counted."""
DRAIN_S = 3.0
ANOMALOUS_EACH = 50
MODEL_ID, BANK_ID = "a" * 64, "b" * 64


@dataclass(frozen=True)
class Load:
    """Verdicts that are published."""

    n_stations: int
    rate_hz: float
    seconds: float


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--stations", type=int, default=N_STATIONS)
    parser.add_argument("--rate-hz", type=float, default=RATE_HZ, help="verdicts a second of each station")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--role", choices=("publish", "subscribe", "forward"), help=argparse.SUPPRESS)
    parser.add_argument("--endpoints", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    load = Load(options.stations, options.rate_hz, 5.0 if options.quick else options.seconds)
    if options.role == "publish":
        publish(options.endpoints[0], load, first=options.first)
    elif options.role == "forward":
        forward(options.endpoints[0], options.endpoints[1:])
    elif options.role == "subscribe":
        print(json.dumps(subscribe(options.endpoints[0], load)), flush=True)
    else:
        compare(options, load)
    return 0


def compare(options: argparse.Namespace, load: Load) -> None:
    report = Report(
        name="fan_in",
        title="One subscriber for a plant",
        about=(
            f"{load.n_stations} simulated stations, {load.rate_hz:g} verdicts a second each and a heartbeat, for "
            f"{load.seconds:g} s, over TCP on loopback, on {machine()['CPU']}; the stations' processes, the forwarder "
            "and the subscriber share this machine, and share it with whatever else it ran: the load average is in "
            "the table."
        ),
    )
    rows = []
    for name, n_daemons in (("one daemon", 1), (f"{N_DAEMONS} daemons, forwarder", N_DAEMONS)):
        say(name)
        before = os.getloadavg()[0]
        found = followed(load, n_daemons)
        report.facts[name] = found | {"load_average_before": before}
        rows.append(
            [
                name,
                f"{found['published']:.0f}",
                f"{found['received']:.0f}",
                f"{found['missed']:.0f}",
                f"{found['gaps']:.0f}",
                f"{found['silences']:.0f}",
                f"{found['rate_hz']:.0f}",
                f"{found['cpu_ratio']:.0%}",
                f"{found['cpu_us']:.0f}",
                f"{found['peak_rss_mib']:.0f}",
                *(f"{found[key]:.1f}" for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms")),
                f"{before:.1f}",
            ]
        )
    columns = (
        *("way", "published", "received", "missed", "gaps", "silences", "verdicts/s", "of one core", "µs each"),
        *("peak MiB", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "load before"),
    )
    note = "Of one core, µs each and memory are the subscriber's process alone, Python and libraries included."
    report.add(Table(f"{load.n_stations} stations at {load.rate_hz:g} verdicts a second", columns, rows, note=note))
    report.close(options)


def followed(load: Load, n_daemons: int) -> dict[str, float]:
    """Start everything, let the subscriber count, stop everything."""
    with tempfile.TemporaryDirectory(prefix="edge-uad-", dir="/tmp") as folder, ExitStack() as stack:
        endpoints = [free_endpoint() for _ in range(n_daemons)]
        seen = endpoints[0]
        per_daemon = load.n_stations // n_daemons
        if n_daemons > 1:
            seen = free_endpoint()
            stack.enter_context(process("forward", [seen, *endpoints], load, folder))
        subscriber = stack.enter_context(process("subscribe", [seen], load, folder))
        time.sleep(SETTLE_S / 2)
        share = Load(per_daemon, load.rate_hz, load.seconds)
        daemons = [
            stack.enter_context(process("publish", [endpoint], share, folder, first=at * per_daemon))
            for at, endpoint in enumerate(endpoints)
        ]
        out, _ = subscriber.communicate(timeout=load.seconds + 120)
        published = sum(int(daemon.communicate(timeout=60)[0]) for daemon in daemons)
        return {"published": float(published), **json.loads(out)}


@contextmanager
def process(
    role: str, endpoints: list[str], load: Load, folder: str, *, first: int = 0
) -> Iterator["subprocess.Popen[str]"]:
    """This module in a process of its own; ended when the block is left."""
    command = [sys.executable, "-m", "benchmarks.fan_in", "--role", role, "--endpoints", *endpoints]
    command += ["--stations", str(load.n_stations), "--rate-hz", str(load.rate_hz), "--seconds", str(load.seconds)]
    command += ["--first", str(first)]
    environ = os.environ | {"TMPDIR": folder}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.terminate()


def free_endpoint() -> str:
    with zmq.Context() as context, context.socket(zmq.PUB) as probe:
        return f"tcp://127.0.0.1:{probe.bind_to_random_port('tcp://127.0.0.1')}"


def publish(endpoint: str, load: Load, *, first: int) -> None:
    """Publish every station's verdicts at its rate, the stations evenly spread over the period; print how many."""
    names = [f"station-{first + number:02d}" for number in range(load.n_stations)]
    judged: Counter[str] = Counter()
    publisher = ZmqPublisher(endpoint, heatmap="never", queue_messages=10_000)
    begun_s = time.monotonic()
    heartbeat_s = begun_s
    counted_from_s = begun_s + SETTLE_S
    number = 0
    period_s = 1 / (load.rate_hz * len(names))
    try:
        while (now_s := time.monotonic()) < counted_from_s + load.seconds + DRAIN_S:
            if now_s >= heartbeat_s:
                heartbeat_s += HEARTBEAT_S
                for name in names:
                    publisher.publish_status(status(name, judged[name]))
            due = min(int((now_s - counted_from_s) / period_s), round(load.seconds / period_s))
            while number < due:
                name = names[number % len(names)]
                judged[name] += 1
                publisher.publish(*verdict(name, judged[name]))
                number += 1
            time.sleep(period_s / 2 if len(names) > 1 else period_s / 4)
    finally:
        publisher.close()
    print(number, flush=True)


def verdict(station: str, sequence: int) -> tuple[Verdict, UnreadableFrame]:
    """A verdict made now, and a frame without a picture: nothing is drawn of it."""
    anomalous = sequence % ANOMALOUS_EACH == 0
    now_ns = time.time_ns()
    frame = UnreadableFrame(
        station=station,
        frame_id=sequence,
        captured_at_ns=now_ns,
        captured_mono_ns=time.monotonic_ns(),
        part_id=None,
        reason="",
    )
    return Verdict(
        station=station,
        frame_id=sequence,
        part_id=f"{station}-{sequence}",
        captured_at_ns=now_ns,
        decision=Decision.ANOMALOUS if anomalous else Decision.NORMAL,
        reason=None,
        score=0.4 if anomalous else 0.1,
        threshold=0.2,
        p_value=0.01,
        foreground_ratio=0.5,
        peak=(640, 480),
        heatmap=None,
        latency_ms=80.0,
        dropped_before=0,
        model_id=MODEL_ID,
        bank_id=BANK_ID,
        sequence=sequence,
    ), frame


def status(station: str, judged: int) -> StationStatus:
    return StationStatus(
        station=station,
        at_ns=time.time_ns(),
        state=StationState.RUNNING,
        message=None,
        frames_seen=judged,
        judged=judged,
        dropped=0,
        invalid=0,
        last_frame_age_s=0.0,
        bank_id=BANK_ID,
        model_id=MODEL_ID,
        ready=True,
    )


def forward(front: str, daemons: list[str]) -> None:
    """Pass everything on: the plant's bus, reduced to what it does here."""
    with zmq.Context() as context, context.socket(zmq.XSUB) as of_daemons, context.socket(zmq.XPUB) as to_subscribers:
        for socket in (of_daemons, to_subscribers):
            socket.set_hwm(10_000)
            socket.setsockopt(zmq.LINGER, 0)
        for daemon in daemons:
            of_daemons.connect(daemon)
        to_subscribers.bind(front)
        zmq.proxy(of_daemons, to_subscribers)


def subscribe(endpoint: str, load: Load) -> dict[str, float]:
    """Follow every station until all has come, or nothing more does."""
    wanted = round(load.n_stations * load.rate_hz * load.seconds)
    latencies_ms: list[float] = []
    gaps = silences = 0
    first_s = last_s = time.monotonic()
    used_s = cpu_s()
    with Subscriber(endpoint) as subscriber:
        until_s = time.monotonic() + 2 * SETTLE_S + load.seconds + 3 * DRAIN_S
        while len(latencies_ms) + sum(subscriber.missed.values()) < wanted and time.monotonic() < until_s:
            try:
                one = subscriber.receive(timeout_s=1.0)
            except GapError:
                gaps += 1
                continue
            except SilenceError:
                silences += 1
                continue
            if one is None:
                continue
            last_s = time.monotonic()
            if not latencies_ms:
                first_s, used_s, silences = last_s, cpu_s(), 0  # until the daemons were up there was silence
            latencies_ms.append((time.time_ns() - one.captured_at_ns) / 1e6)
        missed = sum(subscriber.missed.values())
    took_s, used_s = last_s - first_s, cpu_s() - used_s
    p50, p99, p999 = np.percentile(latencies_ms, [50, 99, 99.9])
    return {
        "received": float(len(latencies_ms)),
        "missed": float(missed),
        "gaps": float(gaps),
        "silences": float(silences),
        "rate_hz": len(latencies_ms) / took_s,
        "cpu_ratio": used_s / took_s,
        "cpu_us": used_s / len(latencies_ms) * 1e6,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "p999_ms": float(p999),
        "max_ms": max(latencies_ms),
    }


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
