"""A camera by OpenCV: where FFmpeg has no driver for it, as outside Linux, or cannot open it."""

import copy
import time
from collections.abc import Sequence
from typing import Self

import cv2
import numpy as np

from edge_uad.errors import FrameError, SourceLostError
from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame
from edge_uad.sources.decode import bgr_to_rgb
from edge_uad.sources.ffmpeg.mjpeg import decode_packet

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_MJPG = cv2.VideoWriter.fourcc(*"MJPG")


class OpenCvCameraSource:
    """Reads a cv2.VideoCapture. Motion JPEG is taken as it comes and decoded as strictly as a still.

    Args:
        station: the frames' station.
        address: index or device path.
        shown: how messages name it.
        backend: ``cv2.CAP_…``.
        parameters: pairs of property and value, for opening.
    """

    def __init__(
        self, station: str, address: int | str, *, shown: str, backend: int, parameters: Sequence[int] = ()
    ) -> None:
        self._station = station
        self._address = address
        self._shown = shown
        self._backend = backend
        self._parameters = list(parameters)
        self._capture: cv2.VideoCapture | None = None
        self._raw_jpeg = False
        self.next_id = 0
        """Of the next frame."""

    def open(self) -> None:
        """Connect.

        Raises:
            SourceLostError: not there (yet).
        """
        self.close()
        capture = cv2.VideoCapture(self._address, self._backend, self._parameters)
        if not capture.isOpened():
            capture.release()
            raise SourceLostError(
                f"{self._shown} cannot be opened; is it in use, or is this user missing from the group video?"
            )
        self._raw_jpeg = round(capture.get(cv2.CAP_PROP_FOURCC)) == _MJPG and capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        self._capture = capture

    def read(self, timeout_s: float) -> AnyFrame | None:  # noqa: ARG002  (the backend has a time-out of its own)
        """The next frame; waits as long as the backend's own time-out.

        Raises:
            SourceLostError: no frame came.
        """
        if self._capture is None:
            raise SourceLostError(f"{self._shown} is not open")
        grabbed = self._capture.grab()
        at_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        if not grabbed:
            raise SourceLostError(f"{self._shown} gives no frames; is it still plugged in?")
        frame_id = self.next_id
        self.next_id += 1
        try:
            image = self._retrieve(self._capture)
        except FrameError as error:
            return UnreadableFrame(
                station=self._station,
                frame_id=frame_id,
                captured_at_ns=at_ns,
                captured_mono_ns=mono_ns,
                reason=f"a damaged picture: {error}",
            )
        return Frame(
            station=self._station, frame_id=frame_id, captured_at_ns=at_ns, captured_mono_ns=mono_ns, image=image
        )

    def close(self) -> None:
        """Let go of the device."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _retrieve(self, capture: cv2.VideoCapture) -> UInt8:
        """The grabbed picture, uint8 (H, W, 3) RGB."""
        decoded, pixels = capture.retrieve()
        if not decoded or pixels is None or pixels.dtype != np.uint8:
            raise FrameError("it cannot be decoded")
        if self._raw_jpeg:
            return decode_packet(pixels.tobytes())
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise FrameError(f"its pixels come as {pixels.shape}, which is not supported")
        return bgr_to_rgb(np.asarray(pixels, np.uint8))

    def fresh(self) -> Self:
        """Another one of the same camera, not open, that counts its frames on."""
        other = copy.copy(self)
        other._capture = None  # noqa: SLF001  (of its own class)
        return other
