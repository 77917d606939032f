"""No sequence of edges, acknowledgements, time-outs, restarts and verdicts breaks rules 1 to 7 of docs/plc.md."""

import random
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_uad.outputs.plc.process_image import Inputs, Outputs
from edge_uad.outputs.plc.results import BUFFERED_RESULTS
from edge_uad.outputs.plc.states import TRANSITIONS, State
from edge_uad.records import Decision, Trigger
from tests.plc import MS, RECIPE, Bench, verdict

DEADLINE_MS = 700
BITS = ("trigger_enable", "trigger", "result_ack", "execute_command", "clear_error", "buffer_results")
LEADS_TO = {(row.source, row.target) for row in TRANSITIONS}


@dataclass
class Taken:
    """A trigger that the pipeline took, and its verdict once that has come."""

    trigger: Trigger
    verdict: Decision | None = None


class RulesHold(RuleBasedStateMachine):
    """A PLC, a camera, a judge and a clock that do anything at all, one after the other."""

    @initialize(free_run=st.sampled_from([False, False, False, True]))
    def begin(self, free_run: bool) -> None:
        self.free_run = free_run
        self.random = random.Random(0)  # noqa: S311  (where SequenceNo starts, no secret)
        self.now_ns = self.n_parts = 0
        self.start()
        self.line_is_put_right()

    def start(self) -> None:
        """A new process; the PLC's bits stay as they are."""
        written = self.bench.written if hasattr(self, "bench") else Inputs()
        self.bench = Bench(
            free_run=self.free_run,
            deadline_ms=DEADLINE_MS,
            first_sequence=self.random.randrange(1, 2**32),
            ready=False,
        )
        self.bench.now_ns = max(self.now_ns, self.bench.now_ns)
        self.bench.written = written
        self.first_sequence = self.bench.machine._sequence
        self.taken: list[Taken] = []
        self.owners: dict[int, Taken] = {}
        self.recipe_id = 0
        self.camera_ok = self.local = self.has_written = False
        self.before = self.bench.reads()

    # what happens

    @rule()
    def line_is_put_right(self) -> None:
        """As it is for most of its life: without this, chance would seldom make it ready."""
        if self.bench.machine.state is State.HALTED:
            self.start()
        if self.recipe_id == 0 or self.bench.machine.state is State.PREOPERATIONAL:
            self.daemon_is_ready()
        self.camera_changes(ok=True)
        self.operator_takes_over(local=False)
        self.queue_changes(takes=True)
        self.plc_makes_ready()

    @rule(
        n=st.sampled_from([1, 1, 2, 9]),
        decision=st.sampled_from(Decision),
        acknowledged=st.booleans(),
        buffered=st.sampled_from([None, None, False, True]),
    )
    def parts_come(self, n: int, decision: Decision, acknowledged: bool, buffered: bool | None) -> None:
        """Each with an id of its own."""
        self.line_is_put_right()
        if buffered is not None:
            self.write(buffer_results=buffered)
        for _ in range(n):
            self.n_parts += 1
            had = len(self.taken)
            self.plc_triggers(100 + self.n_parts, None)
            if len(self.taken) > had:
                self.taken[-1].verdict = decision
                self.bench.machine.on_verdict(verdict(decision, 100 + self.n_parts))
            self.rule_5_a_pass_was_judged_normal_for_this_very_trigger()
            self.rule_2_every_acknowledged_trigger_has_one_result_in_time()
            if acknowledged:
                self.plc_acknowledges()

    @rule(luck=st.integers(0, 3))
    def daemon_is_killed(self, luck: int) -> None:
        if luck:
            return
        self.now_ns = self.bench.now_ns
        self.start()
        started = self.bench.reads()
        assert not started.online
        assert started.result is None
        assert not self.bench.write().trigger_ready
        self.has_written = True

    @rule()
    def daemon_is_ready(self) -> None:
        self.bench.machine.use_recipe(RECIPE)
        self.recipe_id = RECIPE
        self.bench.machine.on_started()
        self.bench.machine.on_camera(True)
        self.camera_ok = True

    @rule()
    def plc_makes_ready(self) -> None:
        self.write(clear_error=False, trigger=False, result_ack=False, trigger_enable=False, part_id_too_long=False)
        self.write(clear_error=True, trigger_enable=True)

    @rule(
        trigger_id=st.integers(0, 4),
        part_id=st.sampled_from([None, "a", "b"]),
        decision=st.sampled_from([None, *Decision]),
        acknowledged=st.booleans(),
    )
    def a_part_comes_to_a_line_put_right(
        self, trigger_id: int, part_id: str | None, decision: Decision | None, acknowledged: bool
    ) -> None:
        self.line_is_put_right()
        had = len(self.taken)
        self.plc_triggers(trigger_id, part_id)
        self.rule_5_a_pass_was_judged_normal_for_this_very_trigger()
        if decision is not None and len(self.taken) > had:
            self.taken[-1].verdict = decision
            self.bench.machine.on_verdict(verdict(decision, trigger_id))
            self.rule_5_a_pass_was_judged_normal_for_this_very_trigger()
        if acknowledged:
            self.plc_acknowledges()

    @rule(ms=st.integers(DEADLINE_MS, 1_000), trigger_id=st.integers(1, 4))
    def a_part_is_not_judged_in_time(self, ms: int, trigger_id: int) -> None:
        self.line_is_put_right()
        self.plc_triggers(trigger_id, None)
        self.write(heartbeat=(self.bench.written.heartbeat + 1) & 0xFFFF)
        assert not self.bench.passes(ms).busy

    @rule(trigger_id=st.integers(1, 4), decision=st.sampled_from(Decision))
    def a_verdict_comes_after_the_same_id_was_sent_anew(self, trigger_id: int, decision: Decision) -> None:
        self.line_is_put_right()
        had = len(self.taken)
        self.plc_triggers(trigger_id, None)
        self.bench.passes(DEADLINE_MS)
        if self.free_run or len(self.taken) == had:
            return
        self.plc_acknowledges()
        self.line_is_put_right()
        self.plc_triggers(trigger_id, None)
        if self.taken[had].verdict is None:
            self.taken[had].verdict = decision
            self.bench.machine.on_verdict(verdict(decision, trigger_id))

    @rule(triggered=st.booleans(), cleared=st.booleans())
    def plc_goes_silent(self, triggered: bool, cleared: bool) -> None:
        self.line_is_put_right()
        for _ in range(2):
            self.plc_beats()
        if triggered:
            self.plc_triggers(4, None)
        gone = self.bench.passes(2_000)
        assert (gone.error, gone.busy, gone.result_valid, gone.trigger_ready) == (True, False, False, False)
        if cleared:
            self.write(clear_error=False, trigger_enable=False)
            self.write(trigger_enable=True)
            self.write(clear_error=True)
            assert not self.bench.reads().trigger_ready

    @rule(trigger_id=st.integers(0, 4), part_id=st.sampled_from([None, "a", "b"]))
    def plc_triggers(self, trigger_id: int, part_id: str | None) -> None:
        self.write(trigger=False)
        self.write(trigger=True, trigger_id=trigger_id, part_id=part_id)
        self.write(trigger=False)

    @rule(
        bits=st.dictionaries(st.sampled_from(BITS), st.booleans(), max_size=4),
        command=st.integers(0, 5),
        recipe_id=st.integers(1, 2),
        trigger_id=st.integers(0, 4),
        too_long=st.booleans(),
    )
    def plc_writes_anything(
        self, bits: dict[str, bool], command: int, recipe_id: int, trigger_id: int, too_long: bool
    ) -> None:
        self.write(**bits, command=command, recipe_id=recipe_id, trigger_id=trigger_id, part_id_too_long=too_long)

    @rule(trigger_id=st.integers(1, 4))
    def plc_enables_and_triggers_in_one_write(self, trigger_id: int) -> None:
        self.write(trigger_enable=False, trigger=False)
        self.write(trigger_enable=True, trigger=True, trigger_id=trigger_id)
        self.write(trigger=False)

    @rule(command=st.integers(1, 4), recipe_id=st.integers(1, 2))
    def plc_commands(self, command: int, recipe_id: int) -> None:
        self.write(execute_command=False)
        self.write(execute_command=True, command=command, recipe_id=recipe_id)

    @rule()
    def plc_beats(self) -> None:
        self.write(heartbeat=(self.bench.written.heartbeat + 1) & 0xFFFF)

    @rule()
    def plc_acknowledges(self) -> None:
        self.write(result_ack=False)
        self.write(result_ack=True)
        self.write(result_ack=False)

    @precondition(lambda self: any(one.verdict is None for one in self.taken))
    @rule(data=st.data(), decision=st.sampled_from(Decision))
    def verdict_comes(self, data: st.DataObject, decision: Decision) -> None:
        one = data.draw(st.sampled_from([one for one in self.taken if one.verdict is None]))
        one.verdict = decision
        self.bench.machine.on_verdict(verdict(decision, one.trigger.trigger_id))

    @rule(decision=st.sampled_from(Decision))
    def verdict_of_no_trigger(self, decision: Decision) -> None:
        self.bench.machine.on_verdict(verdict(decision))

    @rule(trigger_id=st.integers(1, 4))
    def frame_is_exposed(self, trigger_id: int) -> None:
        self.bench.machine.on_acquired(trigger_id)

    @rule(ok=st.booleans())
    def camera_changes(self, ok: bool) -> None:
        self.camera_ok = ok
        self.bench.machine.on_camera(ok)

    @rule(local=st.booleans())
    def operator_takes_over(self, local: bool) -> None:
        self.local = local
        self.bench.machine.on_local_control(local)

    @rule(takes=st.booleans())
    def queue_changes(self, takes: bool) -> None:
        self.bench.takes = takes

    @precondition(lambda self: self.bench.asked_recipes)
    @rule(prepared=st.booleans())
    def recipe_is_prepared(self, prepared: bool) -> None:
        recipe_id = self.bench.asked_recipes.pop()
        executing = self.bench.reads().command_executing
        self.bench.machine.on_recipe(recipe_id, prepared=prepared)
        if executing and self.bench.reads().command_completed and prepared:
            self.recipe_id = recipe_id

    @rule(luck=st.integers(0, 3))
    def daemon_stops(self, luck: int) -> None:
        if not luck:
            self.bench.machine.on_stopping()

    @rule(ms=st.integers(0, 2_500), fed=st.booleans())
    def time_passes(self, ms: int, fed: bool) -> None:
        """Rule 7: without the judge the heartbeat stands still within half a second."""
        if fed:
            self.bench.passes(ms)
            return
        still = self.bench.passes(min(ms, 400), fed=False).heartbeat
        assert self.bench.passes(max(ms - 400, 0), fed=False).heartbeat == still

    def write(self, **changed: object) -> None:
        """Rule 3, at every edge of Trigger."""
        before, edge = self.bench.reads(), not self.bench.written.trigger and changed.get("trigger") is True
        had, cleared = len(self.bench.taken), changed.get("clear_error") and not self.bench.written.clear_error
        reset = changed.get("execute_command") and not self.bench.written.execute_command
        buffered = self.bench.written.buffer_results
        after = self.bench.write(**changed)
        for trigger in self.bench.taken[had:]:
            assert edge, "a trigger without an edge"
            assert before.trigger_ready
            assert trigger.received_mono_ns == self.bench.now_ns
            assert trigger.trigger_id == self.bench.written.trigger_id != 0
            assert after.trigger_ack
            self.taken.append(Taken(trigger))
        if edge and self.has_written and not after.trigger_ack:
            assert after.missed_trigger
            assert after.missed == (1 if reset and after.missed < before.missed + 1 else before.missed + 1)
        if edge and not after.trigger_ack:
            assert len(self.bench.taken) == had
        if before.missed_trigger and not cleared and not reset:
            assert after.missed_trigger, "latched until ClearError"
        if buffered and self.bench.written.buffer_results and not self.free_run and not before.result_overrun:
            assert not after.result_overrun, "with the buffer nothing is lost"
        if after.recipe_id == 0:
            self.recipe_id = 0
        self.has_written = True

    # what always holds

    def outputs(self) -> Outputs:
        return self.bench.reads()

    @invariant()
    def rule_1_ready_needs_everything(self) -> None:
        now = self.outputs()
        if now.trigger_ready:
            assert now.state is State.READY
            assert self.bench.written.trigger_enable
            assert self.has_written
            assert self.camera_ok
            assert now.recipe_id != 0
            assert not self.local
            assert not now.trigger_ack, "no edge could follow"
            assert len(self.bench.machine._results) < BUFFERED_RESULTS

    @invariant()
    def rule_2_every_acknowledged_trigger_has_one_result_in_time(self) -> None:
        now = self.outputs()
        if now.busy:
            pending = self.taken[-1].trigger
            assert self.bench.now_ns < pending.received_mono_ns + DEADLINE_MS * MS
            assert now.state is State.SINGLE_EXECUTION
        if not self.free_run:
            given = (self.bench.machine._sequence - self.first_sequence) % (2**32 - 1)
            assert given == len(self.taken) - now.busy

    @invariant()
    def rule_4_at_most_one_or_eight_wait(self) -> None:
        waiting = len(self.bench.machine._results)
        assert waiting <= (BUFFERED_RESULTS if self.bench.written.buffer_results else 1)

    @invariant()
    def rule_5_a_pass_was_judged_normal_for_this_very_trigger(self) -> None:
        result = self.outputs().result
        if result is None or self.free_run:
            return
        owner = self.owners.setdefault(result.sequence, self.newest_taken(result.trigger_id))
        assert owner.trigger.part_id == result.part_id
        if result.is_pass:
            assert owner.verdict is Decision.NORMAL
        if owner.trigger is self.taken[-1].trigger:
            return
        # another part has been triggered since: this one is shown only where results are buffered
        assert self.bench.written.buffer_results or not self.outputs().busy

    def newest_taken(self, trigger_id: int) -> Taken:
        return next(one for one in reversed(self.taken) if one.trigger.trigger_id == trigger_id)

    @invariant()
    def rule_6_never_an_old_recipe(self) -> None:
        now = self.outputs()
        assert now.recipe_id in {0, self.recipe_id}
        if now.command_executing:
            assert now.recipe_id == 0
            assert not now.trigger_ready
        if now.state in {State.READY, State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION}:
            assert now.recipe_id != 0

    @invariant()
    def bits_agree_with_each_other_and_with_the_table(self) -> None:
        now = self.outputs()
        assert now.sequence != 0
        assert now.result_valid is (now.result is not None)
        assert not (now.result_valid and self.bench.written.result_ack and self.has_written)
        assert now.error is (now.state is State.ERROR)
        assert not (now.error and (now.result_valid or now.trigger_ready))
        assert not now.acquiring or now.busy
        assert not (now.command_completed and now.command_failed)
        assert now.anomalous + now.invalid <= now.judged
        if now.state is not self.before.state:
            reachable, frontier = set[State](), {self.before.state}
            while frontier:
                reachable |= frontier
                frontier = {target for source, target in LEADS_TO if source in frontier} - reachable
            assert now.state in reachable
        self.before = now


RulesHold.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRulesHold = RulesHold.TestCase
