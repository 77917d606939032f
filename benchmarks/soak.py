"""A daemon of four stations under random faults, for as long as you like: ``make soak``, ``make soak MINUTES=60``.

Senders are killed, frames are torn, banks change places and are broken, a subscriber stalls. At the end every frame
sent has its verdict or is counted, in order; memory is flat; no thread and no descriptor is left behind. The seed is
printed: the same one gives the same faults.
"""

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zmq

from edge_uad.sources.sender import SEND_QUEUE_FRAMES, FrameSender, frame_message
from edge_uad.wire import decode_message, encode_frame
from tests import models, parts

STATIONS = {"every1": "every", "every2": "every", "every3": "every", "latest": "latest"}
PAUSE_BETWEEN_FRAMES_S = {"every1": 0.05, "every2": 0.05, "every3": 0.2, "latest": 0.02}
TORN_RATIO = 0.02
FAULT_EVERY_S = (1.0, 4.0)
SAMPLE_EVERY_S = 0.5
QUIET_S = 3.0
GROWTH_MIB_PER_H = 16.0
"""A slope that is above this for sure, and a rise above ``GROWTH_RATIO``, is a leak."""
GROWTH_RATIO = 0.03
MAX_LOST_WITH_A_SENDER = SEND_QUEUE_FRAMES + 2
"""What a killed sender's own queue holds, the frame in its hand, and one on its way into the socket."""
PATIENCE_S = 120.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--send", nargs=4, metavar=("STATION", "FOLDER", "FIRST", "SEED"), help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.send:
        return send(asked.send[0], Path(asked.send[1]), first=int(asked.send[2]), seed=int(asked.send[3]))
    seed = int(time.time()) if asked.seed is None else asked.seed
    print(f"soak: {asked.minutes:g} minutes, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        return Soak(Path(folder), seed).run(asked.minutes * 60)


# ---------------------------------------------------------------------------------------------------- the senders


def send(station: str, folder: Path, *, first: int, seed: int) -> int:
    """A process of its own: push frames until SIGTERM; says which frame comes next before it is sent."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    dice = np.random.default_rng(seed)
    pictures = sorted((folder / "good").glob("*.png"))
    frame_id = first
    with FrameSender(f"ipc://{folder}/{station}") as sender:
        while not stop.wait(PAUSE_BETWEEN_FRAMES_S[station]):
            print(frame_id, flush=True)
            path = pictures[frame_id % len(pictures)]
            message = frame_message(path, station=station, frame_id=frame_id, part_id=None, encoding="as-is")
            if dice.random() < TORN_RATIO:
                _send_torn(sender, encode_frame(message), int(dice.integers(3)))
            else:
                sender.send(message, timeout_s=PATIENCE_S)
            frame_id += 1
        sender.flush(PATIENCE_S)
    return 0


def _send_torn(sender: FrameSender, message: list[bytes], how: int) -> None:
    station, header, picture = message
    torn = ([station, header, picture[: len(picture) // 2]], [station, b"\xc1" + header, picture], [station, header])
    socket = sender._socket  # noqa: SLF001  (what no honest sender does)
    socket.poll(PATIENCE_S * 1000, zmq.POLLOUT)
    socket.send_multipart(torn[how])


@dataclass
class Generation:
    """One sender process's frames: first id, and the last that it may have sent."""

    process: subprocess.Popen
    first: int
    last: int
    killed: bool = False
    reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.last = int(line)

    def end(self, *, kill: bool) -> None:
        """By SIGTERM the sender hands over what it has; by SIGKILL that is lost."""
        self.killed = kill
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self.reader.join(PATIENCE_S)
        young = code == -signal.SIGTERM and self.last < self.first  # the signal came before it could be handled
        if code and not kill and not young:
            raise SystemExit(f"soak: a sender ended with exit code {code}")


# ------------------------------------------------------------------------------------------------ the subscribers


class Listener:
    """Reads everything that is published, in a thread."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._stop = threading.Event()
        self.verdicts: dict[str, list[tuple[int, int, str, str]]] = defaultdict(list)
        """Frame id, dropped_before, decision and bank id, by station."""
        self.status: dict[str, dict] = {}
        self.refusals = 0
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.subscribe("verdict/")
            socket.subscribe("status/")
            socket.connect(self._endpoint)
            while not self._stop.is_set():
                if socket.poll(100):
                    self._hear(*decode_message(socket.recv_multipart())[:2])

    def _hear(self, topic: str, header: dict) -> None:
        if topic.startswith("status/"):
            before = self.status.get(header["station"], {}).get("refused_bank")
            self.refusals += before is None and header["refused_bank"] is not None
            self.status[header["station"]] = header
        else:
            row = (header["frame_id"], header["dropped_before"], header["decision"], header["bank_id"])
            self.verdicts[header["station"]].append(row)

    def close(self) -> None:
        """Leave."""
        self._stop.set()
        self.thread.join()


class Staller:
    """A subscriber that takes everything and reads nothing."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.subscribe("")
        self._socket.connect(endpoint)

    def close(self) -> None:
        """Leave."""
        self._socket.close(linger=0)
        self._context.term()


# ------------------------------------------------------------------------------------------------------- the soak


class Soak:
    """One run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.dice = np.random.default_rng(seed)
        self.generations: dict[str, list[Generation]] = defaultdict(list)
        self.faults: dict[str, int] = defaultdict(int)
        self.samples: list[tuple[float, float]] = []
        self.deck: list[Callable[[], None]] = []
        self.staller: Staller | None = None
        self.log = folder / "daemon.log"

    def run(self, duration_s: float) -> int:
        """Give the exit code: 0 where everything is accounted for."""
        config = self._prepare()
        with self.log.open("w") as log:
            self.daemon = subprocess.Popen([sys.executable, "-m", "edge_uad", "serve", "--config", config], stderr=log)
        try:
            self._wait(lambda: " ready" in self.log.read_text(), "the daemon is not ready")
            self.endpoint = self.log.read_text().split("verdicts on ")[1].split()[0]
            self.listener = Listener(self.endpoint)
            try:
                return self._soak(duration_s)
            finally:
                self.listener.close()
        finally:
            for generations in self.generations.values():
                if generations[-1].process.poll() is None:
                    generations[-1].end(kill=True)
            if self.daemon.poll() is None:
                self.daemon.kill()
            self.daemon.wait()

    def _prepare(self) -> Path:
        model = models.export_tiny_model(self.folder / "tiny.onnx")
        parts.write_parts(self.folder / "good", 24, seed=0)
        parts.write_parts(self.folder / "other", 24, seed=1)
        for name in ("good", "other"):
            command = ["build-bank", self.folder / name, "--model", model, "--out", self.folder / f"{name}.bank"]
            subprocess.run([sys.executable, "-m", "edge_uad", *map(str, command)], check=True, capture_output=True)
        shutil.copy(self.folder / "good.bank", self.folder / "bank")
        stations = [
            {"name": name, "source": f"ipc://{self.folder}/{name}", "bank": str(self.folder / "bank"), "mode": mode}
            for name, mode in STATIONS.items()
        ]
        publish = {"endpoint": f"ipc://{self.folder}/out", "heatmap": "always", "queue_messages": 500}
        config = self.folder / "line.yaml"
        config.write_text(json.dumps({"stations": stations, "model": str(model), "threads": 1, "publish": publish}))
        return config

    def _soak(self, duration_s: float) -> int:
        self._start_senders()
        time.sleep(QUIET_S)
        before = self._quiet()
        self._start_senders()
        started_s = time.monotonic()
        fault_due_s = started_s + 1
        while time.monotonic() < started_s + duration_s:
            time.sleep(SAMPLE_EVERY_S)
            if self.daemon.poll() is not None:
                raise SystemExit(f"soak: the daemon ended\n{self.log.read_text()[-5000:]}")
            self.samples.append((time.monotonic() - started_s, self._rss_mib()))
            if time.monotonic() > fault_due_s:
                self._fault()
                fault_due_s = time.monotonic() + self.dice.uniform(*FAULT_EVERY_S)
        after = self._quiet()
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(PATIENCE_S)
        return self._report(duration_s, before, after, code)

    def _start_senders(self) -> None:
        for station in STATIONS:
            self._start_sender(station)

    def _start_sender(self, station: str) -> None:
        before = self.generations[station]
        first = before[-1].last + 1 if before else 0
        command = ["-m", "benchmarks.soak", "--send", station, self.folder, first, self.dice.integers(2**31)]
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True)
        before.append(Generation(process, first, first - 1))

    def _fault(self) -> None:
        if not self.deck:
            faults = [self._kill_sender, self._swap_bank, self._break_bank, self._reload, self._stall]
            self.deck = [faults[card] for card in self.dice.permutation(len(faults))]
        fault = self.deck.pop()
        self.faults[fault.__name__.removeprefix("_")] += 1
        fault()

    def _kill_sender(self) -> None:
        station = list(STATIONS)[self.dice.integers(len(STATIONS))]
        self.generations[station][-1].end(kill=True)
        self._start_sender(station)

    def _swap_bank(self) -> None:
        shutil.copy(self.folder / ("good.bank", "other.bank")[self.dice.integers(2)], self.folder / "new")
        (self.folder / "new").replace(self.folder / "bank")

    def _break_bank(self) -> None:
        content = (self.folder / "good.bank").read_bytes()
        (self.folder / "bank").write_bytes(content[: self.dice.integers(len(content))])

    def _reload(self) -> None:
        self.daemon.send_signal(signal.SIGHUP)

    def _stall(self) -> None:
        if self.staller is None:
            self.staller = Staller(self.endpoint)
        else:
            self.staller.close()
            self.staller = None

    def _quiet(self) -> tuple[int, int]:
        """End the senders, wait until all is judged; threads and descriptors then."""
        for generations in self.generations.values():
            generations[-1].end(kill=False)
        if self.staller is not None:
            self._stall()
        shutil.copy(self.folder / "good.bank", self.folder / "new")
        (self.folder / "new").replace(self.folder / "bank")
        self._wait(self._all_judged, "not every frame has its verdict")
        time.sleep(QUIET_S)
        process = Path(f"/proc/{self.daemon.pid}")
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def _all_judged(self) -> bool:
        for station, generations in self.generations.items():
            verdicts = self.listener.verdicts[station]
            if generations[-1].last >= generations[-1].first and (
                not verdicts or verdicts[-1][0] < generations[-1].last
            ):
                return False
        return True

    def _rss_mib(self) -> float:
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def _wait(self, happened: Callable[[], bool], otherwise: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not happened():
            if time.monotonic() > deadline_s or self.daemon.poll() is not None:
                raise SystemExit(f"soak: {otherwise}\n{self.log.read_text()[-5000:]}")
            time.sleep(0.05)

    # ------------------------------------------------------------------------------------------------- the report

    def _report(self, duration_s: float, before: tuple[int, int], after: tuple[int, int], code: int) -> int:
        faults: list[str] = []
        print(f"{'station':8} {'sent':>7} {'verdicts':>9} {'invalid':>8} {'dropped':>8} {'lost with a sender':>19}")
        for station in STATIONS:
            faults += self._check_station(station)
        slope, error, rise = self._slope()
        print(f"faults: {', '.join(f'{name} {n}' for name, n in sorted(self.faults.items()))}")
        print(f"banks refused: {self.listener.refusals}; followed: {self.log.read_text().count(' follows bank ')}")
        overruns = sum(status["verdict_overruns"] for status in self.listener.status.values())
        print(f"subscribers fell behind: {overruns} times")
        memory = f"{self.samples[-1][1]:.1f} MiB at the end, slope {slope:+.2f} ± {error:.2f} MiB/h, rise {rise:+.2%}"
        print(f"memory: {memory}")
        print(f"threads: {before[0]} before, {after[0]} after; descriptors: {before[1]} before, {after[1]} after")
        if slope - 2 * error > GROWTH_MIB_PER_H and rise > GROWTH_RATIO:
            faults.append("memory grows")
        if after != before:
            faults.append("threads or descriptors are left behind")
        if code:
            faults.append(f"the daemon's exit code is {code}")
        if "Traceback" in self.log.read_text():
            faults.append("a fault inside:\n" + self.log.read_text()[-5000:])
        print(f"soak of {duration_s / 60:g} minutes: {'passed' if not faults else '; '.join(faults)}")
        return int(bool(faults))

    def _check_station(self, station: str) -> list[str]:
        verdicts, status = self.listener.verdicts[station], self.listener.status[station]
        ids = [frame_id for frame_id, *_ in verdicts]
        dropped = sum(row[1] for row in verdicts)
        sent = self.generations[station][-1].last + 1
        lost = sent - len(ids) - dropped
        invalid = sum(row[2] == "invalid" for row in verdicts)
        print(f"{station:8} {sent:7} {len(ids):9} {invalid:8} {dropped:8} {lost:19}")
        faults = []
        if any(one >= other for one, other in itertools.pairwise(ids)):
            faults.append(f"{station}: the order is broken")
        if status["judged"] + status["dropped"] != status["frames_seen"] or status["judged"] != len(ids):
            faults.append(f"{station}: the daemon counts {status}, {len(ids)} verdicts came")
        killed = sum(generation.killed for generation in self.generations[station])
        if not 0 <= lost <= killed * MAX_LOST_WITH_A_SENDER:
            faults.append(f"{station}: {lost} frames are missing, with {killed} senders killed")
        if STATIONS[station] == "every":
            faults += [f"{station}: frame {frame_id} is missing" for frame_id in self._missing(station, set(ids))]
        return faults

    def _missing(self, station: str, ids: set[int]) -> list[int]:
        """Frames without a verdict that did not go with a killed sender: that one takes its last ones along."""
        missing: list[int] = []
        for generation in self.generations[station]:
            of_it = set(range(generation.first, generation.last + 1))
            end = max(ids & of_it, default=generation.first - 1) if generation.killed else generation.last
            missing += sorted(frame_id for frame_id in of_it - ids if frame_id <= end)
        return missing

    def _slope(self) -> tuple[float, float, float]:
        """MiB per hour, its standard error, and the rise as a share; the first fifth is the warm-up."""
        at_s, rss_mib = np.array(self.samples[len(self.samples) // 5 :]).T
        coefficients, covariance = np.polyfit(at_s / 3600, rss_mib, 1, cov=True)
        rise = coefficients[0] * (at_s[-1] - at_s[0]) / 3600 / rss_mib.mean()
        return float(coefficients[0]), float(covariance[0, 0] ** 0.5), float(rise)


if __name__ == "__main__":
    sys.exit(main())
