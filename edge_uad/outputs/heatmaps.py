"""Heatmaps for people, drawn and encoded in a background thread: no verdict waits for a picture."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import cv2

from edge_uad.net.wire import encode_heatmap
from edge_uad.records import Frame, UInt8, Verdict
from edge_uad.stages import StageTimer, timed

Overlay = Callable[[Frame, Verdict], UInt8]
"""Draws a verdict's heat over its frame: uint8 (H, W, 3), RGB."""

WAITING_PER_STATION = 4
"""Frames of a station that may wait to be drawn on; more are skipped and counted."""
JPEG_QUALITY = 85

log = logging.getLogger("edge_uad.outputs.heatmaps")


@dataclass(frozen=True, slots=True)
class _Submitted:
    draw: Overlay
    verdict: Verdict
    frame: Frame


class HeatmapRenderer:
    """Draws what is submitted, in that order, and sends the messages. One that fails is logged and counted.

    Args:
        send: called with a heatmap's message, in the drawing thread.
        on_stage: called with the durations of drawing and encoding.
    """

    def __init__(self, send: Callable[[list[bytes]], None], *, on_stage: StageTimer | None = None) -> None:
        self._send = send
        self._on_stage = on_stage
        self._waiting_jobs: deque[_Submitted] = deque()
        self._waiting: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closing = False
        self.skipped: Counter[str] = Counter()
        """Heatmaps that were submitted and never drawn, by station."""
        # a daemon thread: a drawing that never ends must not keep the process alive
        self._thread = threading.Thread(target=self._run, name="heatmaps", daemon=True)
        self._thread.start()

    def submit(self, draw: Overlay, verdict: Verdict, frame: Frame) -> None:
        """Queue a heatmap for drawing; skipped and counted where too many wait. Never waits."""
        with self._changed:
            if self._closing or self._waiting[verdict.station] >= WAITING_PER_STATION:
                self.skipped[verdict.station] += 1
                return
            self._waiting[verdict.station] += 1
            self._waiting_jobs.append(_Submitted(draw, verdict, frame))
            self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Draw what waits, for ``timeout_s`` at most; False where the thread does not end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            if self._waiting_jobs:
                log.warning("%d heatmaps were not drawn: the time to stop was over", len(self._waiting_jobs))
            for one in self._waiting_jobs:
                self.skipped[one.verdict.station] += 1
            self._waiting_jobs.clear()
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (one := self._next()) is not None:
            try:
                self._render(one)
            except Exception:  # this thread's boundary: the next heatmap is drawn all the same
                log.exception("%s: frame %d could not be drawn", one.verdict.station, one.verdict.frame_id)
                with self._changed:
                    self.skipped[one.verdict.station] += 1

    def _next(self) -> _Submitted | None:
        with self._changed:
            while not self._waiting_jobs and not self._closing:
                self._changed.wait()
            if not self._waiting_jobs:
                return None
            one = self._waiting_jobs.popleft()
            self._waiting[one.verdict.station] -= 1
            return one

    def _render(self, one: _Submitted) -> None:
        with timed(self._on_stage, "overlay"):
            picture = one.draw(one.frame, one.verdict)
        with timed(self._on_stage, "encode"):
            encoded = encode_jpeg(picture)
        self._send(encode_heatmap(one.verdict, encoded, "jpeg", (picture.shape[0], picture.shape[1])))


def encode_jpeg(picture: UInt8) -> bytes:
    """JPEG of a uint8 (H, W, 3) RGB picture."""
    _, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    return encoded.tobytes()
