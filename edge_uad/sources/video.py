"""A video file: every frame once, then the end."""

from pathlib import Path
from typing import NoReturn

import cv2

from edge_uad.errors import SourceEndedError, UsageError
from edge_uad.sources.opencv import OpenCvSource

SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
"""What a video file is known by, in lower case."""


class VideoSource(OpenCvSource):
    """A file that FFmpeg can read.

    Args:
        station: the frames' station.
        path: the file.
    """

    def __init__(self, station: str, path: Path) -> None:
        super().__init__(station, str(path), shown=str(path), backend=cv2.CAP_FFMPEG)

    def _cannot_open(self) -> NoReturn:
        # no retry makes a video of it
        raise UsageError(f"{self._shown} is not a video that can be read; check the file, or convert it to MP4")

    def _cannot_grab(self) -> NoReturn:
        raise SourceEndedError(f"{self._shown} has ended after {self._next_id} frames")


def frame_count(path: Path) -> int | None:
    """How many frames the file says it holds; None where it does not say."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()
    return count if count > 0 else None
