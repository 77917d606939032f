"""A camera on this machine, by index or device path."""

import sys
from pathlib import Path
from typing import NoReturn

import cv2

from edge_uad.errors import SourceLostError
from edge_uad.sources.opencv import LiveOpenCvSource


class CameraSource(LiveOpenCvSource):
    """A V4L2 camera.

    Args:
        station: the frames' station.
        device: ``0`` or ``/dev/video0`` (a stable name such as ``/dev/v4l/by-id/…`` survives replugging).
    """

    def __init__(self, station: str, device: str) -> None:
        self._device = device
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        # one buffer: what waits in the driver is old by the time it is read
        super().__init__(
            station,
            int(device) if device.isdecimal() else device,
            shown=f"camera {device}",
            backend=backend,
            parameters=[cv2.CAP_PROP_BUFFERSIZE, 1],
        )

    def open(self) -> None:
        """Connect.

        Raises:
            SourceLostError: not plugged in, in use, or not permitted.
        """
        path = Path(f"/dev/video{self._device}" if self._device.isdecimal() else self._device)
        if sys.platform == "linux" and not path.exists():
            raise SourceLostError(f"{self._shown}: {path} is not there; is it plugged in?")
        super().open()

    def _cannot_open(self) -> NoReturn:
        raise SourceLostError(
            f"{self._shown} cannot be opened; is it in use, or is this user missing from the group video?"
        )

    def _cannot_grab(self) -> NoReturn:
        raise SourceLostError(f"{self._shown} gives no frames; is it still plugged in?")
