"""A station's machine between the daemon's threads, which report to it, and the protocols, which show it to a PLC."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from edge_uad.outputs.plc.machine import StationMachine
from edge_uad.outputs.plc.process_image import Inputs, Outputs

MAX_REPORTS = 10_000
"""Held until a protocol looks again; so many wait only where every protocol has died, and nobody sees them then."""

log = logging.getLogger("edge_uad.outputs.plc.station")
Report = Callable[[StationMachine], None]
_Answer = TypeVar("_Answer")


class StationFaultError(Exception):
    """The station's machine has failed; there is nothing to show."""


class PlcStation:
    """Any thread may use it. Reports never wait: they are applied before the PLC reads or writes next.

    A trigger is handed to the pipeline while the PLC's write is carried out, in the protocol's thread; the pipeline's
    answers come as reports. So neither side ever waits for the other's lock.

    Where the machine itself fails, what it would show cannot be trusted: from then on the PLC reads errors.

    Args:
        name: for the log.
        machine: used by nobody else.
        clock: monotonic, in ns.
    """

    def __init__(self, name: str, machine: StationMachine, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._name = name
        self.fault: str | None = None
        """Why nothing is shown any more; None while all is well."""
        self._machine = machine
        self._clock = clock
        self._reports: deque[Report] = deque(maxlen=MAX_REPORTS)
        self._using = threading.Lock()

    def report(self, event: Report) -> None:
        """Something happened to the station. Never blocks."""
        self._reports.append(event)

    def feed_watchdog(self) -> None:
        """The judge makes progress. Never blocks."""
        now_ns = self._clock()
        self.report(lambda machine: machine.on_watchdog_fed(now_ns))

    def acquired(self, trigger_id: int) -> None:
        """The trigger's frame is exposed. Never blocks."""
        self.report(lambda machine: machine.on_acquired(trigger_id))

    def write(self, inputs: Inputs) -> None:
        """The PLC wrote its block.

        Raises:
            StationFaultError: the machine has failed.
        """
        self._use(lambda machine, now_ns: machine.on_inputs(inputs, now_ns))

    def read(self) -> Outputs:
        """What the PLC reads now.

        Raises:
            StationFaultError: the machine has failed.
        """
        return self._use(lambda machine, now_ns: machine.outputs(now_ns))

    def _use(self, call: Callable[[StationMachine, int], _Answer]) -> _Answer:
        with self._using:
            if self.fault is not None:
                raise StationFaultError(self.fault)
            try:
                while self._reports:
                    self._reports.popleft()(self._machine)
                return call(self._machine, self._clock())
            except Exception as error:  # the boundary: the PLC reads an error and rejects, inspection goes on
                self.fault = f"{self._name}: what the PLC sees has failed ({type(error).__name__}: {error})"
                log.exception("%s; restart the daemon to have it back", self.fault)
                raise StationFaultError(self.fault) from error
