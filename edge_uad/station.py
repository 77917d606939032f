"""One station at work: its source and capture thread, its lane, its inspector, and what they have counted."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from edge_uad.errors import EdgeUadError
from edge_uad.interfaces import FrameSource
from edge_uad.pipeline import Inspector
from edge_uad.records import Decision, StationState, StationStatus, Verdict
from edge_uad.sources.capture import Backoff, Capture
from edge_uad.sources.slot import AnyFrame, BoundedQueue, Lane, Slot

Mode = Literal["latest", "every"]


class Station:
    """A place on the line.

    Args:
        name: of its topics.
        source: not open yet; it is used by the capture thread alone.
        inspector: judges its frames.
        mode: ``latest``: the newest frame wins; ``every``: none is lost, the source waits.
        queue_frames: what ``every`` holds before the source has to wait.
        backoff: waits between attempts at a lost source.
        wake: called, from the capture thread, when there is a frame or another state.
    """

    def __init__(
        self,
        *,
        name: str,
        source: FrameSource,
        inspector: Inspector,
        mode: Mode,
        wake: Callable[[], None],
        queue_frames: int = 8,
        backoff: Backoff | None = None,
    ) -> None:
        self.name = name
        self.inspector = inspector
        self.mode = mode
        self.decisions: Counter[Decision] = Counter()
        self._lane: Lane = Slot(wake) if mode == "latest" else BoundedQueue(wake, capacity=queue_frames)
        self._capture = Capture(
            station=name, source=source, lane=self._lane, backoff=backoff or Backoff(), on_change=wake
        )

    def start(self) -> None:
        """Begin to capture."""
        self._capture.start()

    def take(self) -> AnyFrame | None:
        """The next frame to judge, or None. Never blocks."""
        return self._lane.take()

    def count(self, verdict: Verdict) -> None:
        """Note a verdict given."""
        self.decisions[verdict.decision] += 1

    @property
    def fault(self) -> EdgeUadError | None:
        """What no retry can mend, such as an endpoint in use."""
        return self._capture.fault

    @property
    def ended(self) -> bool:
        """The source gives no more frames and all of them are judged."""
        return self._capture.finished and self._lane.counts().waiting == 0  # in this order: the last frame comes first

    @property
    def standing(self) -> tuple[StationState, str | None]:
        """State and what the operator should know."""
        return self._capture.standing

    def status(self, *, stopping: bool = False) -> StationStatus:
        """The life sign of this moment."""
        state, message = self.standing
        if stopping and state is not StationState.ENDED:
            state = StationState.STOPPING
        counts = self._lane.counts()
        age_s = None
        if counts.last_frame_mono_ns is not None:
            age_s = max(time.monotonic_ns() - counts.last_frame_mono_ns, 0) / 1e9
        return StationStatus(
            station=self.name,
            at_ns=time.time_ns(),
            state=state,
            message=message,
            frames_seen=counts.taken + counts.dropped,
            judged=self.decisions.total(),
            dropped=counts.dropped,
            invalid=self.decisions[Decision.INVALID],
            last_frame_age_s=age_s,
            bank_id=self.inspector.bank_id,
            model_id=self.inspector.model_id,
        )

    def request_stop(self) -> None:
        """Read no further frame; those at hand are still given."""
        self._capture.request_stop()

    def release(self, timeout_s: float) -> bool:
        """Drop what is left and wait for the capture thread; False where its source does not let go of it."""
        self._capture.request_stop()
        self._lane.close()
        return self._capture.join(timeout_s)
