"""A subscriber that notices what does not arrive: a silent daemon, and verdicts that were lost on the way."""

import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import zmq

from edge_uad.errors import FrameError, GapError, SilenceError
from edge_uad.net.endpoints import DEFAULT_VERDICT_ENDPOINT, AnySocket, connect
from edge_uad.net.keys import ClientKeys, use_client_keys
from edge_uad.net.wire import MAX_IMAGE_BYTES, decode_message, status_of, verdict_of
from edge_uad.records import Decision, StationStatus, Verdict

SILENT_AFTER_S = 3.0
"""A daemon sends a heartbeat of every station every second."""
QUEUE_MESSAGES = 10_000
"""What ZeroMQ holds for a program that is slow to read; what comes on top is lost, and noticed."""

GRACE_S = 0.1
"""After a pause of the whole program ZeroMQ needs a moment to hand over the heartbeats that arrived meanwhile."""

log = logging.getLogger("edge_uad.net.subscriber")


def part_ok(verdict: Verdict | None) -> bool:
    """Whether the part may pass: True for a *normal* verdict alone; *anomalous*, *invalid* and None are rejects."""
    return verdict is not None and verdict.decision is Decision.NORMAL


@dataclass(slots=True)
class _Station:
    """What is known of one station."""

    heard_mono_s: float
    """Time of the last heartbeat, or when waiting for it began."""
    sequence: int | None = None
    """Number of the last verdict that arrived, or that is known to be lost."""
    judged: int | None = None
    """Verdicts counted in the last heartbeat."""


class Subscriber:
    """Iterates the verdicts of a daemon, in order per station. One thread at a time uses it; a context manager.

    Iteration does not end. It raises, and may go on afterwards with the next verdict:

    * ``SilenceError`` where no heartbeat of a station arrived for ``silent_after_s``, and again after every further
      ``silent_after_s`` of silence;
    * ``GapError`` where verdicts were published and did not arrive, by their numbers and by the heartbeats' counts: at
      the next verdict, or within two heartbeats where none follows. It is raised before the verdict behind the gap.

    A message that is not valid is logged, counted in ``refused`` and skipped; its verdict, if it was one, is a gap.

    Args:
        endpoint: where the daemon publishes; it need not be there yet.
        stations: these alone; None for all.
        keys: of ``load_client_keys``, for a daemon that demands CURVE keys.
        silent_after_s: seconds without a heartbeat.
        queue_messages: held by ZeroMQ while the program is busy.

    Raises:
        EndpointError: the endpoint is malformed.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_VERDICT_ENDPOINT,
        *,
        stations: Collection[str] | None = None,
        keys: ClientKeys | None = None,
        silent_after_s: float = SILENT_AFTER_S,
        queue_messages: int = QUEUE_MESSAGES,
    ) -> None:
        if not silent_after_s > 0:
            raise ValueError(f"silent_after_s is {silent_after_s}; use more than 0")
        self._endpoint = endpoint
        self._silent_after_s = silent_after_s
        self._wanted = None if stations is None else frozenset(stations)
        self._began_mono_s = time.monotonic()
        self._stations = {name: _Station(self._began_mono_s) for name in stations or ()}
        self._held: Verdict | None = None
        self._suspected_mono_s: float | None = None
        """When heartbeats were first overdue with no message left to read."""
        self._last_refusal = ""
        self.statuses: dict[str, StationStatus] = {}
        """The newest heartbeat of each station."""
        self.missed: Counter[str] = Counter()
        """Verdicts that were published and did not arrive, by station."""
        self.refused = 0
        """Messages that were not valid."""
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._socket: AnySocket = self._context.socket(zmq.SUB)
        try:
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.RCVHWM, queue_messages)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_IMAGE_BYTES)
            for topic in ("verdict/", "status/"):
                for station in [""] if stations is None else stations:
                    self._socket.setsockopt(zmq.SUBSCRIBE, f"{topic}{station}".encode())
            use_client_keys(self._socket, keys)
            connect(self._socket, endpoint)
        except BaseException:
            self.close()
            raise

    def receive(self, timeout_s: float | None = None) -> Verdict | None:
        """The next verdict.

        Args:
            timeout_s: how long to wait for it; None: until it arrives or an error is raised.

        Returns:
            None where none arrived in time.

        Raises:
            SilenceError: no heartbeat.
            GapError: verdicts were lost.
        """
        if self._socket.closed:
            raise ValueError("the Subscriber is closed")
        if self._held is not None:
            verdict, self._held = self._held, None
            return verdict
        until_mono_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_s = min(self._silent_at_mono_s(), until_mono_s) - time.monotonic()
            if self._has_message(wait_s):
                received = self._take(self._socket.recv_multipart())
                if received is not None:
                    self._held = received  # where silence is to be raised first
                    self._check_silence()
                    self._held = None
                    return received
            else:
                self._check_silence()
            if time.monotonic() >= until_mono_s:
                return None

    def close(self) -> None:
        """Disconnect; iteration ends."""
        self._socket.close(linger=0)
        self._context.term()

    def __iter__(self) -> Iterator[Verdict]:
        return self

    def __next__(self) -> Verdict:
        while not self._socket.closed:
            if (verdict := self.receive()) is not None:
                return verdict
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _has_message(self, wait_s: float) -> bool:
        return bool(self._socket.poll(math.ceil(max(wait_s, 0.0) * 1000)))

    def _silent_at_mono_s(self) -> float:
        """When silence is to be raised; a moment later, once it is suspected."""
        first = min((one.heard_mono_s for one in self._stations.values()), default=self._began_mono_s)
        return max(first + self._silent_after_s, (self._suspected_mono_s or 0.0) + GRACE_S)

    def _check_silence(self) -> None:
        """Raise where heartbeats are overdue and every message that arrived has been read.

        Raises:
            SilenceError: they are.
        """
        now_mono_s = time.monotonic()
        if now_mono_s < self._silent_at_mono_s() or self._has_message(0):
            return
        if self._suspected_mono_s is None:
            self._suspected_mono_s = now_mono_s
            return
        self._suspected_mono_s = None
        silent = [name for name, one in self._stations.items() if now_mono_s >= one.heard_mono_s + self._silent_after_s]
        for name in silent:  # the next error follows after as long a silence
            self._stations[name].heard_mono_s = now_mono_s
        self._began_mono_s = now_mono_s
        states = ", ".join(
            f"{name} was last {self.statuses[name].state}" if name in self.statuses else f"{name} was never heard"
            for name in silent
        )
        refused = f"; {self.refused} messages were not valid, the last one: {self._last_refusal}" * bool(self.refused)
        raise SilenceError(
            f"no heartbeat from {self._endpoint} for {self._silent_after_s:g} s"
            f"{f' ({states})' * bool(states)}{refused}; is edge-uad serve running there?",
            tuple(silent),
        )

    def _take(self, parts: list[bytes]) -> Verdict | None:
        try:
            topic, header, _ = decode_message(parts)
            kind, _, name = topic.partition("/")
            if self._wanted is not None and name not in self._wanted:  # "line" as a prefix is that of "line2", too
                return None
            if kind == "status":
                self._note_status(status_of(header))
                return None
            verdict = verdict_of(header)
        except FrameError as error:
            self.refused += 1
            if self._last_refusal != (text := str(error)):
                self._last_refusal = text
                log.warning("a message from %s is not valid: %s", self._endpoint, text)
            return None
        return self._counted(verdict)

    def _counted(self, verdict: Verdict) -> Verdict:
        """The verdict, unless others before it are missing: then it is held for the next call.

        Raises:
            GapError: they are.
        """
        station = self._stations.setdefault(verdict.station, _Station(time.monotonic()))
        number, last = verdict.sequence, station.sequence
        if number is None:  # of an edge-uad that did not number them
            station.sequence = None if last is None else last + 1
            return verdict
        station.sequence = number
        if last is None or number == last:  # the first heartbeat may have counted it before it was sent
            return verdict
        missed = number - last - 1 if number > last else number - 1  # a restarted daemon counts from 1
        if missed:
            self._held = verdict
            self._raise_gap(verdict.station, missed)
        return verdict

    def _note_status(self, status: StationStatus) -> None:
        """Remember a heartbeat.

        Raises:
            GapError: verdicts that the heartbeat before this one counted have not arrived.
        """
        station = self._stations.setdefault(status.station, _Station(time.monotonic()))
        station.heard_mono_s = time.monotonic()
        self._suspected_mono_s = None
        self.statuses[status.station] = status
        counted, station.judged = station.judged, status.judged
        if station.sequence is None or counted is None or status.judged < counted:  # the first one, or a restart
            station.sequence = status.judged
            return
        # the newest heartbeat may count a verdict that is sent after it, the one before it may not
        if counted > station.sequence:
            missed, station.sequence = counted - station.sequence, counted
            self._raise_gap(status.station, missed)

    def _raise_gap(self, station: str, missed: int) -> None:
        self.missed[station] += missed
        raise GapError(f"{missed} verdicts of {station} were published and did not arrive", station, missed)
