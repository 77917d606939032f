"""What a network stream, a video file and a V4L2 camera share: one container opened by FFmpeg."""

import copy
import errno
import logging
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Self, cast

import av
import av.logging
from av.container.input import InputContainer
from av.format import ContainerFormat
from av.video.stream import VideoStream

from edge_uad.errors import FrameError, SourceLostError, UsageError
from edge_uad.records import AnyFrame, Frame, UnreadableFrame
from edge_uad.sources.ffmpeg.decoder import Arrival, Decoder, Picture, decoder_for

if TYPE_CHECKING:
    from edge_uad.sources.ffmpeg.decoder import VideoPacket

_POLL_S = 0.002
"""Between attempts at a device that has no picture yet."""
_CLOCK_TOLERANCE_NS = 10_000_000_000
"""A device's time stamp that lies farther from now is of another clock."""
# What FFmpeg says in its log alone. RTP: it joins what is left after a loss and marks nothing.
_RTP_LOSS = re.compile(r"missed \d+ packets|Missing packets|max delay reached|buffer overrun|dropping old packet")
# Transport streams: where it cuts the stream into pictures, it sets the mark of one to the picture before.
_CORRUPT_PACKET = re.compile(r"Packet corrupt \(stream = (\d+), dts = (-?\d+|NOPTS)\)")

_libav_log = logging.getLogger("libav")
_libav_log.addHandler(logging.NullHandler())
_libav_log.propagate = False  # what FFmpeg finds is reported with the frame that it befell
av.logging.set_level(av.logging.WARNING)
av.logging.set_skip_repeated(False)


class FfmpegSource:
    """Reads the video of one container. Subclasses define what a failure to open and the end mean.

    Args:
        station: the frames' station.
        address: file, URL or device.
        shown: how messages name it.
        container_format: FFmpeg's name of the input format; None: as FFmpeg finds.
        options: of FFmpeg's demuxer and protocol.
        open_timeout_s: for connecting and for finding out what the stream holds, together.
        frame_timeout_s: without a picture for so long the source is lost.
        live: it goes on whether it is read or not, and is joined midway.
    """

    def __init__(
        self,
        station: str,
        address: str,
        *,
        shown: str,
        open_timeout_s: float,
        frame_timeout_s: float,
        live: bool,
        container_format: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._station = station
        self._address = address
        self._shown = shown
        self._format = container_format
        self._options = dict(options or {})
        self._open_timeout_s = open_timeout_s
        self._frame_timeout_s = frame_timeout_s
        self._live = live
        self._silence_is_loss = True
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._decoder: Decoder | None = None
        self._pictures: deque[Picture] = deque()
        self._flushed = False
        """The end was reached, or reading failed."""
        self._failure: str | None = None
        self._heard_mono_s = 0.0
        """When the newest packet of video came."""
        self._next_id = 0
        self._n_packets = 0
        """Of video, since ``open``."""
        self._losses = _Losses()

    def open(self) -> None:
        """Connect.

        Raises:
            SourceLostError: it is not there (yet), or holds no video.
            UsageError: it is a file without video, or FFmpeg was built without its protocol.
        """
        self.close()
        try:
            with av.logging.Capture() as messages:  # FFmpeg's own lines may hold the address with its password
                container = av.open(
                    self._address,
                    format=self._format,
                    options=self._options,
                    # each holds for connecting and for probing alone
                    timeout=(self._open_timeout_s / 2, self._frame_timeout_s),
                )
        except av.error.ProtocolNotFoundError as error:
            raise UsageError(
                f"{self._shown}: the FFmpeg of this installation does not have that protocol; use RTSP, HTTP or UDP"
            ) from error
        except (av.FFmpegError, ValueError, OSError) as error:
            self._cannot_open(_cause(error))
        self._container = container
        try:
            stream = cast("VideoStream | None", container.streams.best("video"))
            if stream is None:
                raise FrameError("it holds no video")  # noqa: TRY301  (one way out for all that is wrong with it)
            stored = "avi" not in container.format.name
            self._decoder = decoder_for(stream, live=self._live, trusted_pts=stored)
        except FrameError as error:
            self.close()
            self._cannot_open(str(error))
        self._stream = stream
        self._losses = _Losses()
        self._losses.read(messages, stream.index, opening=True)
        self._flushed = False
        self._failure = None
        self._n_packets = 0
        self._heard_mono_s = time.monotonic()

    def read(self, timeout_s: float) -> AnyFrame | None:
        """The next frame; None where none was complete within ``timeout_s``, or within one packet of a stream.

        Raises:
            SourceLostError: no picture came for ``frame_timeout_s``, or the connection broke.
            SourceEndedError: there are no more.
        """
        container, decoder = self._container, self._decoder
        if container is None or decoder is None:
            raise SourceLostError(f"{self._shown} is not open")
        until_s = time.monotonic() + timeout_s
        while not self._pictures:
            if self._flushed:
                self._pictures.extend(decoder.flush())  # those held for reordering, where reading broke off
                if self._pictures:
                    break
                if self._failure is not None:
                    self._cannot_read(self._failure)
                self._ended()
            if not self._decode_next(container, decoder):
                if self._silence_is_loss and time.monotonic() - self._heard_mono_s > self._frame_timeout_s:
                    self._cannot_read(f"no picture came for {self._frame_timeout_s:g} s")
                if time.monotonic() >= until_s:
                    return None
        return self._frame(self._pictures.popleft(), decoder)

    def close(self) -> None:
        """Let go of the file, device or connection."""
        container, self._container = self._container, None
        self._stream = self._decoder = None
        self._pictures.clear()
        if container is not None:
            container.close()

    def _decode_next(self, container: InputContainer, decoder: Decoder) -> bool:
        """Take one packet; False where it was none of the video."""
        packet = self._demux(container)
        if packet is None:
            return False
        if not packet.size and packet.dts is None and packet.pts is None:  # PyAV's mark for the end
            self._flushed = True
            return True
        self._note(packet)
        if self._stream is None or packet.stream_index != self._stream.index:
            return False
        self._heard_mono_s = time.monotonic()
        self._n_packets += 1
        arrival = self._arrival(packet)
        if not packet.size:  # a V4L2 driver's mark for a damaged buffer
            self._pictures.append(Picture(arrival, None, "the camera delivered it damaged"))
            return True
        self._pictures.extend(decoder.feed(packet, arrival, lost=self._losses.hit(packet)))
        return True

    def _demux(self, container: InputContainer) -> "VideoPacket | None":
        """The next packet of any stream; None where there is none yet, or none any more."""
        try:
            with av.logging.Capture() as messages:
                # a generator for each packet: PyAV's is made for the streams known when it begins
                packet = next(iter(container.demux()), None)
        except av.BlockingIOError:
            time.sleep(_POLL_S)
            return None
        except (av.FFmpegError, OSError) as error:
            self._failure = _cause(error)
            self._flushed = True
            return None
        if packet is None:
            self._flushed = True
            return None
        if self._stream is not None:
            self._losses.read(messages, self._stream.index)
        return cast("VideoPacket", packet)

    def _note(self, packet: "VideoPacket") -> None:
        """Called with every packet of any stream."""

    def _arrival(self, packet: "VideoPacket") -> Arrival:  # noqa: ARG002  (a device's packets bear the time)
        return Arrival(time.time_ns(), time.monotonic_ns())

    def _frame(self, picture: Picture, decoder: Decoder) -> AnyFrame:
        frame_id = self._next_id
        self._next_id += 1
        skipped, decoder.skipped = decoder.skipped, 0
        if picture.image is None:
            return UnreadableFrame(
                station=self._station,
                frame_id=frame_id,
                captured_at_ns=picture.arrival.at_ns,
                captured_mono_ns=picture.arrival.mono_ns,
                dropped_before=skipped,
                reason=f"a damaged picture: {picture.reason}",
                payload=picture.payload,
            )
        return Frame(
            station=self._station,
            frame_id=frame_id,
            captured_at_ns=picture.arrival.at_ns,
            captured_mono_ns=picture.arrival.mono_ns,
            dropped_before=skipped,
            image=picture.image,
        )

    def _cannot_open(self, cause: str) -> NoReturn:
        raise SourceLostError(f"{self._shown} cannot be opened ({cause})")

    def _cannot_read(self, cause: str) -> NoReturn:
        raise SourceLostError(f"{self._shown} stopped giving frames ({cause})")

    def _ended(self) -> NoReturn:
        raise SourceLostError(f"{self._shown} stopped giving frames (its sender ended it)")


class _Losses:
    """Which packets are damaged by what was lost on the way, as FFmpeg marks it or says it in its log."""

    def __init__(self) -> None:
        self._dts: set[int] = set()
        """Of packets known to be damaged that have not come yet."""
        self._now = False
        """Something was lost before or inside the next packet."""
        self._after = False
        """The packet before was hit: FFmpeg may have set the mark of the next one to it."""
        self._key_frames_to_refuse = 0

    def read(self, messages: Sequence[tuple[int, str, str]], stream_index: int, *, opening: bool = False) -> None:
        """Take in what FFmpeg said while it read."""
        for _, _, text in messages:
            if found := _CORRUPT_PACKET.search(text):
                if int(found[1]) == stream_index and found[2] != "NOPTS":
                    self._dts.add(int(found[2]))
                self._now |= int(found[1]) == stream_index and not opening
            elif _RTP_LOSS.search(text):
                self._now |= not opening
                # it may lie anywhere in what was read to find out what the stream holds
                self._key_frames_to_refuse = max(self._key_frames_to_refuse, int(opening))

    def hit(self, packet: "VideoPacket") -> bool:
        """Whether this packet may be damaged; called once for each packet, in their order."""
        if self._key_frames_to_refuse and packet.is_keyframe:
            self._key_frames_to_refuse -= 1
            return True
        marked = self._now or packet.is_corrupt
        listed = packet.dts is not None and packet.dts in self._dts
        hit = marked or listed or self._after
        self._now, self._after = False, marked
        if listed and packet.dts is not None:
            self._dts.discard(packet.dts)
        return hit


class LiveFfmpegSource(FfmpegSource):
    """One that goes on wherever it is opened, and so can be replaced while a call into it hangs."""

    def fresh(self) -> Self:
        """Another one of the same camera or stream, not open, that counts its frames on."""
        other = copy.copy(self)
        other._container = other._stream = other._decoder = None  # noqa: SLF001  (of its own class)
        other._pictures = deque()  # noqa: SLF001
        return other


def has_format(name: str) -> bool:
    """Whether this build of FFmpeg reads that format or device."""
    try:
        return ContainerFormat(name).is_input
    except ValueError:
        return False


def stamped_by_device(packet: "VideoPacket") -> Arrival | None:
    """When a V4L2 driver says that the picture was taken; None where its clock is none of this machine's."""
    now_ns, now_mono_ns = time.time_ns(), time.monotonic_ns()
    if packet.pts is None or packet.time_base is None:
        return None
    stamp_ns = round(packet.pts * packet.time_base * 1_000_000_000)
    for clock_ns in (now_mono_ns, now_ns):
        age_ns = clock_ns - stamp_ns
        if 0 <= age_ns < _CLOCK_TOLERANCE_NS:
            return Arrival(now_ns - age_ns, now_mono_ns - age_ns)
    return None


def _cause(error: Exception) -> str:
    """What FFmpeg says of a failure, without the address, which may hold a password."""
    if isinstance(error, av.error.ExitError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return "the connection broke"
    text = getattr(error, "strerror", None)
    return str(text).lower() if text else type(error).__name__
