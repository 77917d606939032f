"""Metrics for Prometheus, health and readiness, over HTTP. No request delays inspection.

The server is the standard library's ``http.server``: prometheus_client's own serves ``/metrics`` alone, bounds neither
connections nor their time, and looks its host name up in DNS.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from edge_uad.errors import EndpointError
from edge_uad.net.endpoints import is_loopback, split_endpoint
from edge_uad.net.wire import valid_text
from edge_uad.outputs.archive import Archive
from edge_uad.records import AnyFrame, StationState, StationStatus, Verdict

SILENT_AFTER_S = 5.0
"""A daemon sends a heartbeat every second; without one for this long it is not healthy."""
MAX_CONNECTIONS = 8
REQUEST_TIMEOUT_S = 5.0
_POLL_S = 0.1
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
_STAGE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, *_LATENCY_BUCKETS_S[1:-1])


class Metrics(Collector):
    """A daemon's counters, gauges and histograms; docs/operations.md lists them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._statuses: dict[str, tuple[StationStatus, float]] = {}
        self._queues: dict[str, Callable[[], int]] = {}
        self._overruns: Callable[[], Mapping[str, int]] = dict
        self._skipped: Callable[[], Mapping[str, int]] = dict
        self._archive: Archive | None = None
        self._inferred = False
        self._frames = Counter("edge_uad_frames", "Frames judged.", ("station", "decision"), registry=self.registry)
        self._latency = Histogram(
            "edge_uad_latency_seconds",
            "From capture to verdict.",
            ("station",),
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._stages = Histogram(
            "edge_uad_stage_seconds",
            "One stage of judging.",
            ("stage",),
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(self)

    def watch_queue(self, station: str, waiting: Callable[[], int]) -> None:
        """Report how many frames a station's queue holds.

        Args:
            station: its name.
            waiting: called at every scrape.
        """
        self._queues[station] = waiting

    def watch_overruns(self, overruns: Callable[[], Mapping[str, int]]) -> None:
        """Report how often a subscriber's queue was full; ``overruns`` returns the counts by topic."""
        self._overruns = overruns

    def watch_skipped(self, skipped: Callable[[], Mapping[str, int]]) -> None:
        """Report how many heatmaps were not drawn; ``skipped`` returns the counts by station."""
        self._skipped = skipped

    def watch_archive(self, archive: Archive) -> None:
        """Report what the archive could not write."""
        self._archive = archive

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count one stage of one frame, or of one batch; those of the warm-up are not counted."""
        if self._inferred:
            self._stages.labels(stage).observe(seconds)

    def count(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self._frames.labels(verdict.station, str(verdict.decision)).inc()
        self._latency.labels(verdict.station).observe(verdict.latency_ms / 1000)

    def record_status(self, status: StationStatus) -> None:
        """Keep the station's newest heartbeat."""
        self._inferred = self._inferred or status.ready
        self._statuses[status.station] = (status, time.monotonic())

    def health(self) -> tuple[bool, str]:
        """Whether the daemon's loop runs, and a line per station with its state, or the reason."""
        statuses = list(self._statuses.values())
        age_s = min((time.monotonic() - received_s for _, received_s in statuses), default=None)
        if age_s is None or age_s > SILENT_AFTER_S:
            return False, "no heartbeat yet" if age_s is None else f"no heartbeat for {age_s:.0f} s"
        return True, "\n".join(
            f"{status.station} {status.state}" + (f": {status.message}" if status.message else "")
            for status, _ in statuses
        )

    def ready(self) -> tuple[bool, str]:
        """Whether frames are judged: healthy, the first inference done, not stopping."""
        healthy, text = self.health()
        if not healthy:
            return False, text
        if not self._inferred:
            return False, "the first inference is not done yet"
        if any(status.state is StationState.STOPPING for status, _ in list(self._statuses.values())):
            return False, "stopping"
        return True, text

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read at a scrape."""
        statuses = list(self._statuses.values())
        yield self._drops(statuses)
        yield _counter(
            "reconnects", "Times that a source was lost or could not be opened.", statuses, lambda one: one.reconnects
        )
        queue = GaugeMetricFamily("edge_uad_queue_frames", "Frames in the station's queue.", labels=["station"])
        for station, waiting in self._queues.items():
            queue.add_metric([station], waiting())
        yield queue
        age = GaugeMetricFamily("edge_uad_last_frame_age_seconds", "Since the last frame.", labels=["station"])
        offset = GaugeMetricFamily(
            "edge_uad_sender_clock_offset_seconds", "A ZeroMQ sender's clock less this machine's.", labels=["station"]
        )
        running = GaugeMetricFamily("edge_uad_station_state", "1 for the state it is in.", labels=["station", "state"])
        info = InfoMetricFamily("edge_uad_artefacts", "The bank and the model in use.", labels=["station"])
        for status, received_s in statuses:
            if status.last_frame_age_s is not None:
                age.add_metric([status.station], status.last_frame_age_s + time.monotonic() - received_s)
            if status.sender_clock_offset_s is not None:
                offset.add_metric([status.station], status.sender_clock_offset_s)
            for state in StationState:
                running.add_metric([status.station, str(state)], float(status.state is state))
            info.add_metric([status.station], {"bank_id": status.bank_id, "model_id": status.model_id})
        yield from (age, offset, running, info)
        yield from self._archived()

    def _drops(self, statuses: list[tuple[StationStatus, float]]) -> Metric:
        drops = CounterMetricFamily("edge_uad_drops", "What was lost, by cause.", labels=["station", "cause"])
        for status, _ in statuses:
            drops.add_metric([status.station, "frame skipped"], status.dropped)
        for topic, count in self._overruns().items():
            kind, _, station = topic.partition("/")
            drops.add_metric([station, f"subscriber too slow for {kind}"], count)
        for station, count in self._skipped().items():
            drops.add_metric([station, "heatmap not drawn"], count)
        return drops

    def _archived(self) -> Iterator[Metric]:
        if self._archive is None:
            return
        lost = CounterMetricFamily("edge_uad_archive_lost", "What could not be written.", labels=["what"])
        lost.add_metric(["audit line"], self._archive.audit_lost)
        lost.add_metric(["evidence"], self._archive.evidence_lost)
        lost.add_metric(["disk too slow"], self._archive.dropped)
        yield lost
        waiting = GaugeMetricFamily("edge_uad_archive_queue_verdicts", "Verdicts to be written.")
        waiting.add_metric([], self._archive.waiting)
        yield waiting
        fault = GaugeMetricFamily("edge_uad_archive_fault", "1 while something cannot be written.")
        fault.add_metric([], float(self._archive.fault is not None))
        yield fault


def _counter(
    name: str, help_text: str, statuses: list[tuple[StationStatus, float]], read: Callable[[StationStatus], int]
) -> Metric:
    counter = CounterMetricFamily(f"edge_uad_{name}", help_text, labels=["station"])
    for status, _ in statuses:
        counter.add_metric([status.station], read(status))
    return counter


class MetricsServer:
    """Answers GET ``/metrics``, ``/healthz`` and ``/readyz`` in its own threads. Implements VerdictSink.

    Args:
        metrics: what is published.
        endpoint: ``HOST:PORT``; PORT may be ``*``: any free one.
        insecure: allow an address beyond this machine.

    Raises:
        EndpointError: malformed, in use, or open to the network without ``insecure``.
    """

    def __init__(self, metrics: Metrics, endpoint: str, *, insecure: bool = False) -> None:
        self._metrics = metrics
        _, address = split_endpoint(f"tcp://{endpoint}")
        host, _, port = address.rpartition(":")
        if not insecure and not is_loopback(host):
            raise EndpointError(
                f"metrics.endpoint {endpoint} can be reached from the network; use 127.0.0.1, "
                "or state metrics.insecure: true where the network itself is trusted"
            )
        host = host.removeprefix("[").removesuffix("]")
        try:
            self._server = _Server(metrics, host, 0 if port == "*" else int(port))
        except (OSError, UnicodeError) as error:  # a host name that IDNA cannot encode is a UnicodeError
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise EndpointError(f"metrics.endpoint {endpoint} cannot be bound: {reason}; choose another") from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._thread.start()

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:  # noqa: ARG002  (only the verdict is counted)
        """Count a verdict."""
        self._metrics.count(verdict)

    def publish_status(self, status: StationStatus) -> None:
        """Keep the station's newest heartbeat."""
        self._metrics.record_status(status)

    def close(self) -> None:
        """Stop answering and unbind."""
        self._server.shutdown()
        self._thread.join()  # bounded: it polls every _POLL_S, and requests are answered by other threads
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow client must not delay the stop

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.metrics = metrics
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which asks a DNS server."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closes its connection early is not logged."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server
    server_version = "edge-uad"
    sys_version = ""

    def do_GET(self) -> None:
        metrics = self.server.metrics
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
            case "/healthz":
                self._answer_state(*metrics.health())
            case "/readyz":
                self._answer_state(*metrics.ready())
            case _:
                self._answer(404, b"there are /metrics, /healthz and /readyz\n")

    def _answer_state(self, good: bool, text: str) -> None:
        self._answer(200 if good else 503, valid_text(text).encode() + b"\n")

    def _answer(self, code: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (http.server's name)
        """Requests are not logged: the daemon's log is about the line."""
