"""Verdicts, heatmaps and life signs on a ZeroMQ PUB socket. Nothing here ever waits for a subscriber.

ZeroMQ holds a bounded queue for each subscriber and drops, without a word, what comes on top for that one. It says so
only where XPUB_NODROP is set, by sending the message to nobody; so such a message is counted, and sent again without
that option: the slow subscriber alone goes without. From then until it has caught up, ZeroMQ leaves that subscriber out
and says nothing more of it. What is counted is therefore how often a subscriber fell behind, not all that it missed;
that it sees by itself, from frame_id and dropped_before.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import cv2
import zmq

from edge_uad.curve import Doorkeeper, ServerKeys
from edge_uad.endpoints import DEFAULT_VERDICT_ENDPOINT, AnySocket, bind, check_endpoint
from edge_uad.records import Decision, Frame, StationStatus, UInt8, UnreadableFrame, Verdict
from edge_uad.wire import encode_heatmap, encode_status, encode_verdict

HeatmapPolicy = Literal["anomalous", "always", "never"]
Overlay = Callable[[Frame, Verdict], UInt8]
"""Draws a verdict's heat over its frame: uint8 (H, W, 3), RGB."""

DEFAULT_QUEUE_MESSAGES = 256
LINGER_S = 1.0
"""How long ``close`` waits for what is still queued."""
LONGEST_SIDE_PX = 1024
"""Published heatmaps are pictures for people: larger ones are scaled down."""
JPEG_QUALITY = 85


class ZmqPublisher:
    """A PUB socket, bound when made. Implements VerdictSink.

    Args:
        endpoint: ``tcp://127.0.0.1:5570`` or ``ipc:///…``.
        overlays: how each station's heat is drawn; a station without one has no heatmaps.
        heatmap: for which verdicts a picture is sent.
        insecure: allow addresses beyond this machine.
        keys: let in these CURVE keys alone; addresses beyond this machine are allowed then, too.
        queue_messages: what is held for one slow subscriber; what comes on top is dropped for that one.

    Raises:
        EndpointError: in use, malformed, or open to the network without ``insecure``.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_VERDICT_ENDPOINT,
        *,
        overlays: Mapping[str, Overlay] | None = None,
        heatmap: HeatmapPolicy = "anomalous",
        insecure: bool = False,
        keys: ServerKeys | None = None,
        queue_messages: int = DEFAULT_QUEUE_MESSAGES,
    ) -> None:
        check_endpoint(endpoint, insecure=insecure, keyed=keys is not None)
        self._overlays = dict(overlays or {})
        self._heatmap = heatmap
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._doorkeeper = Doorkeeper(self._context, keys)
        self._socket: AnySocket = self._context.socket(zmq.PUB)
        self._doorkeeper.guard(self._socket)
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
        """Send the verdict, then its heatmap where one is asked for: the line does not wait for a picture."""
        self._send(encode_verdict(verdict))
        overlay = self._overlays.get(verdict.station)
        if overlay is None or verdict.heatmap is None or not isinstance(frame, Frame) or not self._wanted(verdict):
            return
        picture = _at_most(overlay(frame, verdict), LONGEST_SIDE_PX)
        self._send(encode_heatmap(verdict, encode_jpeg(picture), "jpeg", (picture.shape[0], picture.shape[1])))

    def publish_status(self, status: StationStatus) -> None:
        """Send a life sign; what it says of overruns is filled in here."""
        counted = replace(
            status,
            verdict_overruns=self.overruns[f"verdict/{status.station}"],
            heatmap_overruns=self.overruns[f"heatmap/{status.station}"],
            status_overruns=self.overruns[f"status/{status.station}"],
        )
        self._send(encode_status(counted))

    def close(self) -> None:
        """Send what is still queued, for a second at most, and unbind."""
        self._socket.close()
        self._doorkeeper.close()
        self._context.term()

    def _wanted(self, verdict: Verdict) -> bool:
        return self._heatmap == "always" or (self._heatmap == "anomalous" and verdict.decision is Decision.ANOMALOUS)

    def _send(self, parts: list[bytes]) -> None:
        if self._sent_to_all(parts):
            return
        self._socket.getsockopt(zmq.EVENTS)  # ZeroMQ looks seldom, in a hurry, who has caught up; asked, it looks
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


def encode_jpeg(picture: UInt8) -> bytes:
    """JPEG of a uint8 (H, W, 3) RGB picture."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return encoded.tobytes()


def _at_most(picture: UInt8, longest_px: int) -> UInt8:
    height, width = picture.shape[:2]
    ratio = longest_px / max(height, width)
    if ratio >= 1:
        return picture
    size = (max(round(width * ratio), 1), max(round(height * ratio), 1))
    scaled: UInt8 = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype("uint8", copy=False)
    return scaled
