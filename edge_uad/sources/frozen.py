"""A camera that repeats one picture shows none of the parts that pass it."""

import logging

import numpy as np

from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame

FROZEN_AFTER_S = 5.0
MIN_REPEATS = 10
"""A slow camera, or one that is triggered, may give two equal pictures of equal parts."""
_SAMPLE_STEP_PX = 32

log = logging.getLogger("edge_uad.capture")


class FrozenPictureCheck:
    """Makes frames unreadable while a live source gives the same pixels again and again.

    A sensor has noise, so that two pictures of one scene differ. Only a synthetic scene without any is mistaken
    for a frozen one.

    Args:
        station: for log lines.
        after_s: how long the picture may stay the same, and at least ``MIN_REPEATS`` frames.
    """

    def __init__(self, station: str, *, after_s: float) -> None:
        self._station = station
        self._after_s = after_s
        self._image: UInt8 | None = None
        self._since_mono_ns = 0
        self._repeats = 0
        self.message: str | None = None
        """What the operator should know while the picture is frozen."""

    def check(self, frame: AnyFrame) -> AnyFrame:
        """The frame, or an unreadable one in its place while the picture is frozen."""
        if isinstance(frame, UnreadableFrame):
            return frame
        if self._image is None or not _equal(frame.image, self._image):
            if self.message is not None:
                log.warning("%s: the picture changes again", self._station)
            self._image, self._since_mono_ns, self._repeats, self.message = frame.image, frame.captured_mono_ns, 0, None
            return frame
        self._repeats += 1
        age_s = (frame.captured_mono_ns - self._since_mono_ns) / 1e9
        if self.message is None:
            if age_s < self._after_s or self._repeats < MIN_REPEATS:
                return frame
            self.message = f"the picture has not changed for {self._after_s:g} s"
            log.warning("%s: %s, its frames are invalid until it does", self._station, self.message)
        return _refused(frame, self.message)


def _equal(image: UInt8, other: UInt8) -> bool:
    if image.shape != other.shape:
        return False
    step = _SAMPLE_STEP_PX  # one pixel in a thousand tells most pictures apart
    if not np.array_equal(image[::step, ::step], other[::step, ::step]):
        return False
    return np.array_equal(image, other)


def _refused(frame: Frame, reason: str) -> UnreadableFrame:
    return UnreadableFrame(
        station=frame.station,
        frame_id=frame.frame_id,
        captured_at_ns=frame.captured_at_ns,
        captured_mono_ns=frame.captured_mono_ns,
        part_id=frame.part_id,
        dropped_before=frame.dropped_before,
        reason=reason,
    )
