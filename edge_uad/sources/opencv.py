"""What camera, stream and video file share: one cv2.VideoCapture, frames stamped as they are grabbed."""

import copy
import os
import time
from collections.abc import Sequence
from typing import NoReturn, Self

# FFmpeg's own lines on stderr would break the log; what went wrong is told by our errors
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np

from edge_uad.errors import SourceLostError
from edge_uad.records import Frame, UnreadableFrame

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class OpenCvSource:
    """Reads a cv2.VideoCapture. Subclasses say what a failure to open or to grab means.

    Args:
        station: the frames' station.
        address: what cv2.VideoCapture opens.
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
        self._next_id = 0

    def open(self) -> None:
        """Connect.

        Raises:
            SourceLostError: not there (yet).
        """
        self.close()
        capture = cv2.VideoCapture(self._address, self._backend, self._parameters)
        if not capture.isOpened():
            capture.release()
            self._cannot_open()
        self._capture = capture

    def read(self, timeout_s: float) -> Frame | UnreadableFrame | None:  # noqa: ARG002  (the backend's own time-outs)
        """The next frame; waits as long as the backend's own time-out.

        Raises:
            SourceLostError: no frame came.
            SourceEndedError: there are no more.
        """
        if self._capture is None:
            raise SourceLostError(f"{self._shown} is not open")
        grabbed = self._capture.grab()
        at_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        if not grabbed:
            self._cannot_grab()
        frame_id = self._next_id
        self._next_id += 1
        decoded, bgr = self._capture.retrieve()
        if not decoded or bgr is None or bgr.ndim != 3 or bgr.dtype != np.uint8:
            return UnreadableFrame(
                station=self._station,
                frame_id=frame_id,
                captured_at_ns=at_ns,
                captured_mono_ns=mono_ns,
                reason=f"{self._shown} gave a frame that cannot be decoded",
            )
        return Frame(
            station=self._station,
            frame_id=frame_id,
            captured_at_ns=at_ns,
            captured_mono_ns=mono_ns,
            image=np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8),
        )

    def close(self) -> None:
        """Let go of the device or connection."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _cannot_open(self) -> NoReturn:
        raise SourceLostError(f"{self._shown} cannot be opened")

    def _cannot_grab(self) -> NoReturn:
        raise SourceLostError(f"{self._shown} gives no more frames")


class LiveOpenCvSource(OpenCvSource):
    """One that goes on wherever it is opened, and so can be replaced while a call into it hangs."""

    def fresh(self) -> Self:
        """Another one of the same camera or stream, not open, that counts its frames on."""
        other = copy.copy(self)
        other._capture = None  # noqa: SLF001  (of its own class)
        return other
