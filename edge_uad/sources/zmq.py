"""Frames that arrive as ZeroMQ messages: PULL loses none and holds the sender back, SUB is live."""

import time
from typing import Literal

import zmq

from edge_uad.errors import EndpointError, FrameError, SourceEndedError, SourceLostError
from edge_uad.interfaces import TriggerTarget
from edge_uad.net.endpoints import AnySocket, bind, check_endpoint
from edge_uad.net.keys import ServerKeys, ZapAuthenticator
from edge_uad.net.wire import MAX_IMAGE_BYTES, FrameMessage, claimed_identity, decode_frame, decode_trigger
from edge_uad.records import NO_FRAME_ID, Frame, Trigger, UnreadableFrame
from edge_uad.sources.decode import MAX_IMAGE_PIXELS, Picture, UnusedBitsWarning, decode_picture, decode_raw
from edge_uad.sources.sender_clock import SenderClock
from edge_uad.sources.triggers.queue import no_frame_for
from edge_uad.sources.triggers.receiver import NOT_ACCEPTED

Pattern = Literal["pull", "sub"]

RECEIVE_QUEUE_FRAMES = 4
"""What ZeroMQ holds before a PUSH sender has to wait or a SUB loses frames."""
DRAIN_S = 1.0
"""How long messages that arrive without a pause are still received at a stop."""
QUIET_MS = 50
"""After this long without a message no sender has one in transit."""
MAX_PARTS = 3
TRIGGER_PARTS = 2
MAX_HELD_BYTES = 8 * 1024 * 1024
"""Of a payload that is no picture, kept for the evidence; a larger one is dropped."""
MAX_COUNTED_GAP = 1_000_000
"""A larger jump of frame ids is a sender that restarted its count, not frames lost."""
_FORMATS = {"jpeg": "JPEG", "png": "PNG"}


class ZmqSource:
    """Binds, and returns one frame per message; a message without a valid picture is an ``UnreadableFrame``.

    Args:
        station: messages must name it.
        endpoint: ``tcp://127.0.0.1:5560`` or ``ipc:///…``.
        pattern: ``pull`` (senders PUSH) or ``sub`` (senders PUB; gaps in frame ids count as drops).
        insecure: allow addresses beyond this machine.
        keys: accept these CURVE keys alone; addresses beyond this machine are allowed then, too.
        max_pixels: larger pictures are unreadable.
        trust_sender_clock: a frame's age counts from its ``captured_at_ns``; otherwise from its arrival, when ``read``
            takes it from the socket.
    """

    def __init__(
        self,
        station: str,
        endpoint: str,
        *,
        pattern: Pattern = "pull",
        insecure: bool = False,
        keys: ServerKeys | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
        trust_sender_clock: bool = False,
    ) -> None:
        check_endpoint(endpoint, insecure=insecure, keyed=keys is not None)
        self._station = station
        self._endpoint = endpoint
        self._pattern = pattern
        self._keys = keys
        self._max_pixels = max_pixels
        self._least_side_px: int | None = None
        self._context: zmq.Context[AnySocket] | None = None
        self._authenticator: ZapAuthenticator | None = None
        self._socket: AnySocket | None = None
        self.unused_bits = UnusedBitsWarning(station)
        """Counts 16-bit pictures whose highest bits are never used."""
        self.trigger_target: TriggerTarget | None = None
        """The station, where it is triggered: it gets the triggers that senders send among the frames."""
        self._last_id = -1
        self._sender_clock = SenderClock(station, trusted=trust_sender_clock)
        self._shut_at_mono_s: float | None = None
        self.bound_endpoint: str | None = None
        """The address in use, with the port that was chosen for ``*``; None while closed."""

    @property
    def sender_clock_offset_s(self) -> float | None:
        """The sender's clock less this machine's, measured; None before the first frame. Any thread may read it."""
        return self._sender_clock.offset_s(now_ns=time.time_ns(), now_mono_ns=time.monotonic_ns())

    def reduce_to(self, least_side_px: int) -> None:
        """Decode JPEG pictures at the smallest size whose sides both have so many pixels."""
        self._least_side_px = least_side_px

    def open(self) -> None:
        """Bind.

        Raises:
            EndpointError: in use, or not of this machine.
        """
        self.close()
        self._context = zmq.Context()
        self._authenticator = ZapAuthenticator(self._context, self._keys)
        self._socket = self._context.socket(zmq.PULL if self._pattern == "pull" else zmq.SUB)
        self._authenticator.guard(self._socket)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_FRAMES)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_IMAGE_BYTES)
        if self._pattern == "sub":
            self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        remedy = "stop it, or give this station's source another port"
        try:
            self.bound_endpoint = bind(self._socket, self._endpoint, remedy=remedy)
        except EndpointError:
            self.close()
            raise

    def read(self, timeout_s: float) -> Frame | UnreadableFrame | None:
        """The next message's frame; None where none arrived within ``timeout_s``, or a trigger did.

        Raises:
            SourceLostError: the socket is not open or failed.
            SourceEndedError: after ``shut``, every received message has been returned.
        """
        if self._socket is None:
            raise SourceLostError(f"{self._endpoint} is not open")
        try:
            if self._shut_at_mono_s is not None:
                self._await_rest(self._socket, self._shut_at_mono_s)
            elif not self._socket.poll(max(round(timeout_s * 1000), 0)):
                return None
            parts = _receive(self._socket)
        except zmq.Again:  # a handshake can make a socket ready, too, without a message
            return None
        except zmq.ZMQError as error:
            raise SourceLostError(f"{self._endpoint} failed: {error.strerror}") from error
        now_ns, now_mono_ns = time.time_ns(), time.monotonic_ns()
        if len(parts) == TRIGGER_PARTS and self.trigger_target is not None:
            return self._trigger(parts, self.trigger_target, now_ns, now_mono_ns)
        return self._frame(parts, now_ns, now_mono_ns)

    def shut(self) -> None:
        """Accept no more; ``read`` returns what was received already and then raises SourceEndedError.

        What senders have in transit is received for as long as it arrives without a pause, ``DRAIN_S`` at most: at the
        unbind ZeroMQ discards what lies in the sockets' own buffers.
        """
        self._shut_at_mono_s = time.monotonic() + (DRAIN_S if self._pattern == "pull" else 0.0)

    def close(self) -> None:
        """Unbind; messages not read yet are lost."""
        if self._socket is not None:
            self._socket.close(linger=0)
        if self._authenticator is not None:
            self._authenticator.close()
        if self._context is not None:
            self._context.term()
        self._socket = self._authenticator = self._context = self.bound_endpoint = None

    def _await_rest(self, socket: AnySocket, shut_at_mono_s: float) -> None:
        """Return where one more message is there; unbind once none arrives within ``QUIET_MS``, or time is up."""
        if self.bound_endpoint is not None:
            if time.monotonic() < shut_at_mono_s and socket.poll(QUIET_MS):
                return
            socket.unbind(self.bound_endpoint)
            self.bound_endpoint = None
        if self._pattern == "sub" or not socket.poll(QUIET_MS):
            raise SourceEndedError(f"{self._endpoint} accepts no more frames")

    def _frame(self, parts: list[bytes], now_ns: int, now_mono_ns: int) -> Frame | UnreadableFrame:
        try:
            message = decode_frame(parts)
            self._check_station(message.station)
            picture = _picture(message, self._max_pixels, self._least_side_px)
        except FrameError as error:
            return self._unreadable(parts, str(error), now_ns, now_mono_ns)
        self.unused_bits.note(picture, f"of frame {message.frame_id}")
        return Frame(
            station=self._station,
            frame_id=message.frame_id,
            captured_at_ns=message.captured_at_ns,
            captured_mono_ns=self._captured_mono_ns(message.captured_at_ns, now_ns, now_mono_ns),
            part_id=message.part_id,
            dropped_before=self._gap_before(message.frame_id),
            image=picture.image,
            taken_hw=picture.taken_hw,
        )

    def _trigger(
        self, parts: list[bytes], target: TriggerTarget, now_ns: int, now_mono_ns: int
    ) -> UnreadableFrame | None:
        """Hand a trigger on; what is returned stands for one that was not accepted, and is no frame of the camera."""
        try:
            message = decode_trigger(parts)
            self._check_station(message.station)
        except FrameError as error:
            return UnreadableFrame(
                station=self._station,
                frame_id=NO_FRAME_ID,
                captured_at_ns=now_ns,
                captured_mono_ns=now_mono_ns,
                part_id=claimed_identity(parts).part_id,
                reason=str(error),
            )
        if message.trigger_id is None:
            target.resynchronise()
            return None
        trigger = Trigger(message.trigger_id, message.part_id, now_mono_ns)
        return None if target.trigger(trigger) else no_frame_for(trigger, station=self._station, reason=NOT_ACCEPTED)

    def _unreadable(self, parts: list[bytes], reason: str, now_ns: int, now_mono_ns: int) -> UnreadableFrame:
        claimed = claimed_identity(parts)
        frame_id = self._last_id + 1 if claimed.frame_id is None else claimed.frame_id
        captured_at_ns, captured_mono_ns = now_ns, now_mono_ns
        if claimed.captured_at_ns is not None:
            captured_at_ns = claimed.captured_at_ns
            captured_mono_ns = self._captured_mono_ns(captured_at_ns, now_ns, now_mono_ns)
        return UnreadableFrame(
            station=self._station,
            frame_id=frame_id,
            captured_at_ns=captured_at_ns,
            captured_mono_ns=captured_mono_ns,
            part_id=claimed.part_id,
            dropped_before=self._gap_before(frame_id),
            reason=reason,
            payload=parts[2] if len(parts) == MAX_PARTS and len(parts[2]) <= MAX_HELD_BYTES else None,
        )

    def _captured_mono_ns(self, captured_at_ns: int, now_ns: int, now_mono_ns: int) -> int:
        return self._sender_clock.captured_mono_ns(captured_at_ns, now_ns=now_ns, now_mono_ns=now_mono_ns)

    def _check_station(self, station: str) -> None:
        if station != self._station:
            raise FrameError(f"the message is for station {station!r}, this is {self._station!r}")

    def _gap_before(self, frame_id: int) -> int:
        """Frames lost in transit; PULL loses none, and several senders may number their frames independently there."""
        gap = frame_id - self._last_id - 1 if self._last_id >= 0 else 0
        self._last_id = frame_id
        return gap if self._pattern == "sub" and 0 < gap <= MAX_COUNTED_GAP else 0


def _receive(socket: AnySocket) -> list[bytes]:
    """One message; of the parts beyond ``MAX_PARTS`` only the first is kept, so that the message is refused."""
    parts: list[bytes] = []
    more = True
    while more:
        part = socket.recv(zmq.NOBLOCK)
        if len(parts) <= MAX_PARTS:
            parts.append(part)
        more = bool(socket.getsockopt(zmq.RCVMORE))
    return parts


def _picture(message: FrameMessage, max_pixels: int, least_side_px: int | None) -> Picture:
    hw = (message.height, message.width)
    encoded_as = _FORMATS.get(message.encoding)
    if encoded_as is None:
        return Picture(decode_raw(message.payload, message.encoding, hw, max_pixels=max_pixels), None)
    return decode_picture(
        message.payload, formats=(encoded_as,), stored_hw=hw, max_pixels=max_pixels, least_side_px=least_side_px
    )
