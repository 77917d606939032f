"""One sink that is several: publisher, archive, metrics."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_uad.interfaces import VerdictSink, WatchedSink
from edge_uad.records import AnyFrame, StationStatus, Verdict

Fault = Callable[[], str | None]
"""Why a sink does not work at the moment; None where it does."""


class FanOut:
    """Passes verdicts and heartbeats to every sink, in their order. Implements WatchedSink.

    Args:
        sinks: closed at the end, in their order.
        endpoint: where verdicts are published.
        faults: added to every heartbeat's message.
    """

    def __init__(self, sinks: Sequence[VerdictSink], *, endpoint: str = "", faults: Sequence[Fault] = ()) -> None:
        self.endpoint = endpoint
        self._sinks = list(sinks)
        self._faults = list(faults)

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:
        """Publish a verdict; a sink that fails does not keep it from the others."""
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.publish, verdict, frame)

    def publish_status(self, status: StationStatus) -> None:
        """Publish a heartbeat, with the faults of the sinks that have one."""
        messages = [status.message, *(fault() for fault in self._faults)]
        status = replace(status, message="; ".join(filter(None, messages)) or None)
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.publish_status, status)

    def feed_watchdog(self) -> None:
        """Pass it to the sinks that show it."""
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                if isinstance(sink, WatchedSink):
                    every.callback(sink.feed_watchdog)

    def close(self) -> None:
        """Close every sink, whatever becomes of the others."""
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.close)
