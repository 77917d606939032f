"""A daemon of four stations under random faults, for as long as you like: ``make soak``, ``make soak MINUTES=60``.

Senders are killed, frames are torn, banks change places and are broken, a subscriber stalls, the disk runs full or
refuses to open, write, fsync or rename. At the end every frame sent has its verdict or is counted, in order; every
verdict is a row of the records or counted in a gap, and every chain fits; memory is flat; no thread and no descriptor
is left behind. The seed is printed: the same one gives the same faults.
"""

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from benchmarks.soak_disk import FailingDisk
from edge_uad import __version__
from edge_uad.net.wire import decode_message, encode_frame
from edge_uad.sources.sender import SEND_QUEUE_FRAMES, FrameSender, frame_message
from tests import models, parts

STATIONS = {"every1": "every", "every2": "every", "every3": "every", "latest": "latest"}
PAUSE_BETWEEN_FRAMES_S = {"every1": 0.05, "every2": 0.05, "every3": 0.2, "latest": 0.02}
TORN_RATIO = 0.02
FAULT_EVERY_S = (1.0, 4.0)
SAMPLE_EVERY_S = 0.5
QUIET_S = 3.0
WARM_UP_VERDICTS = 300
GROWTH_MIB_PER_H = 16.0
"""A slope that is above this for sure, and a rise above ``GROWTH_RATIO``, is a leak."""
GROWTH_RATIO = 0.03
MAX_LOST_WITH_A_SENDER = SEND_QUEUE_FRAMES + 2
"""What a killed sender's own queue holds, the frame in its hand, and one on its way into the socket."""
PATIENCE_S = 120.0
RECORDS_STOPPED = "records are not written"
EVIDENCE_STOPPED = "evidence is not kept"
RECORDS_BYTES, RECORDS_ROWS = 2**23, 5000
EVIDENCE_BYTES, EVIDENCE_FILES = 2**22, 100
SCRAPE_EVERY_S = 5.0
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures there, too")
    options.add_argument("--send", nargs=4, metavar=("STATION", "FOLDER", "FIRST", "SEED"), help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.send:
        return send(asked.send[0], Path(asked.send[1]), first=int(asked.send[2]), seed=int(asked.send[3]))
    seed = int(time.time()) if asked.seed is None else asked.seed
    print(f"soak: {asked.minutes:g} minutes, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        soak = Soak(Path(folder), seed)
        code = soak.run(asked.minutes * 60)
    if asked.json is not None:
        asked.json.write_text(json.dumps(soak.figures, indent=1) + "\n")
    return code


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
                # what has no readable number is numbered after the frame before: behind a killed sender that would be
                # one of those it took along, so that a sender's first frame keeps its header
                how = int(dice.integers(3)) if frame_id > first else 0
                _send_torn(sender, encode_frame(message), how)
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
        self.disk_faults = 0
        """How often the status began to say that records are not written."""
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
            told = self.status.get(header["station"], {}).get("message") or ""
            begins = RECORDS_STOPPED not in told and RECORDS_STOPPED in (header["message"] or "")
            self.disk_faults += begins and header["station"] == next(iter(STATIONS))  # one daemon, one log
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
        self.seed = seed
        self.dice = np.random.default_rng(seed)
        self.generations: dict[str, list[Generation]] = defaultdict(list)
        self.faults: dict[str, int] = defaultdict(int)
        self.samples: list[tuple[float, float]] = []
        self.deck: list[str] = []
        self.staller: Staller | None = None
        self.disk = FailingDisk(folder / "disk")
        self.disk_faults = self.disk.faults()
        self.failing: str | None = None
        """The disk's fault of this moment."""
        self.judged_while_failing = 0
        self._judged_before = 0
        self.figures: dict[str, Any] = {}
        self.log = folder / "daemon.log"

    def run(self, duration_s: float) -> int:
        """Give the exit code: 0 where everything is accounted for."""
        try:
            return self._run(duration_s)
        finally:
            self.disk.close()

    def _run(self, duration_s: float) -> int:
        config = self._prepare()
        command = [sys.executable, "-m", "edge_uad", "serve", "--config", config]
        # a pipe, because a quota on files is the log's, too
        self.daemon = subprocess.Popen(command, stderr=subprocess.PIPE)
        pump = threading.Thread(target=self._keep_log)
        pump.start()
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
            pump.join()

    def _keep_log(self) -> None:
        with self.log.open("wb", buffering=0) as log:
            for line in self.daemon.stderr:
                log.write(line)

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
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.metrics = f"127.0.0.1:{free.getsockname()[1]}"
        content = {
            "stations": stations,
            "model": str(model),
            "threads": 2,  # so that frames are judged side by side, too
            "publish": publish,
            "records": {"file": str(self.disk.records), "max_bytes": RECORDS_BYTES, "max_rows": RECORDS_ROWS},
            "evidence": {
                "folder": str(self.disk.evidence),
                "max_bytes": EVIDENCE_BYTES,
                "max_files": EVIDENCE_FILES,
            },
            "metrics": {"endpoint": self.metrics},
        }
        config.write_text(json.dumps(content))
        self.log.touch()
        return config

    def _soak(self, duration_s: float) -> int:
        self.disk.account.start()
        try:
            self._start_senders()
            self._wait(lambda: self._n_verdicts() >= WARM_UP_VERDICTS, "the first frames are not judged")
            before = self._quiet()
            self._start_senders()
            cpu_s = self._cpu_s()
            self._inject_faults(duration_s)
            cores = (self._cpu_s() - cpu_s) / duration_s
            self._wait_for_records()
            after = self._quiet()
            metrics = self._metrics()
            self.daemon.send_signal(signal.SIGTERM)
            code = self.daemon.wait(PATIENCE_S)
        finally:
            self.disk.account.close()
        return self._report(duration_s, before=before, after=after, code=code, cores=cores, metrics=metrics)

    def _inject_faults(self, duration_s: float) -> None:
        started_s = time.monotonic()
        fault_due_s = scrape_due_s = started_s + 1
        while time.monotonic() < started_s + duration_s:
            time.sleep(SAMPLE_EVERY_S)
            if self.daemon.poll() is not None:
                raise SystemExit(f"soak: the daemon ended\n{self.log.read_text()[-5000:]}")
            self.samples.append((time.monotonic() - started_s, self._rss_mib()))
            if time.monotonic() > scrape_due_s:
                self._metrics()
                scrape_due_s = time.monotonic() + SCRAPE_EVERY_S
            if time.monotonic() > fault_due_s:
                self._fault()
                fault_due_s = time.monotonic() + self.dice.uniform(*FAULT_EVERY_S)

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
        faults: dict[str, Callable[[], None]] = {
            "kill_sender": self._kill_sender,
            "swap_bank": self._swap_bank,
            "break_bank": self._break_bank,
            "reload": self._reload,
            "stall": self._stall,
        }
        faults |= {name: partial(self._fail_disk, name) for name in self.disk_faults}
        if not self.deck:
            self.deck = [list(faults)[card] for card in self.dice.permutation(len(faults))]
        self._mend_disk()  # it fails from one fault to the next
        name = self.deck.pop()
        self.faults[name] += 1
        faults[name]()

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

    def _fail_disk(self, name: str) -> None:
        self._judged_before = self._n_verdicts()
        self.disk_faults[name].begin(self.daemon.pid)
        self.failing = name

    def _mend_disk(self) -> None:
        if self.failing is not None:
            self.judged_while_failing += self._n_verdicts() - self._judged_before
            self.disk_faults[self.failing].end(self.daemon.pid)
            self.failing = None

    def _wait_for_records(self) -> None:
        """Until everything is written again: the senders are still at work."""
        self._mend_disk()

        def recovered() -> bool:
            messages = [status["message"] or "" for status in self.listener.status.values()]
            return not any(RECORDS_STOPPED in message or EVIDENCE_STOPPED in message for message in messages)

        self._wait(recovered, "the records do not go on after the disk works again")

    def _n_verdicts(self) -> int:
        return sum(map(len, self.listener.verdicts.values()))

    def _metrics(self) -> dict[str, float]:
        """Samples by name, added up over their labels but for the kind of loss."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=PATIENCE_S) as answer:
            text = answer.read().decode()
        told: dict[str, float] = defaultdict(float)
        for name, what, value in re.findall(r'^(\w+)(?:\{(?:what="([^"]+)")?.*\})? (\S+)$', text, re.MULTILINE):
            told[f"{name} {what}".strip()] += float(value)
        return told

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

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S

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

    def _report(
        self,
        duration_s: float,
        *,
        before: tuple[int, int],
        after: tuple[int, int],
        code: int,
        cores: float,
        metrics: dict[str, float],
    ) -> int:
        faults: list[str] = []
        stations = {}
        print(f"{'station':8} {'sent':>7} {'verdicts':>9} {'invalid':>8} {'dropped':>8} {'lost with a sender':>19}")
        for station in STATIONS:
            stations[station], found = self._check_station(station)
            faults += found
        slope, error, rise = self._slope()
        log = self.log.read_text()
        statuses = self.listener.status.values()
        figures = self.figures = {
            "version": __version__,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "minutes": duration_s / 60,
            "seed": self.seed,
            "stations": stations,
            "faults": dict(sorted(self.faults.items())),
            "banks": {"refused": self.listener.refusals, "followed": log.count(" follows bank ")},
            "subscribers_fell_behind": sum(status["verdict_overruns"] for status in statuses),
            "heatmaps_skipped": sum(status["heatmaps_skipped"] for status in statuses),
            "records": {
                "verdicts": self._n_verdicts(),
                "rows": self.disk.account.n_rows,
                "missing": self.disk.account.missing,
                "files": self.disk.account.n_files,
                "events": dict(sorted(self.disk.account.events.items())),
            },
            "disk": {
                "kind": self.disk.kind,
                "faults_reported": self.listener.disk_faults,
                "judged_while_failing": self.judged_while_failing,
                "evidence_lost": metrics["edge_uad_archive_lost_total evidence"],
            },
            "rss_mib": {
                "start": self.samples[len(self.samples) // 5][1],
                "end": self.samples[-1][1],
                "slope_per_h": slope,
                "slope_error": error,
                "rise_ratio": rise,
            },
            "cpu_cores": cores,
            "threads": {"before": before[0], "after": after[0]},
            "descriptors": {"before": before[1], "after": after[1]},
            "exit_code": code,
        }
        self._print(figures)
        faults += self._check_disk(metrics)
        if slope - 2 * error > GROWTH_MIB_PER_H and rise > GROWTH_RATIO:
            faults.append("memory grows")
        # a library makes its pool, of a thread less than there are cores, when it first has work for it
        if after[0] - before[0] >= max(os.cpu_count() or 1, 2) or after[1] > before[1]:
            faults.append("threads or descriptors are left behind")
        if code:
            faults.append(f"the daemon's exit code is {code}")
        if "Traceback" in log:
            faults.append("a fault inside:\n" + log[-5000:])
        figures["failed"] = faults
        print(f"soak of {duration_s / 60:g} minutes: {'passed' if not faults else '; '.join(faults)}")
        return int(bool(faults))

    def _print(self, figures: dict[str, Any]) -> None:
        print(f"faults: {', '.join(f'{name} {n}' for name, n in figures['faults'].items())}")
        print(f"banks refused: {figures['banks']['refused']}; followed: {figures['banks']['followed']}")
        print(f"subscribers fell behind: {figures['subscribers_fell_behind']} times")
        print(f"heatmaps not drawn: {figures['heatmaps_skipped']}")
        records, disk, rss = figures["records"], figures["disk"], figures["rss_mib"]
        gaps = f"{records['missing']} missing in {records['events'].get('gap', 0)} gaps, in {records['files']} files"
        print(f"records: {records['rows']} rows and {gaps}; of {records['verdicts']} verdicts")
        print(
            f"failing disk ({disk['kind']}): reported {disk['faults_reported']} times, "
            f"{disk['judged_while_failing']} judged meanwhile, {disk['evidence_lost']:g} pictures not kept"
        )
        slope = f"slope {rss['slope_per_h']:+.2f} ± {rss['slope_error']:.2f} MiB/h, rise {rss['rise_ratio']:+.2%}"
        print(f"memory: {rss['end']:.1f} MiB at the end, {slope}; CPU: {figures['cpu_cores']:.2f} cores")
        threads, descriptors = figures["threads"], figures["descriptors"]
        print(
            f"threads: {threads['before']} before, {threads['after']} after; "
            f"descriptors: {descriptors['before']} before, {descriptors['after']} after"
        )

    def _check_disk(self, metrics: dict[str, float]) -> list[str]:
        """Every verdict has one row or is counted as missing, and the metrics say the same."""
        account = self.disk.account
        verdicts = self._n_verdicts()
        faults = list(account.faults)
        if account.n_rows + account.missing != verdicts:
            faults.append(f"{verdicts} verdicts, but {account.n_rows} rows and {account.missing} counted as missing")
        for station, frames in account.frames.items():
            given = {row[0] for row in self.listener.verdicts[station]}
            faults += [f"{station}: frame {one} has {n} rows" for one, n in frames.items() if n > 1]
            faults += [f"{station}: frame {one} has a row, but no verdict" for one in sorted(set(frames) - given)]
        reported = (metrics["edge_uad_frames_total"], metrics["edge_uad_archive_lost_total audit line"])
        if reported != (verdicts, account.missing):
            faults.append(
                f"the metrics count {reported}: there were {verdicts} verdicts, {account.missing} without a row"
            )
        if any(self.faults[name] for name in self.disk_faults):
            if not self.listener.disk_faults:
                faults.append("the disk failed, and the status said nothing")
            if not self.judged_while_failing:
                faults.append("nothing was judged while the disk failed")
        return faults

    def _check_station(self, station: str) -> tuple[dict[str, int], list[str]]:
        verdicts, status = self.listener.verdicts[station], self.listener.status[station]
        ids = [frame_id for frame_id, *_ in verdicts]
        dropped = sum(row[1] for row in verdicts)
        sent = self.generations[station][-1].last + 1
        lost = sent - len(ids) - dropped
        invalid = sum(row[2] == "invalid" for row in verdicts)
        print(f"{station:8} {sent:7} {len(ids):9} {invalid:8} {dropped:8} {lost:19}")
        row = {"sent": sent, "verdicts": len(ids), "invalid": invalid, "dropped": dropped, "lost_with_a_sender": lost}
        faults = []
        if any(one >= other for one, other in itertools.pairwise(ids)):
            faults.append(f"{station}: the order is broken")
        if status["judged"] + status["dropped"] != status["frames_seen"] or status["judged"] != len(ids):
            faults.append(f"{station}: the daemon counts {status}, {len(ids)} verdicts came")
        killed = sum(generation.killed for generation in self.generations[station])
        row["senders_killed"] = killed
        if not 0 <= lost <= killed * MAX_LOST_WITH_A_SENDER:
            faults.append(f"{station}: {lost} frames are missing, with {killed} senders killed")
        if STATIONS[station] == "every":
            faults += [f"{station}: frame {frame_id} is missing" for frame_id in self._missing(station, set(ids))]
        return row, faults

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
