"""Verdicts, heatmaps and heartbeats on a ZeroMQ PUB socket. Nothing here ever waits for a subscriber.

ZeroMQ holds a bounded queue for each subscriber and silently drops what exceeds it. It reports this only where
XPUB_NODROP is set, by sending the message to no subscriber; such a message is counted and sent again without that
option, so that the slow subscriber alone misses it. From then until it has caught up, ZeroMQ leaves that subscriber out
without reporting it again. The counter therefore says how often a subscriber fell behind, not how much it missed; that
it sees from the gaps in ``sequence``.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import zmq

from edge_uad.net.endpoints import DEFAULT_VERDICT_ENDPOINT, AnySocket, bind, check_endpoint
from edge_uad.net.keys import ServerKeys, ZapAuthenticator
from edge_uad.net.wire import encode_status, encode_verdict
from edge_uad.outputs.heatmaps import HeatmapRenderer, Overlay
from edge_uad.records import Decision, Frame, StationStatus, UnreadableFrame, Verdict
from edge_uad.stages import StageTimer, timed

HeatmapPolicy = Literal["anomalous", "always", "never"]

DEFAULT_QUEUE_MESSAGES = 256
LINGER_S = 1.0
"""How long ``close`` waits for what is still queued."""
RENDERER_CLOSE_S = 1.0
"""How long ``close`` waits for heatmaps that are still to be drawn."""


class ZmqPublisher:
    """A PUB socket, bound when made. Implements VerdictSink.

    Args:
        endpoint: ``tcp://127.0.0.1:5570`` or ``ipc:///…``.
        overlays: gives, at a verdict, how that station's heat is drawn; a station without one has no heatmaps.
        heatmap: for which verdicts a picture is sent.
        insecure: allow addresses beyond this machine.
        keys: let in these CURVE keys alone; addresses beyond this machine are allowed then, too.
        queue_messages: messages held for a slow subscriber; it misses what exceeds them.
        on_stage: called with the durations of publishing, drawing and encoding.

    Raises:
        EndpointError: in use, malformed, or open to the network without ``insecure``.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_VERDICT_ENDPOINT,
        *,
        overlays: Mapping[str, Callable[[], Overlay]] | None = None,
        heatmap: HeatmapPolicy = "anomalous",
        insecure: bool = False,
        keys: ServerKeys | None = None,
        queue_messages: int = DEFAULT_QUEUE_MESSAGES,
        on_stage: StageTimer | None = None,
    ) -> None:
        check_endpoint(endpoint, insecure=insecure, keyed=keys is not None)
        self._overlays = dict(overlays or {})
        self._heatmap = heatmap
        self._on_stage = on_stage
        # several threads send; a lock is the full fence that ZeroMQ demands then
        self._sending = threading.Lock()
        self._closed = False
        self._renderer = HeatmapRenderer(self._send, on_stage=on_stage)
        self.skipped = self._renderer.skipped
        """Heatmaps that were submitted and never drawn, by station."""
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._authenticator = ZapAuthenticator(self._context, keys)
        self._socket: AnySocket = self._context.socket(zmq.PUB)
        self._authenticator.guard(self._socket)
        self._socket.setsockopt(zmq.SNDHWM, queue_messages)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.overruns: Counter[str] = Counter()
        """How often a message of each topic found a subscriber's queue full, by topic."""
        self._socket.setsockopt(zmq.LINGER, round(LINGER_S * 1000))
        try:
            self.endpoint = bind(
                self._socket, endpoint, remedy="stop it, or choose another with --publish (publish.endpoint)"
            )
        except BaseException:
            self.close()
            raise

    def publish(self, verdict: Verdict, frame: Frame | UnreadableFrame) -> None:
        """Send the verdict, and its heatmap, where the policy wants one, as soon as it is drawn."""
        with timed(self._on_stage, "publish"):
            self._send(encode_verdict(verdict))
            overlay = self._overlays.get(verdict.station)
            if overlay is None or verdict.heatmap is None or not isinstance(frame, Frame) or not self._wanted(verdict):
                return
            self._renderer.submit(overlay(), verdict, frame)

    def publish_status(self, status: StationStatus) -> None:
        """Send a heartbeat; its counts of overruns are filled in here."""
        counted = replace(
            status,
            verdict_overruns=self.overruns[f"verdict/{status.station}"],
            heatmap_overruns=self.overruns[f"heatmap/{status.station}"],
            status_overruns=self.overruns[f"status/{status.station}"],
            heatmaps_skipped=self.skipped[status.station],
        )
        self._send(encode_status(counted))

    def close(self) -> None:
        """Draw and send what is still queued, for a second each at most, and unbind."""
        self._renderer.close(RENDERER_CLOSE_S)
        with self._sending:
            self._closed = True
            self._socket.close()
        self._authenticator.close()
        self._context.term()

    def _wanted(self, verdict: Verdict) -> bool:
        return self._heatmap == "always" or (self._heatmap == "anomalous" and verdict.decision is Decision.ANOMALOUS)

    def _send(self, parts: list[bytes]) -> None:
        with self._sending:
            if not self._closed:
                self._send_alone(parts)

    def _send_alone(self, parts: list[bytes]) -> None:
        if self._sent_to_all(parts):
            return
        self._socket.getsockopt(zmq.EVENTS)  # makes ZeroMQ check at once which subscribers have caught up
        if not self._sent_to_all(parts):
            self.overruns[parts[0].decode()] += 1
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            self._socket.send_multipart(parts, zmq.NOBLOCK)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _sent_to_all(self, parts: list[bytes]) -> bool:
        """Send to every subscriber that has not been left out already, or to none."""
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
