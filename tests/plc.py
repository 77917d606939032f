"""A station's machine in a test's hands: a pipeline that takes triggers, and a PLC that writes."""

from dataclasses import replace
from typing import Any

from edge_uad.outputs.plc.machine import StationMachine
from edge_uad.outputs.plc.process_image import Inputs, Outputs
from edge_uad.records import Decision, Trigger, Verdict

MS = 1_000_000
RECIPE = 3


def verdict(
    decision: Decision = Decision.NORMAL, trigger_id: int | None = None, *, reason: str | None = None, **changed: Any
) -> Verdict:
    """As the pipeline gives it."""
    fields: dict[str, Any] = {
        "station": "line",
        "frame_id": 0,
        "part_id": None,
        "captured_at_ns": 0,
        "decision": decision,
        "reason": reason or ("fault inside" if decision is Decision.INVALID else None),
        "score": 0.125,
        "threshold": 0.25,
        "p_value": None,
        "foreground_ratio": None,
        "peak": (40, 50),
        "heatmap": None,
        "latency_ms": 12.0,
        "dropped_before": 0,
        "model_id": "m",
        "bank_id": "b",
        "trigger_id": trigger_id,
    }
    return Verdict(**(fields | changed))


class Bench:
    """A machine, the time, the triggers it handed over, and the PLC's block.

    Args:
        free_run: the station's mode.
        deadline_ms: of its triggers.
        first_sequence: where SequenceNo starts.
        ready: bring it to where a trigger is awaited.
    """

    def __init__(
        self,
        *,
        free_run: bool = False,
        deadline_ms: float | None = 500,
        first_sequence: int = 100,
        ready: bool = True,
    ) -> None:
        self.now_ns = 1_000 * MS
        self.taken: list[Trigger] = []
        self.takes = True
        self.asked_recipes: list[int] = []
        self.resynchronised = 0
        self.written = Inputs()
        self.machine = StationMachine(
            first_sequence=first_sequence,
            free_run=free_run,
            take=self._take,
            prepare=self.asked_recipes.append,
            resynchronise=self._resynchronise,
            deadline_ms=deadline_ms,
        )
        if ready:
            self.machine.use_recipe(RECIPE)
            self.machine.on_started()
            self.machine.on_camera(True)
            self.write()
            self.write(trigger_enable=True)

    def _take(self, trigger: Trigger) -> bool:
        if self.takes:
            self.taken.append(trigger)
        return self.takes

    def _resynchronise(self) -> None:
        self.resynchronised += 1

    def passes(self, ms: float, *, fed: bool = True, every_ms: float = 50) -> Outputs:
        """Let time go by."""
        until_ns = self.now_ns + round(ms * MS)
        while self.now_ns < until_ns:
            self.now_ns = min(self.now_ns + round(every_ms * MS), until_ns)
            if fed:
                self.machine.on_watchdog_fed(self.now_ns)
            self.machine.tick(self.now_ns)
        return self.reads()

    def write(self, **changed: Any) -> Outputs:
        """Write the block with these fields changed."""
        self.written = replace(self.written, **changed)
        self.machine.on_inputs(self.written, self.now_ns)
        return self.reads()

    def reads(self) -> Outputs:
        """What the PLC reads."""
        return self.machine.outputs(self.now_ns)

    def trigger(self, trigger_id: int, part_id: str | None = None) -> Outputs:
        """An edge of Trigger, and the bit's fall."""
        risen = self.write(trigger=True, trigger_id=trigger_id, part_id=part_id)
        self.write(trigger=False)
        return risen

    def judge(self, decision: Decision, trigger_id: int, *, reason: str | None = None) -> Outputs:
        """The verdict of a trigger comes."""
        self.machine.on_verdict(verdict(decision, trigger_id, reason=reason))
        return self.reads()

    def acknowledge(self) -> Outputs:
        """An edge of ResultAck, and the bit's fall."""
        self.write(result_ack=True)
        return self.write(result_ack=False)

    def command(self, number: int, recipe_id: int = 0) -> Outputs:
        """An edge of ExecuteCommand."""
        self.write(execute_command=False)
        return self.write(execute_command=True, command=number, recipe_id=recipe_id)
