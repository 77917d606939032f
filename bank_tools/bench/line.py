"""``edge-uad serve`` as a separate process that is sent frames and publishes verdicts over its real sockets."""

import contextlib
import heapq
import itertools
import json
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from bank_tools.bench.frames import STATION, stamped_now
from bank_tools.bench.machine import peak_rss_mib
from edge_uad._packages import command_of
from edge_uad.errors import EdgeUadError
from edge_uad.net.wire import FrameMessage, Json, decode_message
from edge_uad.records import StationState
from edge_uad.runtime.settings import StationMode
from edge_uad.runtime.workers import available_cores
from edge_uad.sources.sender import FrameSender

WAITING_FRAMES = 1
"""Sent ahead beyond two per station or core: one on its way."""
TIMEOUT_S = 60.0
START_TIMEOUT_S = 180.0
IDLE_S = 0.5
"""A line without a verdict for so long, and without frames sent, has nothing under way."""
_POLL_MS = 100
_LOG_TAIL = 2000


def line_content(model: Path, bank: Path, *, n_stations: int = 1, mode: StationMode = "every", **settings: Any) -> Json:
    """Config of a line of equal stations that take frames over ZeroMQ; :class:`ServedLine` adds the addresses.

    Args:
        model: the backbone's file.
        bank: of every station.
        n_stations: number of stations.
        mode: of every station.
        settings: other keys of the config.
    """
    names = [STATION if number == 0 else f"{STATION}{number + 1}" for number in range(n_stations)]
    stations = [{"name": name, "source": "", "bank": str(bank.absolute()), "mode": mode} for name in names]
    return {"model": str(model.absolute()), "stations": stations, **settings}


@dataclass(slots=True, kw_only=True)
class LiveCount:
    """Verdicts of stations whose cameras send at a fixed rate."""

    duration_s: float
    n_verdicts: dict[str, int]
    """By station."""
    n_sent: int = 0
    latencies_s: list[float] = field(default_factory=list)
    """From capture to the verdict's arrival here."""


class ServedLine:
    """A running daemon; a context manager, entered when every station runs.

    Args:
        content: from :func:`line_content`.
        folder: of this line alone, short enough for a socket's name.

    Raises:
        EdgeUadError: the daemon does not start or sends nothing in time; the message ends with its log.
    """

    def __init__(self, content: Mapping[str, Any], folder: Path) -> None:
        folder.mkdir(parents=True)
        stations = [{**one, "source": f"ipc://{folder}/{one['name']}"} for one in content["stations"]]
        publish = {**content.get("publish", {}), "endpoint": f"ipc://{folder}/out"}
        self.stations = [str(one["name"]) for one in stations]
        self._config = folder / "line.yaml"
        self._config.write_text(json.dumps({**content, "stations": stations, "publish": publish}), encoding="utf-8")
        self._sources = [str(one["source"]) for one in stations]
        self._endpoint = publish["endpoint"]
        self._log = folder / "daemon.log"
        self._exits = contextlib.ExitStack()
        self._frame_ids = itertools.count()
        self._turns = itertools.cycle(range(len(self.stations)))

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

    def latency_s(self, message: FrameMessage) -> tuple[float, Json]:
        """One frame alone: seconds from its capture to its verdict's arrival, and the verdict."""
        started_s = time.perf_counter()
        self._send(message, next(self._turns))
        verdict = self._verdict()
        return time.perf_counter() - started_s, verdict

    def rate_hz(self, messages: Iterable[FrameMessage], n: int) -> float:
        """Verdicts per second over ``n`` of them, with frames always waiting.

        Args:
            messages: sent to the stations in turn; endless.
            n: a multiple of the batch, where frames are judged in batches.
        """
        ahead = 2 * max(len(self.stations), available_cores()) + WAITING_FRAMES
        total = n + 2 * ahead
        frames = iter(messages)
        arrivals_s: list[float] = []
        n_sent = 0
        while len(arrivals_s) < total:
            while n_sent < total and n_sent - len(arrivals_s) < ahead:
                self._send(next(frames), next(self._turns))
                n_sent += 1
            self._verdict()
            arrivals_s.append(time.perf_counter())
        return n / (arrivals_s[ahead + n - 1] - arrivals_s[ahead - 1])

    def live(self, messages: Iterator[FrameMessage], *, camera_hz: float, duration_s: float) -> LiveCount:
        """Send to every station at a fixed rate, whatever the daemon does, and count the verdicts.

        Args:
            messages: endless.
            camera_hz: frames per second and station; the stations' frames are evenly staggered.
            duration_s: how long.
        """
        started_s = time.monotonic()
        period_s = 1 / camera_hz
        due = [(started_s + period_s * index / len(self.stations), index) for index in range(len(self.stations))]
        count = LiveCount(duration_s=duration_s, n_verdicts=dict.fromkeys(self.stations, 0))
        while (now_s := time.monotonic()) < started_s + duration_s:
            at_s, index = due[0]
            if at_s <= now_s:
                self._send(next(messages), index)
                heapq.heapreplace(due, (at_s + period_s, index))
                count.n_sent += 1
            elif self._socket.poll(max(round((at_s - now_s) * 1000), 1)):
                self._count(count)
        while self._socket.poll(round(IDLE_S * 1000)):  # what is still under way is received, and not counted
            self._socket.recv_multipart()
        return count

    @property
    def peak_rss_mib(self) -> float | None:
        """The most memory that the daemon has held so far; None where the system does not report it."""
        return peak_rss_mib(str(self._process.pid))

    def _count(self, count: LiveCount) -> None:
        topic, header, _ = decode_message(self._socket.recv_multipart())
        if topic.startswith("verdict/"):
            count.n_verdicts[header["station"]] += 1
            count.latencies_s.append((time.time_ns() - header["captured_at_ns"]) / 1e9)

    def _start(self) -> None:
        context = self._exits.enter_context(zmq.Context())
        self._socket = self._exits.enter_context(context.socket(zmq.SUB))
        self._socket.setsockopt(zmq.RCVHWM, 0)
        for topic in ("status/", "verdict/", "heatmap/"):
            self._socket.subscribe(topic)
        self._socket.connect(self._endpoint)
        log = self._exits.enter_context(self._log.open("wb"))
        command = [*command_of("edge_uad"), "serve", "--config", str(self._config)]
        self._process = subprocess.Popen(command, stderr=log, stdout=log)  # noqa: S603  # our own program
        self._exits.callback(self._stop)
        self._senders = [self._exits.enter_context(FrameSender(source)) for source in self._sources]
        self._await_running()
        self._socket.unsubscribe("status/")

    def _await_running(self) -> None:
        """Return when the socket that will receive the verdicts has received ``running`` from each station."""
        waited_for = set(self.stations)
        until_s = time.monotonic() + START_TIMEOUT_S
        while waited_for:
            topic, header = self._message(until_s)
            if topic.startswith("status/") and header["state"] == StationState.RUNNING:
                waited_for.discard(header["station"])

    def _send(self, message: FrameMessage, index: int) -> None:
        now = stamped_now(message, station=self.stations[index], frame_id=next(self._frame_ids))
        self._senders[index].send(now, timeout_s=TIMEOUT_S)

    def _verdict(self) -> Json:
        until_s = time.monotonic() + TIMEOUT_S
        while True:
            topic, header = self._message(until_s)
            if topic.startswith("verdict/"):
                return header

    def _message(self, until_s: float) -> tuple[str, Json]:
        while not self._socket.poll(_POLL_MS):
            if self._process.poll() is not None or time.monotonic() > until_s:
                log = self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()
                state = "is silent" if self._process.poll() is None else f"ended with code {self._process.poll()}"
                raise EdgeUadError(f"the daemon of this bench {state}; the end of its log:\n{log}")
        topic, header, _ = decode_message(self._socket.recv_multipart())
        return topic, header

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
