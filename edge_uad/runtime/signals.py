"""Stop and reload requests from the service manager or the operator, by signals."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Signals:
    """SIGTERM and SIGINT as a count, SIGHUP as a request; the handlers do nothing else."""

    def __init__(self) -> None:
        self._stops = 0
        self._reload = False

    @property
    def requested(self) -> bool:
        """Stop: judge what is queued, then leave."""
        return self._stops > 0

    @property
    def forced(self) -> bool:
        """A second signal: leave at once."""
        return self._stops > 1

    def take_reload(self) -> bool:
        """Whether the banks are to be read again; True once for each request."""
        requested, self._reload = self._reload, False
        return requested

    def handle(self, signal_number: int = signal.SIGTERM, _stack: FrameType | None = None) -> None:
        """The handler."""
        if signal_number == signal.SIGHUP:
            self._reload = True
        else:
            self._stops += 1

    @contextlib.contextmanager
    def installed(self) -> Iterator["Signals"]:
        """Handle the signals inside a ``with`` block of the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.signal(number, self.handle) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
