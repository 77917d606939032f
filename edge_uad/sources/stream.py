"""A network stream: RTSP, HTTP or MPEG-TS over UDP, by OpenCV's FFmpeg."""

from typing import NoReturn

import cv2

from edge_uad.errors import SourceLostError
from edge_uad.net.endpoints import shown_url
from edge_uad.sources.opencv import LiveOpenCvSource

OPEN_TIMEOUT_S = 10.0
FRAME_TIMEOUT_S = 5.0


class StreamSource(LiveOpenCvSource):
    """A stream that FFmpeg can read.

    Args:
        station: the frames' station.
        url: ``rtsp://…``, ``http://…``, ``udp://…``; a password in it is never shown.
        open_timeout_s: after that the stream is not there.
        frame_timeout_s: after that the stream is lost.
    """

    def __init__(
        self,
        station: str,
        url: str,
        *,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        frame_timeout_s: float = FRAME_TIMEOUT_S,
    ) -> None:
        super().__init__(
            station,
            url,
            shown=shown_url(url),
            backend=cv2.CAP_FFMPEG,
            parameters=[
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                round(open_timeout_s * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                round(frame_timeout_s * 1000),
            ],
        )

    def _cannot_open(self) -> NoReturn:
        raise SourceLostError(f"{self._shown} cannot be opened; is the camera on, and is the address right?")

    def _cannot_grab(self) -> NoReturn:
        raise SourceLostError(f"{self._shown} stopped giving frames")
