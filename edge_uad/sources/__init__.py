"""Where frames come from: one class per kind of source, the capture thread, and the queues to inspection.

One text names a source, on the command line and in a config file alike.
"""

import glob
from dataclasses import dataclass
from enum import StrEnum

from edge_uad.errors import UsageError
from edge_uad.interfaces import DecodingSource, FrameSource
from edge_uad.net.endpoints import shown_url, split_endpoint
from edge_uad.net.keys import ServerKeys
from edge_uad.paths import expand_user

_STREAM_SCHEMES = ("rtsp://", "rtsps://", "http://", "https://", "udp://", "rtmp://", "srt://")
_ZMQ_SCHEMES = ("tcp://", "ipc://")


VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
"""File names that are taken for videos, in lower case."""


class SourceKind(StrEnum):
    """Kinds of sources."""

    CAMERA = "camera"
    STREAM = "stream"
    VIDEO = "video"
    FOLDER = "folder"
    PULL = "pull"
    SUB = "sub"


LIVE_KINDS = frozenset({SourceKind.CAMERA, SourceKind.STREAM, SourceKind.SUB})
"""Sources that do not wait for inspection: by default only their newest frame is judged."""


EXCLUSIVE_KINDS = frozenset({SourceKind.CAMERA, SourceKind.PULL, SourceKind.SUB})
"""Sources that one station alone can open."""


ON_DEMAND_KINDS = frozenset({SourceKind.FOLDER, SourceKind.VIDEO})
"""Sources that give a picture when they are read."""


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """What a source's text names."""

    kind: SourceKind
    address: str
    """Device, URL, path, glob or endpoint."""

    @property
    def live(self) -> bool:
        """Whether it sends on without waiting for inspection."""
        return self.kind in LIVE_KINDS


def parse_source(text: str) -> SourceAddress:
    """Parse a source's text.

    ``0`` or ``/dev/video0``: camera. ``rtsp://…``, ``http://…``, ``udp://…``: stream. ``tcp://…``, ``ipc://…``:
    ZeroMQ PULL; with ``sub+`` before it, SUB. A folder, a glob, an image: those files. A video file: its frames.

    Raises:
        UsageError: it names no source; the message names the path that does not exist.
    """
    pattern, plus, endpoint = text.partition("+")
    if plus and pattern in {"pull", "sub"} and endpoint.startswith(_ZMQ_SCHEMES):
        split_endpoint(endpoint)
        return SourceAddress(SourceKind(pattern), endpoint)
    if text.startswith(_ZMQ_SCHEMES):
        split_endpoint(text)
        return SourceAddress(SourceKind.PULL, text)
    if text.startswith(_STREAM_SCHEMES):
        return SourceAddress(SourceKind.STREAM, text)
    if text.isdecimal() or text.startswith("/dev/"):
        return SourceAddress(SourceKind.CAMERA, text)
    if "://" in text:
        known = " ".join((*_STREAM_SCHEMES, *_ZMQ_SCHEMES))
        raise UsageError(f"{text}: this kind of address is not known; known are {known}")
    return _path_source(text)


def shown_source(text: str) -> str:
    """A source's text for people: a camera is named so, and a URL comes without the password that it may hold."""
    if text.isdecimal():
        return f"camera {text}"
    return shown_url(text) if text.startswith(_STREAM_SCHEMES) else text


def make_source(
    address: SourceAddress,
    *,
    station: str,
    insecure: bool = False,
    keys: ServerKeys | None = None,
    trust_sender_clock: bool = False,
    waits_for_pulses: bool = False,
) -> FrameSource:
    """The source at an address, not open yet.

    Args:
        address: from ``parse_source``.
        station: the frames' station.
        insecure: allow ZeroMQ endpoints beyond this machine.
        keys: CURVE keys of ZeroMQ endpoints; None: without encryption, open to all who can connect.
        trust_sender_clock: frames from ZeroMQ endpoints are as old as their sender says.
        waits_for_pulses: a camera gives no frame until the line sends it a pulse: it is not lost for that.

    Raises:
        UsageError: the folder holds no image, or the endpoint is not allowed.
    """
    match address.kind:
        case SourceKind.CAMERA:
            from edge_uad.sources.camera import CameraSource  # noqa: PLC0415  (each kind loads its own library)

            return CameraSource(station, address.address, waits_for_pulses=waits_for_pulses)
        case SourceKind.STREAM:
            from edge_uad.sources.stream import StreamSource  # noqa: PLC0415

            return StreamSource(station, address.address)
        case SourceKind.VIDEO:
            from edge_uad.sources.video import VideoSource  # noqa: PLC0415

            return VideoSource(station, expand_user(address.address))
        case SourceKind.FOLDER:
            from edge_uad.sources.folder import FolderSource, find_images, log_left_out, root_of  # noqa: PLC0415

            found = find_images(address.address)
            log_left_out(found, address.address)
            return FolderSource(station, found.images, root=root_of(address.address), left_out=found.left_out)
        case SourceKind.PULL:
            from edge_uad.sources.zmq import ZmqSource  # noqa: PLC0415

            return ZmqSource(
                station,
                address.address,
                pattern="pull",
                insecure=insecure,
                keys=keys,
                trust_sender_clock=trust_sender_clock,
            )
        case SourceKind.SUB:
            from edge_uad.sources.zmq import ZmqSource  # noqa: PLC0415

            return ZmqSource(
                station,
                address.address,
                pattern="sub",
                insecure=insecure,
                keys=keys,
                trust_sender_clock=trust_sender_clock,
            )


def reduce_decoding(source: FrameSource, least_side_px: int | None) -> None:
    """Let a source that decodes JPEG files decode them at a part of their size; None: at full size."""
    if least_side_px is not None and isinstance(source, DecodingSource):
        source.reduce_to(least_side_px)


def recorded_source(path: str, *, station: str = "recorded") -> tuple[FrameSource, int | None]:
    """Pictures that are already there, for a bank or a measurement: a folder, a glob, an image or a video file.

    Returns:
        The source, not open yet, and how many frames it holds; None where that cannot be known.

    Raises:
        UsageError: nothing is there, or it is a camera, a stream or an endpoint.
    """
    address = parse_source(path)
    if address.kind is SourceKind.FOLDER:
        from edge_uad.sources.folder import FolderSource, find_images, root_of  # noqa: PLC0415

        found = find_images(path)
        return FolderSource(station, found.images, root=root_of(path), left_out=found.left_out), len(found.images)
    if address.kind is SourceKind.VIDEO:
        from edge_uad.sources.video import VideoSource, frame_count  # noqa: PLC0415

        video = expand_user(path)
        return VideoSource(station, video), frame_count(video)
    raise UsageError(f"{path}: a {address.kind} is no recording; name a folder, a glob or a video file")


def _path_source(text: str) -> SourceAddress:
    path = expand_user(text)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return SourceAddress(SourceKind.VIDEO, text)
    if path.exists() or glob.has_magic(text):
        return SourceAddress(SourceKind.FOLDER, text)
    raise UsageError(
        f"{text}: there is no such file or folder, and it is no camera number, stream or endpoint either; "
        "check the path"
    )
