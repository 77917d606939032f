"""A station as a PLC sees it: which trigger is taken, which result is shown, what is refused.

Pure logic: no clock, no socket, no thread. Time comes in as an argument, monotonic nanoseconds that never run
backwards. One caller at a time; ``PlcStation`` sees to that. The rules are those of docs/plc.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edge_uad.outputs.plc.commands import CommandHandshake
from edge_uad.outputs.plc.heartbeats import DaemonHeartbeat, PlcHeartbeat
from edge_uad.outputs.plc.process_image import Command, ErrorCode, Inputs, Outputs
from edge_uad.outputs.plc.results import Reason, Result, ResultBuffer, result_of
from edge_uad.outputs.plc.states import NEXT_STATE, Event, State
from edge_uad.outputs.plc.trigger_ids import TriggerIds
from edge_uad.records import Decision, Trigger, Verdict

MAX_UINT32 = 2**32 - 1
_OPERATIONAL = frozenset({State.INITIALIZED, State.READY, State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION})


@dataclass(frozen=True, slots=True)
class _Pending:
    """The trigger that was acknowledged and has no result yet."""

    trigger: Trigger
    deadline_ns: int | None


class StationMachine:
    """One station's state machine.

    Args:
        first_sequence: 1 to 2³² − 1, random, so that a restart never passes for "nothing new".
        free_run: judge every frame, without triggers.
        take: hands a trigger to the pipeline; False where it cannot be taken. Each one taken ends in one verdict.
        prepare: begins to prepare a recipe by its RecipeId; ``on_recipe`` is called with the outcome.
        resynchronise: called by command 4, where triggers are paired with frames by counting.
        deadline_ms: from a trigger to its result; None: as long as it takes.
        watchdog_ms: the heartbeat goes on for so long after the judge's watchdog was fed.
    """

    def __init__(
        self,
        *,
        first_sequence: int,
        free_run: bool,
        take: Callable[[Trigger], bool],
        prepare: Callable[[int], None],
        resynchronise: Callable[[], None] = lambda: None,
        deadline_ms: float | None = None,
        watchdog_ms: float = 300.0,
    ) -> None:
        if not 1 <= first_sequence <= MAX_UINT32:
            raise ValueError(f"a sequence number is 1 to {MAX_UINT32}, not {first_sequence}")
        self.state = State.PREOPERATIONAL
        self._free_run = free_run
        self._take = take
        self._prepare = prepare
        self._resynchronise = resynchronise
        self._deadline_ns = None if deadline_ms is None else round(deadline_ms * 1e6)
        self._sequence = self._shown_sequence = first_sequence
        self._inputs: Inputs | None = None
        self._enabled = False
        self._trigger_ack = False
        self._pending: _Pending | None = None
        self._acquiring = False
        self._ids = TriggerIds()
        self._results = ResultBuffer()
        self._shown: Result | None = None
        self._command = CommandHandshake()
        self._recipe_id = 0
        self._camera_ok = self._archive_fault = self._drift_warning = self._local_control = False
        self._missed_trigger = self._result_overrun = False
        self._error_code = ErrorCode.NONE
        self._judged = self._anomalous = self._invalid = self._missed = 0
        self._beat = DaemonHeartbeat(round(watchdog_ms * 1e6))
        self._plc = PlcHeartbeat()

    # what the PLC writes

    def on_inputs(self, inputs: Inputs, now_ns: int) -> None:
        """The PLC wrote. The first write after the start says where its bits stand, and is no edge of any."""
        self.tick(now_ns)
        before, self._inputs = self._inputs, inputs
        was_ready = self._trigger_ready
        self._plc.on_value(inputs.heartbeat, now_ns)
        self._result_overrun |= self._results.set_buffered(inputs.buffer_results)
        if before is None:
            self._show()
            return
        if inputs.clear_error and not before.clear_error:
            self._clear_error(now_ns)
        self._follow_enable(before, inputs)
        if inputs.result_ack and not before.result_ack and self._shown is not None:
            self._results.acknowledge()
        self._show()
        if before.execute_command and not inputs.execute_command:
            self._command.released()
        elif inputs.execute_command and not before.execute_command:
            self._execute(inputs)
        if not inputs.trigger:
            self._trigger_ack = False
        elif not before.trigger:
            self._trigger_edge(inputs, was_ready=was_ready, now_ns=now_ns)
        self._show()

    # what the station says

    def on_started(self) -> None:
        """The first inference is done."""
        if self.state is State.PREOPERATIONAL:
            self._go(Event.STARTED)
            self._settle()

    def on_stopping(self) -> None:
        """The daemon takes no more."""
        if self.state is not State.HALTED:
            self._fail_pending(Reason.STOPPING)
            self._go(Event.STOPPED)
            self._show()

    def on_camera(self, ok: bool) -> None:
        """The camera gives frames, or is gone: what is pending will not come then."""
        self._camera_ok = ok
        if not ok:
            self._fail_pending(Reason.CAMERA_GONE)

    def on_acquired(self, trigger_id: int) -> None:
        """The trigger's frame is exposed: the part may move."""
        if self._pending is not None and self._pending.trigger.trigger_id == trigger_id:
            self._acquiring = False

    def on_verdict(self, verdict: Verdict) -> None:
        """A verdict; one that belongs to no pending trigger is shown in free run alone."""
        if self._free_run:
            if self.state is State.CONTINUOUS_EXECUTION:
                self._give(result_of(verdict, sequence=self._next(), trigger_id=0, part_id=verdict.part_id))
            return
        if verdict.trigger_id is None or self._ids.settle(verdict.trigger_id) or self._pending is None:
            return
        trigger = self._pending.trigger
        if verdict.trigger_id == trigger.trigger_id:
            self._end_pending(
                result_of(verdict, sequence=self._next(), trigger_id=trigger.trigger_id, part_id=trigger.part_id)
            )

    def on_recipe(self, recipe_id: int, *, prepared: bool) -> None:
        """The outcome of ``prepare``; ignored where it was aborted meanwhile."""
        if self._command.recipe_id != recipe_id:
            return
        self._command.end(completed=prepared)
        if prepared:
            self._recipe_id = recipe_id
            self._settle()
        else:
            self._note(ErrorCode.RECIPE_FAILED)

    def use_recipe(self, recipe_id: int) -> None:
        """Judge by a recipe that was prepared without the PLC's asking: at the start, or by another protocol."""
        self._command.fail()
        self._withdraw_recipe()
        self._recipe_id = recipe_id
        self._settle()

    def on_watchdog_fed(self, now_ns: int) -> None:
        """A frame was judged, a time-out handled, or there was nothing to judge."""
        self._beat.on_fed(now_ns)

    def on_archive(self, *, fault: bool) -> None:
        """Records or evidence cannot be written, or can again."""
        self._archive_fault = fault

    def on_drift(self, *, warning: bool) -> None:
        """Good parts drift away from the bank, or no longer."""
        self._drift_warning = warning

    def on_local_control(self, local: bool) -> None:
        """A person has taken the station over, or given it back: no trigger is taken meanwhile."""
        self._local_control = local

    def tick(self, now_ns: int) -> None:
        """Time has passed: the heartbeat, the deadline of the pending trigger, the PLC's silence."""
        self._beat.tick(now_ns)
        pending = self._pending
        if pending is not None and pending.deadline_ns is not None and now_ns >= pending.deadline_ns:
            self._fail_pending(Reason.DEADLINE)
        if self._plc.is_gone(now_ns) and self.state in _OPERATIONAL:
            self._fail_pending(Reason.ABORTED)
            self._command.fail()
            self._enabled = False
            self._error_code = ErrorCode.PLC_GONE
            self._go(Event.PLC_GONE)
            self._show()

    def outputs(self, now_ns: int) -> Outputs:
        """What the PLC reads now."""
        self.tick(now_ns)
        return Outputs(
            heartbeat=self._beat.value,
            online=self.state not in {State.PREOPERATIONAL, State.HALTED},
            trigger_ready=self._trigger_ready,
            trigger_ack=self._trigger_ack,
            acquiring=self._acquiring,
            busy=self._pending is not None,
            result_valid=self._shown is not None,
            missed_trigger=self._missed_trigger,
            result_overrun=self._result_overrun,
            command_executing=self._command.executing,
            command_completed=self._command.completed,
            command_failed=self._command.failed,
            error=self.state is State.ERROR,
            camera_ok=self._camera_ok,
            archive_fault=self._archive_fault,
            drift_warning=self._drift_warning,
            local_control=self._local_control,
            state=self.state,
            error_code=self._error_code,
            recipe_id=self._recipe_id,
            sequence=self._shown_sequence,
            result=self._shown,
            judged=self._judged,
            anomalous=self._anomalous,
            invalid=self._invalid,
            missed=self._missed,
        )

    # triggers

    @property
    def _trigger_ready(self) -> bool:
        """Rule 1; and the handshake of the trigger before is over, so that the next edge is one."""
        return (
            self.state is State.READY
            and self._enabled
            and self._camera_ok
            and self._recipe_id != 0
            and not self._results.full
            and not self._local_control
            and not self._trigger_ack
        )

    def _follow_enable(self, before: Inputs, inputs: Inputs) -> None:
        """TriggerEnable counts from its edge on: after a restart or an error the PLC sets it anew."""
        if not inputs.trigger_enable:
            self._enabled = False
        elif not before.trigger_enable and self.state is not State.ERROR:
            self._enabled = True
            self._ids.begin_anew()

    def _trigger_edge(self, inputs: Inputs, *, was_ready: bool, now_ns: int) -> None:
        if self._repeats(inputs):
            self._trigger_ack = True
            self._note(ErrorCode.TRIGGER_ID_REPEATED)
            return
        fault = self._refusal(inputs, was_ready=was_ready)
        if fault is not ErrorCode.NONE:
            self._miss(fault)
            return
        trigger = Trigger(trigger_id=inputs.trigger_id, part_id=inputs.part_id, received_mono_ns=now_ns)
        if not self._take(trigger):
            self._miss(ErrorCode.TRIGGER_NOT_TAKEN)
            return
        self._ids.add(trigger)
        self._pending = _Pending(trigger, None if self._deadline_ns is None else now_ns + self._deadline_ns)
        self._acquiring = self._trigger_ack = True
        self._go(Event.TRIGGER_TAKEN)
        if not self._results.buffered:
            # from here to this trigger's result no other one is valid
            self._result_overrun |= self._results.clear()

    def _repeats(self, inputs: Inputs) -> bool:
        """The very trigger that was taken before, sent once more."""
        taking = self._enabled and self.state in {State.READY, State.SINGLE_EXECUTION}
        return taking and not inputs.part_id_too_long and self._ids.repeats(inputs.trigger_id, inputs.part_id)

    def _refusal(self, inputs: Inputs, *, was_ready: bool) -> ErrorCode:
        if not (was_ready and self._trigger_ready):
            return ErrorCode.TRIGGER_NOT_READY
        if inputs.trigger_id == 0:
            return ErrorCode.TRIGGER_ID_ZERO
        if inputs.part_id_too_long:
            return ErrorCode.PART_ID_TOO_LONG
        waiting = self._results.buffered and any(one.trigger_id == inputs.trigger_id for one in self._results)
        if waiting or self._ids.occupied(inputs.trigger_id):
            return ErrorCode.TRIGGER_ID_REUSED
        return ErrorCode.NONE

    def _miss(self, code: ErrorCode) -> None:
        self._missed_trigger = True
        self._missed = (self._missed + 1) & MAX_UINT32
        self._note(code)

    # results

    def _fail_pending(self, reason: Reason) -> None:
        """Give the pending trigger its result now; the verdict that is still to come is ignored."""
        if self._pending is None:
            return
        trigger = self._pending.trigger
        self._ids.owe(trigger.trigger_id)
        self._end_pending(
            Result(
                sequence=self._next(),
                trigger_id=trigger.trigger_id,
                part_id=trigger.part_id,
                decision=Decision.INVALID,
                reason=reason,
            )
        )

    def _end_pending(self, result: Result) -> None:
        self._pending, self._acquiring = None, False
        self._go(Event.RESULT_GIVEN)
        self._give(result)

    def _give(self, result: Result) -> None:
        self._judged = (self._judged + 1) & MAX_UINT32
        self._anomalous = (self._anomalous + (result.decision is Decision.ANOMALOUS)) & MAX_UINT32
        self._invalid = (self._invalid + (result.decision is Decision.INVALID)) & MAX_UINT32
        self._result_overrun |= self._results.give(result)
        self._show()

    def _next(self) -> int:
        self._sequence = self._sequence % MAX_UINT32 + 1
        return self._sequence

    def _show(self) -> None:
        """Show the result whose turn it is, unless the PLC still acknowledges the one before, or went silent."""
        acknowledging = self._inputs is not None and self._inputs.result_ack
        self._shown = None if acknowledging or self.state is State.ERROR else self._results.head
        if self._shown is not None:
            self._shown_sequence = self._shown.sequence

    # commands, recipes, errors

    def _execute(self, inputs: Inputs) -> None:
        try:
            command = Command(inputs.command)
        except ValueError:
            self._refuse_command(ErrorCode.COMMAND_UNKNOWN)
            return
        if not self._allows(command):
            self._refuse_command(ErrorCode.COMMAND_NOT_ALLOWED)
            return
        if command is Command.PREPARE_RECIPE:
            self._withdraw_recipe()
            self._command.begin_recipe(inputs.recipe_id)
            self._prepare(inputs.recipe_id)
            return
        if command is Command.UNPREPARE:
            self._withdraw_recipe()
        elif command is Command.ABORT:
            self._fail_pending(Reason.ABORTED)
        else:
            self._reset()
        self._command.end(completed=True)

    def _allows(self, command: Command) -> bool:
        """Abort ends what is under way; everything else waits for it."""
        if self.state not in _OPERATIONAL:
            return False
        under_way = self._pending is not None or self._command.executing
        return command is Command.ABORT or not under_way

    def _refuse_command(self, code: ErrorCode) -> None:
        self._note(code)
        if not self._command.executing:  # the outcome shown is that of the one being carried out
            self._command.end(completed=False)

    def _withdraw_recipe(self) -> None:
        self._fail_pending(Reason.ABORTED)
        self._recipe_id = 0
        if self.state in {State.READY, State.CONTINUOUS_EXECUTION}:
            self._go(Event.RECIPE_WITHDRAWN)

    def _reset(self) -> None:
        self._judged = self._anomalous = self._invalid = self._missed = 0
        self._results.clear()
        self._ids.begin_anew()
        self._missed_trigger = self._result_overrun = False
        self._resynchronise()

    def _clear_error(self, now_ns: int) -> None:
        self._missed_trigger = self._result_overrun = False
        self._error_code = ErrorCode.NONE
        if self.state is State.ERROR:
            self._plc.restart(now_ns)
            self._go(Event.ERROR_CLEARED)
            self._settle()

    def _note(self, code: ErrorCode) -> None:
        if self.state is not State.ERROR:
            self._error_code = code

    def _settle(self) -> None:
        """From Initialized on to where a prepared recipe leads."""
        if self.state is State.INITIALIZED and self._recipe_id != 0:
            self._go(Event.RECIPE_PREPARED)
            if self._free_run:
                self._go(Event.FREE_RUN_BEGUN)

    def _go(self, event: Event) -> None:
        self.state = NEXT_STATE[self.state, event]
