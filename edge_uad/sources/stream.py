"""A network stream: RTSP, RTP, MPEG-TS or Motion JPEG over HTTP, UDP, RTMP or SRT."""

from typing import NoReturn

from edge_uad.errors import SourceLostError
from edge_uad.net.endpoints import shown_url
from edge_uad.sources.ffmpeg.source import LiveFfmpegSource

OPEN_TIMEOUT_S = 10.0
FRAME_TIMEOUT_S = 5.0

_OPTIONS = {
    "rtsp_flags": "prefer_tcp",  # nothing is lost on the way; UDP where the camera knows nothing else
    "fpsprobesize": "0",  # without waiting for twenty pictures to learn their rate: they would come late
}


class StreamSource(LiveFfmpegSource):
    """A stream that FFmpeg can read. What is lost on the way, and what depends on it, is never given as a picture.

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
            options=_OPTIONS,
            open_timeout_s=open_timeout_s,
            frame_timeout_s=frame_timeout_s,
            live=True,
        )

    def _cannot_open(self, cause: str) -> NoReturn:
        raise SourceLostError(f"{self._shown} cannot be opened ({cause}); is the camera on, and is the address right?")
