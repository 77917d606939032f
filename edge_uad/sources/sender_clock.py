"""How old a frame was when it arrived, where another machine's clock says when it was captured."""

import logging
from collections import deque

NS_PER_S = 10**9
WINDOW_FRAMES = 64
WINDOW_S = 60.0
"""The offset is measured over the frames of this time, ``WINDOW_FRAMES`` at most."""
STEP_S = 0.1
"""A clock that NTP steers drifts by 0.5 ms a second at most; a larger change is a step."""
MAX_DRIFT_RATIO = 1e-3
DISTRUST_AFTER_STEP_S = 10.0
"""How long a trusted sender's frames count from arrival after this machine's clock was set."""

log = logging.getLogger("edge_uad.sources.sender_clock")


class SenderClock:
    """Capture times of one station's frames on this machine's monotonic clock. One thread adds frames.

    Args:
        station: for log lines.
        trusted: the sender's clock is kept equal to this machine's, by NTP or PTP: a frame is as old as its capture
            time says. Otherwise a frame is as old as its arrival.
    """

    def __init__(self, station: str, *, trusted: bool) -> None:
        self._station = station
        self._trusted = trusted
        # sender's clock less this machine's monotonic one, which no step changes; the way takes time, so the largest
        # difference is the one nearest to the truth
        self._differences_ns: deque[tuple[int, int]] = deque(maxlen=WINDOW_FRAMES)
        self._largest_ns: int | None = None
        self._last: tuple[int, int] | None = None
        self._distrusted_until_mono_ns: int | None = None

    def captured_mono_ns(self, captured_at_ns: int, *, now_ns: int, now_mono_ns: int) -> int:
        """When a frame that arrives now was captured, on the monotonic clock in ns; never later than its arrival.

        Args:
            captured_at_ns: Unix time, by the sender's clock.
            now_ns: Unix time, by this machine's clock.
            now_mono_ns: the same moment on the monotonic clock.
        """
        self._notice_step(now_ns, now_mono_ns)
        self._measure(captured_at_ns - now_mono_ns, now_mono_ns)
        if not self._trusted or self._distrusts(now_mono_ns):
            return now_mono_ns
        return now_mono_ns - max(now_ns - captured_at_ns, 0)

    def offset_s(self, *, now_ns: int, now_mono_ns: int) -> float | None:
        """The sender's clock less this machine's; None before the first frame. Any thread may call it.

        The smallest delay of the recent frames is contained in it: a sender whose clock is right shows as a little
        behind. Of several senders it is the one whose clock is ahead of the others.
        """
        if self._largest_ns is None:
            return None
        return (self._largest_ns - (now_ns - now_mono_ns)) / NS_PER_S

    def _measure(self, difference_ns: int, now_mono_ns: int) -> None:
        self._differences_ns.append((now_mono_ns, difference_ns))
        while now_mono_ns - self._differences_ns[0][0] > WINDOW_S * NS_PER_S:
            self._differences_ns.popleft()
        self._largest_ns = max(difference for _, difference in self._differences_ns)

    def _notice_step(self, now_ns: int, now_mono_ns: int) -> None:
        if self._last is not None:
            passed_ns, passed_mono_ns = now_ns - self._last[0], now_mono_ns - self._last[1]
            step_ns = passed_ns - passed_mono_ns
            if abs(step_ns) > STEP_S * NS_PER_S + MAX_DRIFT_RATIO * passed_mono_ns:
                self._differences_ns.clear()  # a sender on this machine was set with it
                self._distrusted_until_mono_ns = now_mono_ns + round(DISTRUST_AFTER_STEP_S * NS_PER_S)
                log.warning(
                    "%s: this machine's clock was set %s by %.3f s%s",
                    self._station,
                    "forward" if step_ns > 0 else "back",
                    abs(step_ns) / NS_PER_S,
                    f"; for {DISTRUST_AFTER_STEP_S:g} s frames count from arrival" if self._trusted else "",
                )
        self._last = (now_ns, now_mono_ns)

    def _distrusts(self, now_mono_ns: int) -> bool:
        until = self._distrusted_until_mono_ns
        return until is not None and now_mono_ns < until
