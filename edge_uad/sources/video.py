"""A video file: every frame once, then the end; what its header promises and the file does not hold is reported."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import av
from av.container.input import InputContainer

from edge_uad.errors import SourceEndedError, SourceError, UsageError
from edge_uad.records import AnyFrame, UnreadableFrame
from edge_uad.sources.ffmpeg.source import FfmpegSource

if TYPE_CHECKING:
    from edge_uad.sources.ffmpeg.decoder import VideoPacket

READ_TIMEOUT_S = 30.0
"""For a call into the file, which may lie on a network mount."""
_USUAL_RATE_HZ = 25.0
"""Where the file names none."""
_TOLERANCE_S = 0.1
"""By which a stored duration may exceed the last frame's end."""

log = logging.getLogger("edge_uad.sources")


class VideoSource(FfmpegSource):
    """A file that FFmpeg can read.

    Where the file ends before what its header promises, one unreadable frame follows the last one and stands for
    those missing: its ``dropped_before`` counts all but one of them, so that promised = given + dropped.

    Args:
        station: the frames' station.
        path: the file.
    """

    def __init__(self, station: str, path: Path) -> None:
        super().__init__(
            station,
            f"file:{path}",
            shown=str(path),
            open_timeout_s=2 * READ_TIMEOUT_S,
            frame_timeout_s=READ_TIMEOUT_S,
            live=False,
        )
        self.n_promised: int | None = None
        """Frames in the file by its header; None where it does not say."""
        self.n_damaged = 0
        """Frames found that could not be decoded whole."""
        self._promised_s: float | None = None
        self._read_until_s = 0.0
        """End of the newest packet, video or other."""
        self._rate_hz = _USUAL_RATE_HZ
        self._fault: str | None = None
        """What ended reading before the end of the file."""
        self._end_reported = False

    def open(self) -> None:
        """Open the file at its first frame.

        Raises:
            UsageError: it is no video, or its index is missing.
        """
        super().open()
        self.n_damaged = 0
        self._fault = None
        self._end_reported = False
        self._read_until_s = 0.0
        if self._container is not None and self._stream is not None:
            self.n_promised = _stored_count(self._container)
            self._promised_s = _stored_duration_s(self._container)
            self._rate_hz = float(self._stream.average_rate or _USUAL_RATE_HZ)

    def read(self, timeout_s: float) -> AnyFrame | None:
        """The next frame.

        Raises:
            SourceEndedError: there are no more; the text says how many there were, and what is missing.
        """
        try:
            frame = super().read(timeout_s)
        except SourceEndedError:
            missing = self._missing()
            if missing is None or self._end_reported:
                raise
            self._end_reported = True
            return self._end_of_cut_file(missing)
        if isinstance(frame, UnreadableFrame):
            self.n_damaged += 1
        return frame

    @property
    def n_read(self) -> int:
        """Frames found, damaged ones among them."""
        return self._n_packets

    @property
    def n_expected(self) -> int | None:
        """``n_promised``, or the stored duration times the rate; None where the file says neither."""
        if self.n_promised is None and self._promised_s is not None:
            return round(self._promised_s * self._rate_hz)
        return self.n_promised

    @property
    def shortfall(self) -> str | None:
        """What the file lacks, in one sentence, once its end was read; None where it held all that it promised."""
        faults = [] if (missing := self._missing()) is None else [missing]
        if self.n_damaged:
            faults.append(f"{self.n_damaged} of its frames are damaged")
        return f"{self._shown}: {' and '.join(faults)}" if faults else None

    def _missing(self) -> str | None:
        if self._fault is not None:
            return f"reading stopped after {self.n_read} frames ({self._fault})"
        if self.n_promised is not None:
            if self.n_read >= self.n_promised:
                return None
            return f"{self.n_read} of the {self.n_promised} frames that its header promises are in the file"
        if self._promised_s is None or self._read_until_s + max(2 / self._rate_hz, _TOLERANCE_S) >= self._promised_s:
            return None
        return f"{self._read_until_s:.1f} s of the {self._promised_s:.1f} s that its header promises are in the file"

    def _end_of_cut_file(self, missing: str) -> UnreadableFrame:
        n_missing = max((self.n_promised or 0) - self.n_read, 1)
        frame_id = self._next_id
        self._next_id += 1
        log.warning("%s: %s", self._shown, missing)
        return UnreadableFrame(
            station=self._station,
            frame_id=frame_id,
            captured_at_ns=time.time_ns(),
            captured_mono_ns=time.monotonic_ns(),
            dropped_before=n_missing - 1,
            reason=f"the video is cut short or damaged: {missing}",
        )

    def _note(self, packet: "VideoPacket") -> None:
        if packet.pts is not None and packet.time_base is not None:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._read_until_s = max(self._read_until_s, end_s)

    def _cannot_open(self, cause: str) -> NoReturn:
        # no retry makes a video of it
        raise UsageError(
            f"{self._shown} is not a video that can be read ({cause}); check that it was copied to its end, "
            "or convert it to MP4"
        )

    def _cannot_read(self, cause: str) -> NoReturn:
        self._fault = cause
        self._ended()

    def _ended(self) -> NoReturn:
        missing = self._missing()
        text = f"{self._shown} has ended after {self._next_id} frames"
        raise SourceEndedError(text if missing is None else f"{text}: {missing}")


def frame_count(path: Path) -> int | None:
    """How many frames the file says it holds, or its duration times its rate; None where it says neither."""
    source = VideoSource("", path)
    try:
        source.open()
    except (SourceError, UsageError):
        return None
    try:
        return source.n_expected
    finally:
        source.close()


def _stored_count(container: InputContainer) -> int | None:
    """Frames by the header of MP4, QuickTime and AVI; other formats store no count."""
    stream = container.streams.best("video")
    if stream is None or not stream.frames:
        return None
    if "mp4" in container.format.name:
        # what an edit list cuts away is counted by the header and not in the index
        return min(stream.frames, len(stream.index_entries) or stream.frames)
    return stream.frames


def _stored_duration_s(container: InputContainer) -> float | None:
    """By the header of Matroska and WebM. Of other formats FFmpeg measures what is there, which promises nothing."""
    if "matroska" not in container.format.name or container.duration is None:
        return None
    return container.duration / av.time_base
