"""The other end of a ZeroMQ source: pushes frames and triggers, and knows when nobody takes them."""

import contextlib
import fcntl
import os
import socket as os_socket
import struct
import termios
import time
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
from PIL import Image

from edge_uad.errors import EdgeUadError, FrameError
from edge_uad.net.endpoints import AnySocket, connect, split_endpoint
from edge_uad.net.keys import ClientKeys, use_client_keys
from edge_uad.net.wire import FrameMessage, TriggerMessage, encode_frame, encode_trigger
from edge_uad.sources.decode import decode_image, read_bytes, stored_size

SEND_ENCODINGS = ("as-is", "jpeg", "png", "rgb8")
JPEG_QUALITY = 95
SEND_QUEUE_FRAMES = 4
UNREAD_POLL_S = 0.005
_UNTOUCHED = {"JPEG": "jpeg", "PNG": "png"}


class FrameSender:
    """A PUSH socket that hands frames and triggers to connected daemons only; a context manager.

    Args:
        endpoint: where a daemon takes frames.
        keys: None for a daemon without.

    Raises:
        EndpointError: malformed.
    """

    def __init__(self, endpoint: str, *, keys: ClientKeys | None = None) -> None:
        self._endpoint = endpoint
        scheme, self._ipc_path = split_endpoint(endpoint)
        self._context: zmq.Context[AnySocket] = zmq.Context()
        self._socket: AnySocket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # queue for a daemon that is there, never for one that may come
        self._socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_FRAMES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._connections: AnySocket | None = None
        self._connection: int | None = None
        if scheme == "ipc":
            self._connections = self._socket.get_monitor_socket(zmq.EVENT_CONNECTED)
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
        self._send(encode_frame(message), f"frame {message.frame_id}", timeout_s)

    def send_trigger(self, message: TriggerMessage, *, timeout_s: float) -> None:
        """Hand over one trigger: to where the daemon takes frames, or to its ``triggers.endpoint``.

        Raises:
            EdgeUadError: nobody took it in time.
        """
        what = "the request to resynchronise" if message.trigger_id is None else f"trigger {message.trigger_id}"
        self._send(encode_trigger(message), what, timeout_s)

    def _send(self, parts: list[bytes], what: str, timeout_s: float) -> None:
        if not self._socket.poll(round(timeout_s * 1000), zmq.POLLOUT):
            raise EdgeUadError(
                f"{what} was not taken within {timeout_s:g} s: no daemon takes frames at "
                f"{self._endpoint}, it is stuck, or it demands keys and does not know these; "
                f"start one with edge-uad serve --source {self._endpoint}"
            )
        self._socket.send_multipart(parts, zmq.NOBLOCK)
        self._note_connections()

    def flush(self, timeout_s: float) -> None:
        """Wait until every frame has left, and close.

        Over ``ipc://`` the daemon must have read all of it, too: a ZeroMQ receiver that holds its sender back throws
        away what lies in a Unix socket whose other end is closed. So a second descriptor keeps that end open.

        Raises:
            EdgeUadError: some have not left in time; they are lost.
        """
        started_s = time.monotonic()
        with contextlib.ExitStack() as held:
            connection = self._held_connection()
            if connection is not None:
                held.enter_context(connection)
            self._close(linger_ms=round(timeout_s * 1000))
            while connection is not None and _unread(connection) and time.monotonic() - started_s < timeout_s:
                time.sleep(UNREAD_POLL_S)  # the kernel tells the state, and no event
        if time.monotonic() - started_s >= timeout_s:
            raise EdgeUadError(
                f"the last frames were not taken within {timeout_s:g} s by the daemon at {self._endpoint}; "
                "see its status with edge-uad watch"
            )

    def close(self) -> None:
        """Close at once; what has not left is lost."""
        self._close(linger_ms=0)

    def _close(self, *, linger_ms: int) -> None:
        if self._connections is not None:
            self._socket.disable_monitor()
            self._connections.close(linger=0)
            self._connections = None
        self._socket.close(linger=linger_ms)
        self._context.term()

    def _note_connections(self) -> None:
        """Remember the newest connection's descriptor; asked often, so that no event has to wait for room."""
        while self._connections is not None and self._connections.poll(0):
            event, *_ = self._connections.recv_multipart()
            self._connection = struct.unpack("=hi", event)[1]

    def _held_connection(self) -> os_socket.socket | None:
        """A second descriptor of the connection to the daemon; None where there is none, or none to look after."""
        self._note_connections()
        if self._connection is None:
            return None
        with contextlib.suppress(OSError):  # gone already
            connection = os_socket.socket(fileno=os.dup(self._connection))
            if _leads_to(connection, self._ipc_path):
                return connection
            connection.close()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _leads_to(connection: os_socket.socket, path: str) -> bool:
    """A descriptor's number may have become another file's meanwhile."""
    address = b"\0" + path[1:].encode() if path.startswith("@") else path  # the abstract namespace
    return connection.family == os_socket.AF_UNIX and connection.getpeername() == address


def _unread(connection: os_socket.socket) -> int:
    """Bytes that the other end has not read yet."""
    count: int = struct.unpack("=i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0]
    return count


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
