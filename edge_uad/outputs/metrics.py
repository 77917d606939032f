"""Metrics for Prometheus, health and readiness, over HTTP. Nothing here is in inspection's way."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from edge_uad.errors import EndpointError
from edge_uad.net.endpoints import is_loopback, split_endpoint
from edge_uad.outputs.archive import Archive
from edge_uad.records import AnyFrame, StationState, StationStatus, Verdict

SILENT_AFTER_S = 5.0
"""A daemon speaks every second; one that has not for so long is not well."""
MAX_CONNECTIONS = 8
REQUEST_TIMEOUT_S = 5.0
_POLL_S = 0.1
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)
_STAGE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, *_LATENCY_BUCKETS_S[1:-1])


class Metrics(Collector):
    """What there is to know about a daemon in numbers; docs/operations.md has the table."""

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
        """Where to read how many frames wait."""
        self._queues[station] = waiting

    def watch_overruns(self, overruns: Callable[[], Mapping[str, int]]) -> None:
        """Where to read how often a subscriber's queue was full, by topic."""
        self._overruns = overruns

    def watch_skipped(self, skipped: Callable[[], Mapping[str, int]]) -> None:
        """Where to read how many heatmaps were not drawn, by station."""
        self._skipped = skipped

    def watch_archive(self, archive: Archive) -> None:
        """Where to read what was not written down."""
        self._archive = archive

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count one stage of one frame, or of one batch; the warm-up's are none of the line's."""
        if self._inferred:
            self._stages.labels(stage).observe(seconds)

    def count(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self._frames.labels(verdict.station, str(verdict.decision)).inc()
        self._latency.labels(verdict.station).observe(verdict.latency_ms / 1000)

    def note(self, status: StationStatus) -> None:
        """Remember a heartbeat."""
        self._inferred = self._inferred or status.ready
        self._statuses[status.station] = (status, time.monotonic())

    def health(self) -> tuple[bool, str]:
        """Whether the daemon's loop goes round, and what it says of itself."""
        statuses = list(self._statuses.values())
        age_s = min((time.monotonic() - heard_s for _, heard_s in statuses), default=None)
        if age_s is None or age_s > SILENT_AFTER_S:
            return False, "no heartbeat yet" if age_s is None else f"no heartbeat for {age_s:.0f} s"
        return True, "\n".join(
            f"{status.station} {status.state}" + (f": {status.message}" if status.message else "")
            for status, _ in statuses
        )

    def ready(self) -> tuple[bool, str]:
        """Whether frames are judged: healthy, the first inference done, not stopping."""
        healthy, told = self.health()
        if not healthy:
            return False, told
        if not self._inferred:
            return False, "the first inference is not done yet"
        if any(status.state is StationState.STOPPING for status, _ in list(self._statuses.values())):
            return False, "stopping"
        return True, told

    def collect(self) -> Iterator[Metric]:
        """What is read only when it is asked for."""
        statuses = list(self._statuses.values())
        yield self._drops(statuses)
        yield _counter("reconnects", "Times that a source was lost or not there.", statuses, lambda one: one.reconnects)
        queue = GaugeMetricFamily("edge_uad_queue_frames", "Frames that wait.", labels=["station"])
        for station, waiting in self._queues.items():
            queue.add_metric([station], waiting())
        yield queue
        age = GaugeMetricFamily("edge_uad_last_frame_age_seconds", "Since the last frame.", labels=["station"])
        running = GaugeMetricFamily("edge_uad_station_state", "1 for the state it is in.", labels=["station", "state"])
        info = InfoMetricFamily("edge_uad_artefacts", "The bank and the model in use.", labels=["station"])
        for status, heard_s in statuses:
            if status.last_frame_age_s is not None:
                age.add_metric([status.station], status.last_frame_age_s + time.monotonic() - heard_s)
            for state in StationState:
                running.add_metric([status.station, str(state)], float(status.state is state))
            info.add_metric([status.station], {"bank_id": status.bank_id, "model_id": status.model_id})
        yield from (age, running, info)
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
        lost = CounterMetricFamily("edge_uad_archive_lost", "What should have been written down.", labels=["what"])
        lost.add_metric(["audit line"], self._archive.audit_lost)
        lost.add_metric(["evidence"], self._archive.evidence_lost)
        lost.add_metric(["disk too slow"], self._archive.dropped)
        yield lost
        waiting = GaugeMetricFamily("edge_uad_archive_queue_verdicts", "Verdicts that wait for the disk.")
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
    """Answers GET ``/metrics``, ``/healthz`` and ``/readyz`` from threads of its own. Implements VerdictSink.

    Args:
        metrics: what is told.
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
        except OSError as error:
            raise EndpointError(
                f"metrics.endpoint {endpoint} cannot be bound: {error.strerror or error}; choose another"
            ) from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._thread.start()

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:  # noqa: ARG002  (only the verdict is counted)
        """Count a verdict."""
        self._metrics.count(verdict)

    def publish_status(self, status: StationStatus) -> None:
        """Remember a heartbeat."""
        self._metrics.note(status)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()  # bounded: it looks every _POLL_S, and answers are given by other threads
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that dawdles must not hold up the end

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.metrics = metrics
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

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
        """A client that breaks off is no news."""


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
                self._tell(*metrics.health())
            case "/readyz":
                self._tell(*metrics.ready())
            case _:
                self._answer(404, b"there are /metrics, /healthz and /readyz\n")

    def _tell(self, well: bool, text: str) -> None:
        self._answer(200 if well else 503, text.encode() + b"\n")

    def _answer(self, code: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (http.server's name)
        """The daemon's log tells of the line, not of who asked for metrics."""
