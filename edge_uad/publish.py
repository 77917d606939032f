"""Verdicts, heatmaps and life signs on a ZeroMQ PUB socket. Nothing here ever waits for a subscriber."""

from collections.abc import Callable, Mapping
from typing import Literal

import cv2
import zmq

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
        queue_messages: int = DEFAULT_QUEUE_MESSAGES,
    ) -> None:
        check_endpoint(endpoint, insecure=insecure)
        self._overlays = dict(overlays or {})
        self._heatmap = heatmap
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._socket: AnySocket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, queue_messages)
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
        """Send a life sign."""
        self._send(encode_status(status))

    def close(self) -> None:
        """Send what is still queued, for a second at most, and unbind."""
        self._socket.close()
        self._context.term()

    def _wanted(self, verdict: Verdict) -> bool:
        return self._heatmap == "always" or (self._heatmap == "anomalous" and verdict.decision is Decision.ANOMALOUS)

    def _send(self, parts: list[bytes]) -> None:
        self._socket.send_multipart(parts, zmq.NOBLOCK)  # a PUB socket drops; it does not block or refuse


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
