"""A camera on this machine, by index or device path: V4L2 by FFmpeg, any other by OpenCV."""

import copy
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from edge_uad.errors import SourceLostError
from edge_uad.records import AnyFrame
from edge_uad.sources.ffmpeg.decoder import Arrival
from edge_uad.sources.ffmpeg.source import LiveFfmpegSource, has_format, stamped_by_device

if TYPE_CHECKING:
    from edge_uad.sources.ffmpeg.decoder import VideoPacket
    from edge_uad.sources.opencv import OpenCvCameraSource

V4L2 = "video4linux2"
OPEN_TIMEOUT_S = 10.0
FRAME_TIMEOUT_S = 10.0
_OPTIONS = {
    "fflags": "nonblock",  # a camera that gives no picture must not keep the call
    "video_size": "640x480",  # what was always asked for; the driver takes the nearest that it has
}

log = logging.getLogger("edge_uad.sources")


class CameraSource:
    """A camera.

    Raw pictures are taken where the camera has them; Motion JPEG is decoded as strictly as a still.

    Args:
        station: the frames' station.
        device: ``0`` or ``/dev/video0`` (a stable name such as ``/dev/v4l/by-id/…`` survives replugging).
        waits_for_pulses: it is triggered by hardware, and not lost where it gives no frame.
    """

    def __init__(self, station: str, device: str, *, waits_for_pulses: bool = False) -> None:
        self._station = station
        self._device = device
        self._shown = f"camera {device}"
        self._path = Path(f"/dev/video{device}" if device.isdecimal() else device)
        self._v4l2: V4l2Source | None = None
        if has_format(V4L2):
            self._v4l2 = V4l2Source(station, str(self._path), shown=self._shown, waits_for_pulses=waits_for_pulses)
        self._other: OpenCvCameraSource | None = None
        """In place of ``_v4l2``, where that could not be opened."""

    def open(self) -> None:
        """Connect.

        Raises:
            SourceLostError: not plugged in, in use, or not permitted.
        """
        self.close()
        if sys.platform == "linux" and not self._path.exists():
            raise SourceLostError(f"{self._shown}: {self._path} is not there; is it plugged in?")
        if self._v4l2 is None:
            self._open_other(next_id=0)
            return
        try:
            self._v4l2.open()
        except SourceLostError as error:
            self._open_other(next_id=self._v4l2.next_id)
            log.warning("%s; it is read by OpenCV instead", error)

    def read(self, timeout_s: float) -> AnyFrame | None:
        """The next frame; None where none came within ``timeout_s``.

        Raises:
            SourceLostError: the camera gives no pictures any more.
        """
        source = self._other or self._v4l2
        if source is None:
            raise SourceLostError(f"{self._shown} is not open")
        return source.read(timeout_s)

    def close(self) -> None:
        """Let go of the device."""
        if self._v4l2 is not None:
            self._v4l2.close()
        if self._other is not None:
            self._other.close()
            if self._v4l2 is not None:  # the next open tries FFmpeg first
                self._v4l2.next_id = self._other.next_id
                self._other = None

    def fresh(self) -> Self:
        """Another one of the same camera, not open, that counts its frames on. The old one may be in use."""
        other = copy.copy(self)
        other._v4l2 = None if self._v4l2 is None else self._v4l2.fresh()  # noqa: SLF001  (of its own class)
        other._other = None if self._other is None else self._other.fresh()  # noqa: SLF001
        return other

    def _open_other(self, *, next_id: int) -> None:
        import cv2  # noqa: PLC0415  (where FFmpeg reads the camera it is not needed)

        from edge_uad.sources.opencv import OpenCvCameraSource  # noqa: PLC0415

        if self._other is None:
            self._other = OpenCvCameraSource(
                self._station,
                int(self._device) if self._device.isdecimal() else self._device,
                shown=self._shown,
                backend=cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY,
                # one buffer: what waits in the driver is old by the time it is read
                parameters=[cv2.CAP_PROP_BUFFERSIZE, 1],
            )
            self._other.next_id = next_id
        try:
            self._other.open()
        except SourceLostError:
            if self._v4l2 is not None:
                self._other = None
            raise


class V4l2Source(LiveFfmpegSource):
    """A V4L2 device by FFmpeg; frames bear the time at which the driver says that they were taken."""

    def __init__(self, station: str, path: str, *, shown: str, waits_for_pulses: bool = False) -> None:
        super().__init__(
            station,
            path,
            shown=shown,
            container_format=V4L2,
            options=_OPTIONS,
            open_timeout_s=OPEN_TIMEOUT_S,
            frame_timeout_s=FRAME_TIMEOUT_S,
            live=True,
        )
        self._silence_is_loss = not waits_for_pulses

    @property
    def next_id(self) -> int:
        """Of the next frame."""
        return self._next_id

    @next_id.setter
    def next_id(self, value: int) -> None:
        self._next_id = value

    def _arrival(self, packet: "VideoPacket") -> Arrival:
        return stamped_by_device(packet) or super()._arrival(packet)

    def _cannot_read(self, cause: str) -> NoReturn:
        raise SourceLostError(f"{self._shown} gives no frames ({cause}); is it still plugged in?")
