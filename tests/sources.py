"""Sources for tests of the whole line."""

import queue
import time
from collections.abc import Callable

from edge_uad.errors import SourceLostError
from edge_uad.records import AnyFrame
from tests.fakes import GREEN, STATION, frame


class EndlessSource:
    """Numbers its frames from 0 and never ends.

    Args:
        colour_of: each frame's colour by its number.
        station: the frames' station.
        every_s: between two frames; 0 is a flood.
    """

    def __init__(
        self,
        colour_of: Callable[[int], tuple[int, int, int]] = lambda _: GREEN,
        *,
        station: str = STATION,
        every_s: float = 0.001,
    ) -> None:
        self._colour_of = colour_of
        self._station = station
        self._every_s = every_s
        self.given = 0

    def open(self) -> None:
        pass

    def read(self, timeout_s: float) -> AnyFrame | None:
        time.sleep(min(self._every_s, timeout_s))  # the camera's pace
        self.given += 1
        return frame(self.given - 1, self._colour_of(self.given - 1), station=self._station)

    def close(self) -> None:
        pass


class PushedSource:
    """Gives what the test pushes, at once; an exception is raised instead."""

    def __init__(self) -> None:
        self._steps: queue.Queue[AnyFrame | Exception] = queue.Queue()
        self.back = True
        """Whether ``open`` succeeds."""

    def push(self, step: AnyFrame | Exception) -> None:
        """What the next read gives."""
        self._steps.put(step)

    def open(self) -> None:
        if not self.back:
            raise SourceLostError("it is not there")

    def read(self, timeout_s: float) -> AnyFrame | None:
        try:
            step = self._steps.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        pass
