"""Verdicts per second and latency of a daemon with several stations, for one version of the code or for several.

    python -m benchmarks.stations [--code DIR …] [--cores 1,2] [--live 3] [--queue-frames 8] [--repeats 5] [--quick]

Starts ``edge-uad serve`` as a process, sends frames to it over ZeroMQ and receives its verdicts. Two loads:

- *every*: one station in ``mode: every``; ``--ahead`` frames are always under way, so that a frame is always waiting.
- *live*: stations in ``mode: latest``, each sent ``--camera-hz`` frames per second; frames that are not judged in time
  are dropped by the daemon and counted here.

With ``--code`` several checkouts are compared: their daemons are started together and measured in turn, on the same
cores, frames and bank (built by the first), so that other programs slow all of them. The script needs only pyzmq,
msgpack, numpy and Pillow and imports no code of the versions measured.
"""

import contextlib
import heapq
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack
import numpy as np
import yaml
import zmq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that `python benchmarks/stations.py` works anywhere
from benchmarks.report import Report, Table, options_of, say

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "export" / "parity_image.jpg"
FRAME_HW = (960, 1280)
N_FRAMES = 16
NOISE_LEVELS = 2.0
JPEG_QUALITY = 95
START_TIMEOUT_S = 180.0
VERDICT_TIMEOUT_S = 60.0
QUIET_S = 1.0
"""A line is idle when no verdict came for so long."""
WARM_UP_VERDICTS = 3
LONE_FRAMES = 5
"""In each round."""
LOG_TAIL = 2000


@dataclass(frozen=True)
class Load:
    """What the daemon is sent."""

    mode: str
    """``every`` or ``latest``."""
    n_stations: int
    queue_frames: int
    ahead: int
    """Frames under way in ``every``."""
    camera_hz: float
    """Frames per second and station in ``latest``."""

    @property
    def name(self) -> str:
        """For table titles."""
        stations = "1 station" if self.n_stations == 1 else f"{self.n_stations} stations"
        if self.mode == "every":
            return f"{stations}, every, queue_frames {self.queue_frames}"
        return f"{stations} live, {self.camera_hz:g} frames/s each"


@dataclass
class Measured:
    """All rounds of one daemon under one load."""

    rates_hz: list[float] = field(default_factory=list)
    """Verdicts per second of all stations together, one value per round."""
    station_rates_hz: list[list[float]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    """From the frame's capture stamp to the verdict's arrival here, under the load."""
    alone_ms: list[float] = field(default_factory=list)
    """The same of single frames, nothing else under way."""
    sent: int = 0
    dropped: int = 0
    """As the verdicts state it."""
    invalid: int = 0
    peak_rss_mib: float | None = None

    def row(self) -> list[str]:
        """Cells below ``COLUMNS``."""
        slowest = min(statistics.median(rates) for rates in zip(*self.station_rates_hz, strict=True))
        return [
            f"{statistics.median(self.rates_hz):.2f}",
            f"{min(self.rates_hz):.2f} to {max(self.rates_hz):.2f}",
            f"{slowest:.2f}",
            f"{np.median(self.latencies_ms):.0f}",
            f"{np.percentile(self.latencies_ms, 99):.0f}",
            f"{np.median(self.alone_ms):.0f}",
            str(self.dropped),
            str(self.invalid),
            "-" if self.peak_rss_mib is None else f"{self.peak_rss_mib:.0f}",
        ]


COLUMNS = (
    "frames/s",
    "of the rounds",
    "slowest station",
    "median ms",
    "p99 ms",
    "alone ms",
    "dropped",
    "invalid",
    "peak MiB",
)


class Line:
    """A daemon of one checkout on given cores, its senders and its subscriber; a context manager.

    Args:
        code: the checkout, first on the daemon's PYTHONPATH.
        load: how many stations, in which mode.
        bank: of every station.
        cores: CPU numbers that the daemon may use.
        folder: for sockets, config and log; short.
        settings: further keys of the config file.
    """

    def __init__(
        self, code: Path, load: Load, *, bank: Path, cores: Sequence[int], folder: Path, settings: dict[str, Any]
    ) -> None:
        folder.mkdir(parents=True)
        self.load = load
        self.names = [f"s{number + 1}" for number in range(load.n_stations)]
        scheme = "ipc://" if load.mode == "every" else "sub+ipc://"
        stations = [
            {
                "name": name,
                "source": f"{scheme}{folder}/{name}",
                "bank": str(bank.absolute()),
                "mode": load.mode,
                "queue_frames": load.queue_frames,
            }
            for name in self.names
        ]
        publish = {"endpoint": f"ipc://{folder}/out", "heatmap": "never"}
        self._config = folder / "line.yaml"
        self._config.write_text(yaml.safe_dump({"stations": stations, "publish": publish} | settings))
        self._folder = folder
        self._code = code
        self._cores = cores
        self._exits = contextlib.ExitStack()
        self._next_id = dict.fromkeys(self.names, 0)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def measure(self, frames: Iterator[bytes], duration_s: float, measured: Measured) -> None:
        """Send frames for so many seconds, receive the verdicts, and add one round to ``measured``."""
        self._finish()
        for _ in range(LONE_FRAMES):
            self._send(self.names[0], next(frames))
            measured.alone_ms.append(age_ms(self._verdict()))
        if self.load.mode == "every":
            self._measure_every(frames, duration_s, measured)
        else:
            self._measure_live(frames, duration_s, measured)
        self._finish()
        measured.peak_rss_mib = peak_rss_mib(self._process.pid)

    def _measure_every(self, frames: Iterator[bytes], duration_s: float, measured: Measured) -> None:
        name = self.names[0]
        for _ in range(self.load.ahead):
            self._send(name, next(frames))
        for _ in range(self.load.ahead):
            self._verdict()
            self._send(name, next(frames))
        measured.sent += self.load.ahead
        started_s = now_s = time.monotonic()
        n = 0
        while now_s - started_s < duration_s:
            self._note(self._verdict(), measured)
            now_s = time.monotonic()
            n += 1
            self._send(name, next(frames))
            measured.sent += 1
        measured.rates_hz.append(n / (now_s - started_s))
        measured.station_rates_hz.append([n / (now_s - started_s)])

    def _measure_live(self, frames: Iterator[bytes], duration_s: float, measured: Measured) -> None:
        period_s = 1 / self.load.camera_hz
        started_s = time.monotonic()
        due = [(started_s + period_s * at / len(self.names), name) for at, name in enumerate(self.names)]
        heapq.heapify(due)
        counted = dict.fromkeys(self.names, 0)
        warm_s = min(1.0, duration_s / 4)
        end_s = started_s + warm_s + duration_s
        while (now_s := time.monotonic()) < end_s:
            if due[0][0] <= now_s:
                at_s, name = due[0]
                self._send(name, next(frames))
                heapq.heapreplace(due, (at_s + period_s, name))
                measured.sent += now_s >= started_s + warm_s
            elif self._socket.poll(max((due[0][0] - now_s) * 1000, 0)):
                header = self._received()
                if header is not None and time.monotonic() >= started_s + warm_s:
                    self._note(header, measured)
                    counted[header["station"]] += 1
        measured.rates_hz.append(sum(counted.values()) / duration_s)
        measured.station_rates_hz.append([count / duration_s for count in counted.values()])

    def _note(self, header: dict[str, Any], measured: Measured) -> None:
        measured.latencies_ms.append(age_ms(header))
        measured.dropped += header["dropped_before"]
        measured.invalid += header["decision"] == "invalid"

    def _start(self) -> None:
        context = self._exits.enter_context(zmq.Context())
        self._socket = self._exits.enter_context(context.socket(zmq.SUB))
        self._socket.setsockopt(zmq.RCVHWM, 0)
        for topic in ("status/", "verdict/"):
            self._socket.subscribe(topic)
        self._socket.connect(f"ipc://{self._folder}/out")
        log = self._exits.enter_context((self._folder / "daemon.log").open("wb"))
        arguments = ["-m", "edge_uad", "serve", "--config", str(self._config)]
        self._process = start(arguments, self._code, self._cores, self._folder, log)
        self._exits.callback(self._stop)
        self._senders = {}
        for name in self.names:
            sender = self._exits.enter_context(context.socket(zmq.PUSH if self.load.mode == "every" else zmq.PUB))
            sender.setsockopt(zmq.LINGER, 0)
            sender.connect(f"ipc://{self._folder}/{name}")
            self._senders[name] = sender
        waited_for = set(self.names)
        until_s = time.monotonic() + START_TIMEOUT_S
        while waited_for:
            topic, header = self._message(until_s)
            if topic.startswith("status/") and header["state"] == "running":
                waited_for.discard(header["station"])
        self._socket.unsubscribe("status/")

    def warm_up(self, frames: Iterator[bytes]) -> None:
        """Send to each station until it has given a few verdicts; a PUB socket loses what it sends too early."""
        until_s = time.monotonic() + START_TIMEOUT_S
        for name in self.names:
            received = 0
            while received < WARM_UP_VERDICTS:
                self._send(name, next(frames))
                if self._socket.poll(round(QUIET_S * 1000)):
                    received += self._received() is not None
                elif time.monotonic() > until_s:
                    raise SystemExit(f"no verdict from station {name}: {self._log_tail()}")

    def _finish(self) -> None:
        """Receive what is still under way."""
        while self._socket.poll(round(QUIET_S * 1000)):
            self._received()

    def _send(self, name: str, jpeg: bytes) -> None:
        header = {
            "frame_id": self._next_id[name],
            "part_id": None,
            "captured_at_ns": time.time_ns(),
            "encoding": "jpeg",
            "height": FRAME_HW[0],
            "width": FRAME_HW[1],
        }
        self._next_id[name] += 1
        self._senders[name].send_multipart([name.encode(), msgpack.packb(header), jpeg])

    def _verdict(self) -> dict[str, Any]:
        until_s = time.monotonic() + VERDICT_TIMEOUT_S
        while True:
            topic, header = self._message(until_s)
            if topic.startswith("verdict/"):
                return header

    def _message(self, until_s: float) -> tuple[str, dict[str, Any]]:
        while not self._socket.poll(100):
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"the daemon of {self._code} gave no message: {self._log_tail()}")
        topic, header, *_ = self._socket.recv_multipart()
        return topic.decode(), msgpack.unpackb(header)

    def _received(self) -> dict[str, Any] | None:
        """The verdict that has arrived; None for another message."""
        topic, header, *_ = self._socket.recv_multipart()
        return msgpack.unpackb(header) if topic.startswith(b"verdict/") else None

    def _log_tail(self) -> str:
        return "\n" + (self._folder / "daemon.log").read_text(errors="replace")[-LOG_TAIL:]

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start(
    arguments: Sequence[str], code: Path, cores: Sequence[int], folder: Path, output: Any
) -> subprocess.Popen[bytes]:
    """Python with a checkout's code, on these cores alone; a child inherits them from the thread that starts it."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=folder, stdout=output, stderr=output)
    finally:
        os.sched_setaffinity(0, allowed)


def age_ms(header: dict[str, Any]) -> float:
    """Time since the verdict's frame was captured."""
    return (time.time_ns() - header["captured_at_ns"]) / 1e6


def peak_rss_mib(pid: int) -> float | None:
    """The most memory that a process has held; None where there is no /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) / 1024 if found else None


def drawn_frames(n: int) -> list[bytes]:
    """JPEG files of one scene, each shifted a little and with other noise."""
    height, width = FRAME_HW
    rng = np.random.default_rng(0)
    with Image.open(PICTURE) as opened:
        scene = opened.convert("RGB")
    shown_w = 0.9 * min(scene.width, scene.height * width / height)
    shown_h = shown_w * height / width
    noise = NOISE_LEVELS * rng.standard_normal((height, width, 3), np.float32)
    frames = []
    for _ in range(n):
        left, top = rng.uniform(0, scene.width - shown_w), rng.uniform(0, scene.height - shown_h)
        box = (left, top, left + shown_w, top + shown_h)
        seen = np.asarray(scene.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)
        noisy = np.clip(seen + np.roll(noise, int(rng.integers(height)), axis=0), 0, 255).astype(np.uint8)
        buffer = BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=JPEG_QUALITY)
        frames.append(buffer.getvalue())
    return frames


def built_bank(frames: Sequence[bytes], code: Path, model: Path | None, folder: Path) -> Path:
    """A bank of these frames, by ``edge-uad build-bank`` of this checkout."""
    normals = folder / "normals"
    normals.mkdir()
    for number, jpeg in enumerate(frames):
        (normals / f"{number:03}.jpg").write_bytes(jpeg)
    bank = folder / "bank.safetensors"
    arguments = ["-m", "edge_uad", "build-bank", str(normals), "--out", str(bank), "--coreset", "1"]
    arguments += [] if model is None else ["--model", str(model)]
    with (folder / "build.log").open("wb") as log:
        code_of_it = start(arguments, code, sorted(os.sched_getaffinity(0)), folder, log).wait()
    if code_of_it:
        raise SystemExit(f"build-bank failed: {(folder / 'build.log').read_text(errors='replace')[-LOG_TAIL:]}")
    return bank


def main() -> int:
    options = parsed()
    codes = [Path(one).absolute() for one in options.code or [ROOT]]
    frames = drawn_frames(N_FRAMES)
    repeats, duration_s = (1, 2.0) if options.quick else (options.repeats, options.duration)
    report = Report(
        name="stations",
        title="Several stations",
        about=(
            f"`edge-uad serve` fed with JPEG frames of {FRAME_HW[1]}×{FRAME_HW[0]} px over ZeroMQ, {repeats} rounds of "
            f"{duration_s:g} s. *every*: {options.ahead} frames always under way. *live*: the newest frame wins. "
            "Latency is from capture to the verdict's arrival, waiting included; *alone*: of single frames, no load."
        ),
    )
    allowed = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="edge-uad-", dir="/tmp") as name:
        folder = Path(name)
        bank = options.bank or built_bank(frames, codes[0], options.model, folder)
        settings = yaml.safe_load(options.settings) | (
            {} if options.model is None else {"model": str(options.model.absolute())}
        )
        for n_cores in options.cores or [len(allowed)]:
            cores = allowed[:n_cores]
            if len(cores) < n_cores:
                raise SystemExit(f"--cores {n_cores}: this process may use {len(allowed)} cores")
            for number, load in enumerate(loads(options)):
                say(f"{load.name}, {n_cores} cores")
                place = folder / f"{n_cores}-{number}"
                found = measured_in_turn(
                    codes,
                    load,
                    bank=bank,
                    cores=cores,
                    folder=place,
                    settings=settings,
                    frames=frames,
                    repeats=repeats,
                    duration_s=duration_s,
                )
                rows = [[shown(code, codes), *one.row()] for code, one in zip(codes, found, strict=True)]
                title = f"{load.name}; {n_cores} " + ("core" if n_cores == 1 else "cores")
                report.add(Table(title, ("code", *COLUMNS), rows))
                report.facts[title] = {shown(code, codes): asdict(one) for code, one in zip(codes, found, strict=True)}
    report.close(options)
    return 0


def parsed() -> Any:
    parser = options_of(__doc__)
    parser.add_argument("--code", action="append", metavar="DIR", help="a checkout to measure; repeat it to compare")
    parser.add_argument("--cores", type=whole_numbers, help="numbers of cores, by commas (default: all)")
    parser.add_argument("--live", type=whole_numbers, default=[3], help="numbers of live stations, by commas")
    parser.add_argument("--camera-hz", type=float, default=15.0, help="frames per second of each live station")
    parser.add_argument("--queue-frames", type=int, default=8, help="of the station in mode every")
    parser.add_argument("--ahead", type=int, default=24, help="frames always under way in mode every")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--duration", type=float, default=6.0, metavar="SECONDS", help="of one round")
    parser.add_argument("--bank", type=Path, help="default: built of the frames by the first checkout")
    parser.add_argument("--model", type=Path, help="default: the default backbone in the cache")
    parser.add_argument("--settings", default="{}", metavar="YAML", help="more keys of the config: '{threads: 2}'")
    return parser.parse_args()


def loads(options: Any) -> list[Load]:
    shared = {"queue_frames": options.queue_frames, "ahead": options.ahead, "camera_hz": options.camera_hz}
    every = Load("every", 1, **shared)
    return [every, *(Load("latest", n, **shared) for n in options.live)]


def measured_in_turn(
    codes: Sequence[Path],
    load: Load,
    *,
    bank: Path,
    cores: Sequence[int],
    folder: Path,
    settings: dict[str, Any],
    frames: Sequence[bytes],
    repeats: int,
    duration_s: float,
) -> list[Measured]:
    """One daemon for each checkout, measured one after the other, round by round, the order reversed each time."""
    endless = itertools.cycle(frames)
    found = [Measured() for _ in codes]
    with contextlib.ExitStack() as exits:
        lines = [
            exits.enter_context(
                Line(code, load, bank=bank, cores=cores, folder=folder / str(number), settings=settings)
            )
            for number, code in enumerate(codes)
        ]
        for line in lines:
            line.warm_up(endless)
        pairs = list(zip(lines, found, strict=True))
        for _ in range(repeats):
            for line, measured in pairs:
                line.measure(endless, duration_s, measured)
            pairs.reverse()
    return found


def shown(code: Path, codes: Sequence[Path]) -> str:
    return code.name if len(codes) > 1 else "this"


def whole_numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


if __name__ == "__main__":
    sys.exit(main())
