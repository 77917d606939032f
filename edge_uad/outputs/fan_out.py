"""One sink that is several: publisher, archive, metrics."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_uad.interfaces import VerdictSink
from edge_uad.records import AnyFrame, StationStatus, Verdict

Fault = Callable[[], str | None]
"""What the operator should know of a part that is not well; None where it is."""


class FanOut:
    """Tells every sink, in their order: the line's own answer first. Implements VerdictSink.

    Args:
        sinks: closed at the end, in their order.
        endpoint: where verdicts are heard.
        faults: told in every heartbeat's message, beside what the station has to say.
    """

    def __init__(self, sinks: Sequence[VerdictSink], *, endpoint: str = "", faults: Sequence[Fault] = ()) -> None:
        self.endpoint = endpoint
        self._sinks = list(sinks)
        self._faults = list(faults)

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:
        """Tell a verdict; a sink that fails does not keep it from the others."""
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.publish, verdict, frame)

    def publish_status(self, status: StationStatus) -> None:
        """Tell a heartbeat, with the faults of the parts that have one."""
        told = [status.message, *(fault() for fault in self._faults)]
        status = replace(status, message="; ".join(filter(None, told)) or None)
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.publish_status, status)

    def close(self) -> None:
        """Close every sink, whatever becomes of the others."""
        with contextlib.ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.close)
