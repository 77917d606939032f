"""What PLCs are told of verdicts and heartbeats, as one more output of the daemon."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from edge_uad.outputs.plc.station import PlcStation
from edge_uad.records import AnyFrame, StationState, StationStatus, Verdict


class PlcServer(Protocol):
    """A protocol that shows the stations to a PLC."""

    @property
    def fault(self) -> str | None:
        """Why it does not work at the moment; None where it does."""

    def close(self) -> None:
        """Stop answering, within a bound."""


class PlcSink:
    """Reports to the stations' machines. Implements WatchedSink.

    Args:
        stations: by their names; verdicts of others are not for PLCs.
        servers: closed at the end.
        archive_fault: why records or evidence cannot be written; None where they can.
    """

    def __init__(
        self,
        stations: Mapping[str, PlcStation],
        servers: Sequence[PlcServer],
        *,
        archive_fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._stations = dict(stations)
        self._servers = list(servers)
        self._archive_fault = archive_fault

    @property
    def fault(self) -> str | None:
        """Of the servers and of the stations' machines; None where there is none."""
        faults = [*(one.fault for one in self._servers), *(one.fault for one in self._stations.values())]
        return "; ".join(filter(None, faults)) or None

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:  # noqa: ARG002  (the picture is not for PLCs)
        """Report a verdict."""
        station = self._stations.get(verdict.station)
        if station is not None:
            slim = replace(verdict, heatmap=None)  # nothing that waits may hold a picture
            station.report(lambda machine: machine.on_verdict(slim))

    def publish_status(self, status: StationStatus) -> None:
        """Report what a station's heartbeat says: whether it has started, has its camera, is being stopped."""
        station = self._stations.get(status.station)
        if station is None:
            return
        camera_ok, archive_fault = status.state is StationState.RUNNING, self._archive_fault() is not None
        station.report(lambda machine: machine.on_camera(camera_ok))
        station.report(lambda machine: machine.on_archive(fault=archive_fault))
        if status.state is StationState.STOPPING:
            station.report(lambda machine: machine.on_stopping())
        elif status.ready:
            station.report(lambda machine: machine.on_started())

    def feed_watchdog(self) -> None:
        """Report that the judge makes progress."""
        for station in self._stations.values():
            station.feed_watchdog()

    def close(self) -> None:
        """The PLCs read Halted until the servers are closed."""
        for station in self._stations.values():
            station.report(lambda machine: machine.on_stopping())
        for server in self._servers:
            server.close()
