"""The other end of a ZeroMQ source: pushes frames, and knows when nobody takes them."""

import time
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
from PIL import Image

from edge_uad.curve import ClientKeys, use_client_keys
from edge_uad.endpoints import AnySocket, connect
from edge_uad.errors import EdgeUadError, FrameError
from edge_uad.sources.decode import decode_image, read_bytes, stored_size
from edge_uad.wire import FrameMessage, encode_frame

SEND_ENCODINGS = ("as-is", "jpeg", "png", "rgb8")
JPEG_QUALITY = 95
SEND_QUEUE_FRAMES = 4
_UNTOUCHED = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}


class FrameSender:
    """A PUSH socket that hands frames to connected daemons only; a context manager.

    Args:
        endpoint: where a daemon takes frames.
        keys: None for a daemon without.

    Raises:
        EndpointError: malformed.
    """

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None) -> None:
        self._endpoint = endpoint
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._socket: AnySocket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # queue for a daemon that is there, never for one that may come
        self._socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_FRAMES)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            use_client_keys(self._socket, keys)
            connect(self._socket, endpoint)
        except BaseException:
            self.close()
            raise

    def send(self, message: FrameMessage, *, timeout_s: float) -> None:
        """Hand over one frame, waiting for a daemon and for room in its queue.

        Raises:
            EdgeUadError: nobody took it in time.
        """
        if not self._socket.poll(round(timeout_s * 1000), zmq.POLLOUT):
            raise EdgeUadError(
                f"frame {message.frame_id} was not taken within {timeout_s:g} s: no daemon takes frames at "
                f"{self._endpoint}, it is stuck, or it demands keys and does not know these; "
                f"start one with edge-uad serve --source {self._endpoint}"
            )
        self._socket.send_multipart(encode_frame(message), zmq.NOBLOCK)

    def flush(self, timeout_s: float) -> None:
        """Wait until every frame has left, and close.

        Raises:
            EdgeUadError: some have not left in time; they are lost.
        """
        started_s = time.monotonic()
        self._socket.close(linger=round(timeout_s * 1000))
        self._context.term()
        if time.monotonic() - started_s >= timeout_s:
            raise EdgeUadError(
                f"the last frames were not taken within {timeout_s:g} s by the daemon at {self._endpoint}; "
                "see its status with edge-uad watch"
            )

    def close(self) -> None:
        """Close at once; what has not left is lost."""
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def frame_message(path: Path, *, station: str, frame_id: int, part_id: str | None, encoding: str) -> FrameMessage:
    """A file as a frame of this moment.

    Args:
        path: the file; one that holds no picture goes as it is, so that the daemon says *invalid*.
        station: the frame's.
        frame_id: the frame's.
        part_id: the frame's.
        encoding: one of ``SEND_ENCODINGS``; ``as-is`` leaves JPEG and PNG files untouched and sends others as PNG.

    Raises:
        EdgeUadError: the file cannot be read at all.
    """
    try:
        payload = read_bytes(path)
    except FrameError as error:
        raise EdgeUadError(f"{path}: {error}") from error
    try:
        wire_encoding, (height, width), payload = _encoded(payload, encoding)
    except FrameError:
        wire_encoding, height, width = "png", 1, 1
    return FrameMessage(
        station=station,
        frame_id=frame_id,
        part_id=part_id,
        captured_at_ns=time.time_ns(),
        encoding=wire_encoding,
        height=height,
        width=width,
        payload=payload,
    )


def _encoded(payload: bytes, encoding: str) -> tuple[str, tuple[int, int], bytes]:
    """Wire encoding, stored height and width, bytes."""
    if encoding == "as-is":
        kind, hw = stored_size(payload)
        if kind in _UNTOUCHED:
            return _UNTOUCHED[kind], hw, payload
        encoding = "png"
    image = decode_image(payload)
    hw = (image.shape[0], image.shape[1])
    if encoding == "rgb8":
        return "rgb8", hw, image.tobytes()
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, encoding.upper(), quality=JPEG_QUALITY)
    return encoding, hw, buffer.getvalue()
