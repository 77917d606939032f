"""What a PLC sees of a running daemon."""

import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from edge_uad.outputs.fan_out import FanOut
from edge_uad.outputs.plc.machine import StationMachine
from edge_uad.outputs.plc.process_image import Command, Inputs
from edge_uad.outputs.plc.sink import PlcSink
from edge_uad.outputs.plc.states import State
from edge_uad.outputs.plc.station import MAX_REPORTS, PlcStation, StationFaultError
from edge_uad.records import Decision, Trigger
from edge_uad.runtime.assemble import plc_station
from edge_uad.runtime.settings import parse_settings
from edge_uad.runtime.station import Station
from tests.fakes import RED, FakeBackbone, RecordingSink, ScriptedSource, frame, green_inspector, until
from tests.lines import Line
from tests.plc import verdict


class Server:
    """A protocol that shows nothing."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.closed = False

    def close(self) -> None:
        self.closed = True


SETTINGS = parse_settings("stations: [{name: line, source: '0', bank: b, plc: {recipe_id: 5}}]").stations[0]


def shown_station() -> PlcStation:
    """As the daemon makes it for a station that runs freely."""
    return plc_station(Line(ScriptedSource()).stations[0], SETTINGS, watchdog_ms=300)


def watched_line(
    source: ScriptedSource, backbone: FakeBackbone | None = None
) -> tuple[Line, PlcStation, RecordingSink]:
    """A line, what a PLC sees of it, and what the other outputs are given."""
    shown, recorded = shown_station(), RecordingSink()
    sink = FanOut([recorded, PlcSink({"line": shown}, [])])
    return Line(source, backbone=backbone, sink=sink), shown, recorded


def test_free_run_is_shown_from_start_to_stop() -> None:
    line, shown, _ = watched_line(ScriptedSource([frame(0), frame(1, RED)], then_wait=True))
    assert (shown.read().state, shown.read().online) == (State.PREOPERATIONAL, False)
    with line.running():
        until(lambda: shown.read().judged == 2 and shown.read().camera_ok)
        now = shown.read()
        assert (now.state, now.online, now.recipe_id) == (State.CONTINUOUS_EXECUTION, True, 5)
        assert now.result is not None
        assert (now.result.decision, now.anomalous) == (Decision.ANOMALOUS, 1)
    assert (shown.read().state, shown.read().online) == (State.HALTED, False)


def test_a_judge_that_hangs_stops_the_heartbeat_and_nothing_else() -> None:
    hang, go_on = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        if number > 1:  # the first one is the warm-up
            hang.set()
            go_on.wait()

    line, shown, _ = watched_line(ScriptedSource([frame(0)], then_wait=True), FakeBackbone(wait))
    with line.running():
        assert hang.wait(20)
        time.sleep(0.5)
        still = shown.read().heartbeat
        time.sleep(0.5)
        assert shown.read().heartbeat == still
        go_on.set()
        until(lambda: shown.read().heartbeat != still)
        until(lambda: shown.read().result_valid)


def test_a_fault_in_what_a_plc_sees_does_not_stop_inspection() -> None:
    line, shown, recorded = watched_line(ScriptedSource([frame(0), frame(1)], then_wait=True))

    def fail(machine: StationMachine) -> None:
        raise KeyError(machine.state)

    shown.report(fail)
    for _ in range(2):  # what it would show later cannot be trusted either
        with pytest.raises(StationFaultError, match="what the PLC sees has failed"):
            shown.read()
    with line.running():
        until(lambda: len(recorded.verdicts) == 2)
    assert PlcSink({"line": shown}, [Server("gone")]).fault == f"gone; {shown.fault}"


def test_a_station_has_the_recipe_of_its_bank_alone() -> None:
    shown = shown_station()
    shown.report(lambda machine: machine.on_started())
    assert shown.read().recipe_id == 5
    shown.write(Inputs())
    for wanted, recipe_id in ((6, 0), (5, 5)):
        shown.write(Inputs())
        shown.write(Inputs(execute_command=True, command=Command.PREPARE_RECIPE, recipe_id=wanted))
        now = shown.read()
        assert (now.recipe_id, now.command_completed, now.command_failed) == (recipe_id, recipe_id != 0, recipe_id == 0)


class PulsedStation(Station):
    """As one that can be triggered."""

    is_triggered = True

    def __init__(self) -> None:
        super().__init__(name="line", source=ScriptedSource(), inspector=green_inspector(), mode="every")
        self.on_acquired: Callable[[int], None] = lambda _: None
        self.taken: list[Trigger] = []
        self.resynchronised = 0

    def trigger(self, trigger: Trigger, *, again: bool = False) -> bool:
        assert again
        self.taken.append(trigger)
        return True

    def resynchronise(self) -> None:
        self.resynchronised += 1


def test_a_station_that_can_be_triggered_is() -> None:
    station = PulsedStation()
    shown = plc_station(station, SETTINGS.model_copy(update={"deadline_ms": 60_000.0}), watchdog_ms=300)
    sink = PlcSink({"line": shown}, [])
    sink.publish_status(station.status())
    shown.report(lambda machine: machine.on_camera(True))
    shown.write(Inputs())
    shown.write(Inputs(trigger_enable=True))
    shown.write(Inputs(trigger_enable=True, trigger=True, trigger_id=9))
    assert [one.trigger_id for one in station.taken] == [9]
    assert shown.read().acquiring
    station.on_acquired(9)
    assert (shown.read().acquiring, shown.read().busy) == (False, True)
    sink.publish(verdict(Decision.NORMAL, 9), frame(0))
    assert shown.read().result_valid
    shown.write(Inputs())
    shown.write(Inputs(execute_command=True, command=Command.RESET))
    assert station.resynchronised == 1


def test_reports_that_nobody_reads_are_bounded_and_hold_no_picture() -> None:
    shown, server = shown_station(), Server()
    sink = PlcSink({"line": shown}, [server])
    heat = np.zeros((4, 4), np.float32)
    sink.publish(verdict(Decision.NORMAL, heatmap=heat), frame(0))
    held = weakref.ref(heat)
    del heat
    assert held() is None
    for _ in range(MAX_REPORTS + 1):
        sink.publish(verdict(Decision.NORMAL), frame(0))
    assert len(shown._reports) == MAX_REPORTS
    sink.close()
    assert server.closed
    assert shown.read().state is State.HALTED


def test_a_verdict_of_a_station_without_a_plc_is_nobodys_business() -> None:
    shown = shown_station()
    PlcSink({"line": shown}, []).publish(verdict(Decision.NORMAL, station="elsewhere"), frame(0))
    assert not shown._reports
