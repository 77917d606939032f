"""Packets to pictures: every packet of video ends as one whole picture or as a reason why it is none.

FFmpeg's concealment stays on, because only with it does FFmpeg count and mark the parts that it had to invent;
what is marked is refused here. Decoding uses one thread: with several FFmpeg does not mark them.
"""

import contextlib
import struct
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import av
import numpy as np
from av.codec.context import Flags
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from edge_uad.errors import FrameError
from edge_uad.net.wire import MAX_IMAGE_BYTES
from edge_uad.records import UInt8
from edge_uad.sources.decode import MAX_IMAGE_PIXELS
from edge_uad.sources.ffmpeg.mjpeg import decode_packet
from edge_uad.sources.ffmpeg.nal import FrameNumCheck, NalDamageError, NalReader

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    VideoPacket = av.Packet[VideoStream]

BEFORE_KEY_FRAME = "it comes before the stream's first key frame"
REFERS_TO_DAMAGED = "it refers to an earlier picture that is damaged or was lost"
_LOST = "part of it was lost on the way"
_MISSING = "it cannot be decoded"
_CONCEALED = "part of it is damaged"
_NOT_WHOLE_YET = "it is not whole yet after the start of the stream"

_OPTIONS = {
    "err_detect": "crccheck+bitstream+buffer",  # not explode: it ends decoding before damage is marked
    "max_pixels": str(MAX_IMAGE_PIXELS),
}
_MOST_REORDERED = 17
"""Pictures that H.264 and HEVC may hold back, and one."""
_ONE_PICTURE_EACH = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video"})
"""Codecs without packets that show nothing, as VP8 and MPEG-4 have them: one without a picture is damaged."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a packet was complete here."""

    at_ns: int
    """Unix time."""
    mono_ns: int
    """The same moment on the monotonic clock."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What became of one packet."""

    arrival: Arrival
    image: UInt8 | None
    """uint8 (H, W, 3) RGB; None where there is no whole picture."""
    reason: str | None = None
    """Why there is none."""
    payload: bytes | None = None
    """What came instead, where it is a file of its own."""


class Decoder(Protocol):
    """Turns one stream's packets into pictures, in the order in which they are to be shown."""

    skipped: int
    """Pictures before the first key frame of a live stream, which is joined midway. The caller sets it back to 0."""

    def feed(self, packet: "VideoPacket", arrival: Arrival, *, lost: bool = False) -> list[Picture]:
        """Pictures that are complete now; ``lost``: packets are known to be missing before this one."""

    def flush(self) -> list[Picture]:
        """The pictures held back for reordering, at the end of the stream."""


def decoder_for(stream: "VideoStream", *, live: bool, trusted_pts: bool) -> Decoder:
    """The decoder of a stream.

    Args:
        stream: of an open container.
        live: the stream may be joined midway: what comes before the first key frame counts as skipped.
        trusted_pts: the container stores presentation times, as AVI does not.

    Raises:
        FrameError: there is none for its codec.
    """
    if stream.codec_context is None:
        raise FrameError("its codec is not known")
    if stream.codec_context.name == "mjpeg":
        return JpegDecoder(stream.codec_context)
    return VideoDecoder(stream.codec_context, live=live, trusted_pts=trusted_pts)


class JpegDecoder:
    """Motion JPEG by the decoder of stills: a damaged packet costs its own picture only.

    Args:
        context: not open; only asked how the container turns its pictures.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._context = context
        self._turn: _Turn | None = None
        self.skipped = 0

    def feed(self, packet: "VideoPacket", arrival: Arrival, *, lost: bool = False) -> list[Picture]:
        """The packet's picture; ``lost`` is no damage, as each packet stands alone."""
        del lost
        payload = bytes(packet)
        kept = payload if 0 < len(payload) <= MAX_IMAGE_BYTES else None
        if packet.is_corrupt:
            return [Picture(arrival, None, _LOST, kept)]
        try:
            image = decode_packet(payload)
        except FrameError as error:
            return [Picture(arrival, None, str(error), kept)]
        if self._turn is None:
            self._turn = self._read_turn(packet)
        return [Picture(arrival, _turned(image, self._turn))]

    def flush(self) -> list[Picture]:
        """None: nothing is held back."""
        return []

    def _read_turn(self, packet: "VideoPacket") -> "_Turn":
        """The container's display matrix, which FFmpeg attaches to decoded pictures only; their pixels are not used."""
        with contextlib.suppress(av.FFmpegError):
            self._context.thread_count = 1
            for frame in self._context.decode(packet):
                return _turn_of(frame)
        return _UPRIGHT


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A packet whose picture the decoder has not given yet."""

    index: int
    """Its place in the order of decoding."""
    arrival: Arrival
    pts: int | None


@dataclass(frozen=True, slots=True)
class _Held:
    """A picture in its turn, held until all packets before its own are accounted for."""

    index: int
    """Of its packet."""
    picture: Picture


class VideoDecoder:
    """Video whose pictures refer to others: damage lasts until the next key frame.

    Every packet has an index, in the order of decoding, that FFmpeg hands on to the picture (``opaque``). So it is
    known which packets gave none. Once damage is known, the decoder is emptied and starts anew at a key frame.

    Args:
        context: of the stream, not open yet.
        live: see ``decoder_for``.
        trusted_pts: see ``decoder_for``.
    """

    def __init__(self, context: VideoCodecContext, *, live: bool, trusted_pts: bool) -> None:
        context.thread_count = 1
        context.options = _OPTIONS
        context.copy_opaque = True
        context.flags |= Flags.output_corrupt
        self._context = context
        self._name = context.name
        self._reorder_depth = context.reorder_depth
        self._live = live
        self._trusted_pts = trusted_pts
        self._nal = None
        if self._name in {"h264", "hevc"}:
            self._nal = NalReader(context.extradata, hevc=self._name == "hevc")
        self._frame_nums = FrameNumCheck(context.extradata) if self._name == "h264" else None
        self._converter = VideoReformatter()
        self._next_index = 0
        self._waiting: dict[int, _Waiting] = {}
        self._held: deque[_Held] = deque()
        self._until_key: str | None = BEFORE_KEY_FRAME
        """Why no picture is accepted before a key frame; None: decoding goes on."""
        self._joined = False
        self._first_index = 0
        """Of the key frame at which decoding began."""
        self._first_pts: int | None = None
        self._recovering = False
        """Decoding began at an H.264 recovery point: FFmpeg marks the pictures that are not whole yet."""
        self._damaged_from: int | None = None
        self._damage = _CONCEALED
        self.skipped = 0

    def feed(self, packet: "VideoPacket", arrival: Arrival, *, lost: bool = False) -> list[Picture]:
        """Pictures that are complete now."""
        index = self._next_index
        self._next_index += 1
        reason, gap, units = self._inspect(packet, lost=lost)
        pictures = self._restart() if self._joined and (reason is not None or gap) else []
        if self._until_key is not None:
            if reason is not None or not packet.is_keyframe:
                if self._live and not self._joined:
                    self.skipped += 1
                    return pictures
                return [*pictures, Picture(arrival, None, reason or self._until_key)]
            self._begin(index, packet, units)
        waiting = _Waiting(index, arrival, packet.pts if self._trusted_pts else None)
        if not packet.is_discard:
            self._waiting[index] = waiting
        packet.opaque = waiting  # an object of its own: PyAV keeps these by identity
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError as error:
            self._mark(index, f"it cannot be decoded ({(error.strerror or 'damaged').lower()})")
            return [*pictures, *self._restart()]
        self._sort_in(frames)
        if self._damaged_from is not None:
            return [*pictures, *self._restart()]
        return [*pictures, *self._release()]

    def flush(self) -> list[Picture]:
        """The pictures held back for reordering; again: none."""
        return self._drain()

    def _inspect(self, packet: "VideoPacket", *, lost: bool) -> tuple[str | None, bool, list[bytes]]:
        """Damage that shows before decoding, whether pictures are missing before this one, and its NAL units."""
        units: list[bytes] = []
        reason = _LOST if packet.is_corrupt or lost else None
        if self._nal is not None:
            try:
                units = self._nal.units(bytes(packet))
            except NalDamageError as error:
                reason = reason or str(error)
        return reason, self._frame_nums is not None and self._frame_nums.gap(units), units

    def _begin(self, index: int, packet: "VideoPacket", units: list[bytes]) -> None:
        self._until_key = None
        self._joined = True
        self._first_index = index
        self._first_pts = packet.pts if self._trusted_pts else None
        self._recovering = self._name == "h264" and not any(unit[0] & 31 == 5 for unit in units)

    def _mark(self, index: int, reason: str) -> None:
        """The picture of this packet is damaged, and all after it."""
        if self._damaged_from is None or index < self._damaged_from:
            self._damaged_from = index
            self._damage = reason

    def _sort_in(self, frames: list[VideoFrame]) -> None:
        for frame in frames:
            waiting = frame.opaque
            if not isinstance(waiting, _Waiting) or self._waiting.pop(waiting.index, None) is None:
                # made by FFmpeg in the place of lost pictures
                self._mark(min(self._waiting, default=self._next_index), _LOST)
                continue
            self._give_up_overdue(waiting, interlaced=frame.interlaced_frame)
            self._held.append(_Held(waiting.index, self._picture(frame, waiting)))

    def _give_up_overdue(self, shown: _Waiting, *, interlaced: bool) -> None:
        """Packets that should have had their picture before this one will have none."""
        for other, waiting in list(self._waiting.items()):
            if waiting.pts is not None and shown.pts is not None:
                overdue = waiting.pts < shown.pts
            else:
                overdue = other + _MOST_REORDERED < shown.index
            if not overdue:
                continue
            del self._waiting[other]
            if interlaced and other > self._first_index:  # the other field of a picture
                continue
            if self._name not in _ONE_PICTURE_EACH:
                continue
            self._held.append(_Held(other, Picture(waiting.arrival, None, _MISSING)))
            if not self._leads(waiting) and not self._recovering:
                self._mark(other, _MISSING)

    def _picture(self, frame: VideoFrame, waiting: _Waiting) -> Picture:
        if self._leads(waiting):
            return Picture(waiting.arrival, None, "it refers to pictures before the key frame, which were lost")
        if frame.is_corrupt:
            if not self._recovering:
                self._mark(waiting.index, _CONCEALED)
            return Picture(waiting.arrival, None, _NOT_WHOLE_YET if self._recovering else _CONCEALED)
        self._recovering = False
        return Picture(waiting.arrival, self._converted(frame))

    def _leads(self, waiting: _Waiting) -> bool:
        """Whether a picture is shown before the key frame that it was stored after: it may refer to older ones."""
        if self._first_pts is None or waiting.pts is None:
            return False
        return waiting.index > self._first_index and waiting.pts < self._first_pts

    def _release(self) -> list[Picture]:
        """What is held and has no packet before its own that is not accounted for: damage to one would be its own."""
        released: list[Picture] = []
        while self._held and self._held[0].index < min(self._waiting, default=self._next_index):
            released.append(self._checked(self._held.popleft()))
        return released

    def _checked(self, held: _Held) -> Picture:
        if held.picture.image is None or self._damaged_from is None or held.index < self._damaged_from:
            return held.picture
        return replace(held.picture, image=None, reason=self._reason_of(held.index))

    def _reason_of(self, index: int) -> str:
        return self._damage if index == self._damaged_from else REFERS_TO_DAMAGED

    def _drain(self) -> list[Picture]:
        """Everything that the decoder holds; packets without a picture come last."""
        with contextlib.suppress(av.FFmpegError):
            self._sort_in(self._context.decode(None))
        if self._name not in _ONE_PICTURE_EACH and self._damaged_from is None:
            self._waiting.clear()
        if self._waiting:
            self._mark(min(self._waiting), self._damage if self._damaged_from is not None else _MISSING)
        pictures = [self._checked(held) for held in self._held]
        pictures += [Picture(one.arrival, None, self._reason_of(index)) for index, one in self._waiting.items()]
        self._held.clear()
        self._waiting.clear()
        return pictures

    def _restart(self) -> list[Picture]:
        """Empty the decoder and wait for a key frame."""
        pictures = self._drain() if self._until_key is None else []
        self._context.flush_buffers()
        self._context.reorder_depth = self._reorder_depth
        self._damaged_from = None
        self._until_key = REFERS_TO_DAMAGED
        return pictures

    def _converted(self, frame: VideoFrame) -> UInt8:
        """uint8 (H, W, 3) RGB; matrix and range as the stream declares them, BT.601 where it declares no matrix."""
        rgb = self._converter.reformat(frame, format="rgb24", threads=1)
        return _turned(np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8), _turn_of(frame))


_Turn = tuple[int, bool]
"""Quarter turns counterclockwise, after mirroring left to right where that is True."""
_UPRIGHT: _Turn = (0, False)


def _turn_of(frame: VideoFrame) -> _Turn:
    """How the container or stream says that the picture is to be turned, by its display matrix."""
    try:
        side_data = cast("dict[Type, Any]", frame.side_data)  # PyAV's own stub names no key
        if Type.DISPLAYMATRIX not in side_data:
            return _UPRIGHT
    except ValueError:  # side data of a kind that PyAV has no name for
        return round(frame.rotation / 90) % 4, False
    # the matrix takes (x, y) of the stored picture to (a·x + c·y, b·x + d·y) of the shown one, y downwards
    a, b, _, c, d = struct.unpack("=5i", bytes(side_data[Type.DISPLAYMATRIX])[:20])
    for turns, mirrored in ((turns, mirrored) for mirrored in (False, True) for turns in range(4)):
        if (_sign(a), _sign(b), _sign(c), _sign(d)) == _matrix_of(turns, mirrored=mirrored):
            return turns, mirrored
    return _UPRIGHT  # by an angle between: the picture stays as it is stored


def _matrix_of(turns: int, *, mirrored: bool) -> tuple[int, int, int, int]:
    x, y = (-1 if mirrored else 1, 0), (0, 1)
    for _ in range(turns):  # a quarter turn counterclockwise takes (x, y) to (y, -x), y downwards
        x, y = (x[1], -x[0]), (y[1], -y[0])
    return (*x, *y)


def _sign(value: int) -> int:
    return (value > 0x4000) - (value < -0x4000)


def _turned(image: UInt8, turn: _Turn) -> UInt8:
    turns, mirrored = turn
    if turn == _UPRIGHT:
        return image
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))
