"""A daemon as a line runs it, in a process of its own, fed and heard over its real sockets."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from bank_tools.bench.frames import STATION, sent_now
from edge_uad.errors import EdgeUadError
from edge_uad.net.wire import FrameMessage, Json, decode_message
from edge_uad.records import StationState
from edge_uad.runtime.workers import available_cores
from edge_uad.sources.sender import FrameSender

WAITING_FRAMES = 1
"""Beside those at the judge, one of each station or one per core, and as many next to them: one on its way."""
PATIENCE_S = 60.0
START_PATIENCE_S = 180.0
_POLL_MS = 100
_LOG_TAIL = 2000


def line_content(model: Path, bank: Path, *, n_stations: int = 1, **settings: Any) -> Json:
    """A config of a line whose stations, all alike, take frames over ZeroMQ; sockets are left to :class:`ServedLine`.

    Args:
        model: the backbone's file.
        bank: of every station.
        n_stations: how many.
        settings: other keys of the config.
    """
    names = [STATION if number == 0 else f"{STATION}{number + 1}" for number in range(n_stations)]
    stations = [{"name": name, "source": "", "bank": str(bank.absolute()), "mode": "every"} for name in names]
    return {"model": str(model.absolute()), "stations": stations, **settings}


class ServedLine:
    """``edge-uad serve`` beside the bench; a context manager, entered when every station runs.

    Args:
        content: from :func:`line_content`.
        folder: of this line alone, short enough for a socket's name.

    Raises:
        EdgeUadError: the daemon does not come up, or falls silent; the end of its log is told.
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
        self._sent = 0

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
        self._send(message)
        verdict = self._heard()
        return time.perf_counter() - started_s, verdict

    def rate_hz(self, messages: Iterable[FrameMessage], n: int) -> float:
        """Verdicts per second over ``n`` of them, frames waiting all the while.

        Args:
            messages: sent in turn to the stations; endless.
            n: a multiple of the batch, where frames are judged in batches.
        """
        ahead = 2 * max(len(self.stations), available_cores()) + WAITING_FRAMES
        total = n + 2 * ahead
        frames = iter(messages)
        heard_s: list[float] = []
        sent = 0
        while len(heard_s) < total:
            while sent < total and sent - len(heard_s) < ahead:
                self._send(next(frames))
                sent += 1
            self._heard()
            heard_s.append(time.perf_counter())
        return n / (heard_s[ahead + n - 1] - heard_s[ahead - 1])

    @property
    def peak_rss_mib(self) -> float | None:
        """The most memory that the daemon has held so far; None where the system does not tell."""
        return peak_rss_mib(str(self._process.pid))

    def _start(self) -> None:
        context = self._exits.enter_context(zmq.Context())
        self._socket = self._exits.enter_context(context.socket(zmq.SUB))
        self._socket.setsockopt(zmq.RCVHWM, 0)
        for topic in ("status/", "verdict/", "heatmap/"):
            self._socket.subscribe(topic)
        self._socket.connect(self._endpoint)
        log = self._exits.enter_context(self._log.open("wb"))
        command = [sys.executable, "-m", "edge_uad", "serve", "--config", str(self._config)]
        self._process = subprocess.Popen(command, stderr=log, stdout=log)  # noqa: S603  # our own program
        self._exits.callback(self._end)
        self._senders = [self._exits.enter_context(FrameSender(source)) for source in self._sources]
        self._await_running()
        self._socket.unsubscribe("status/")

    def _await_running(self) -> None:
        """Until each station says that it runs, heard by the very socket that will hear the verdicts."""
        waited_for = set(self.stations)
        until_s = time.monotonic() + START_PATIENCE_S
        while waited_for:
            topic, header = self._message(until_s)
            if topic.startswith("status/") and header["state"] == StationState.RUNNING:
                waited_for.discard(header["station"])

    def _send(self, message: FrameMessage) -> None:
        turn, frame_id = self._sent % len(self.stations), self._sent // len(self.stations)
        self._sent += 1
        now = sent_now(message, station=self.stations[turn], frame_id=frame_id)
        self._senders[turn].send(now, timeout_s=PATIENCE_S)

    def _heard(self) -> Json:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            topic, header = self._message(until_s)
            if topic.startswith("verdict/"):
                return header

    def _message(self, until_s: float) -> tuple[str, Json]:
        while not self._socket.poll(_POLL_MS):
            if self._process.poll() is not None or time.monotonic() > until_s:
                told = self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()
                fate = "is silent" if self._process.poll() is None else f"ended with code {self._process.poll()}"
                raise EdgeUadError(f"the daemon of this bench {fate}; the end of its log:\n{told}")
        topic, header, _ = decode_message(self._socket.recv_multipart())
        return topic, header

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def peak_rss_mib(process: str = "self") -> float | None:
    """The most memory that a process has held, in MiB; None where there is no /proc."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return None
    _, named, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) / 1024 if named else None
