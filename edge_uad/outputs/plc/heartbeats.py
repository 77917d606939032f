"""The two heartbeats: the daemon's, which the judge's watchdog keeps alive, and the PLC's, which is watched."""

BEAT_NS = 100_000_000
PLC_GONE_NS = 2_000_000_000


class DaemonHeartbeat:
    """A counter, +1 every 100 ms for as long as the judge's watchdog is fed.

    Args:
        watchdog_ns: how long it goes on after a feeding.
    """

    def __init__(self, watchdog_ns: int) -> None:
        self.value = 0
        self._watchdog_ns = watchdog_ns
        self._fed_ns: int | None = None
        self._beaten_ns: int | None = None

    def on_fed(self, now_ns: int) -> None:
        """The watchdog was fed at that time, which may lie a little back."""
        self._fed_ns = now_ns if self._fed_ns is None else max(self._fed_ns, now_ns)

    def tick(self, now_ns: int) -> None:
        """Count the beats that are due."""
        if self._fed_ns is None or now_ns - self._fed_ns > self._watchdog_ns:
            self._beaten_ns = None
        elif self._beaten_ns is None:
            self._beaten_ns = now_ns
        elif (beats := (now_ns - self._beaten_ns) // BEAT_NS) > 0:
            self.value = (self.value + beats) & 0xFFFF
            self._beaten_ns += beats * BEAT_NS


class PlcHeartbeat:
    """Watched from its first movement on; a PLC whose register never moves does without."""

    def __init__(self) -> None:
        self._value: int | None = None
        self._moved_ns: int | None = None

    def on_value(self, value: int, now_ns: int) -> None:
        """The PLC wrote it."""
        if self._value is not None and value != self._value:
            self._moved_ns = now_ns
        self._value = value

    def is_gone(self, now_ns: int) -> bool:
        """It moved once and has been still for 2 s."""
        return self._moved_ns is not None and now_ns - self._moved_ns >= PLC_GONE_NS

    def restart(self, now_ns: int) -> None:
        """The PLC has shown itself: 2 s from now on."""
        self._moved_ns = now_ns
