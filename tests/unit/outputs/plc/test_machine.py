"""The rules of docs/plc.md, one example each, and every row of its table of faults."""

import pytest

from edge_uad.outputs.plc.process_image import Command, ErrorCode
from edge_uad.outputs.plc.results import BUFFERED_RESULTS, Reason
from edge_uad.outputs.plc.states import State
from edge_uad.records import Decision
from tests.plc import RECIPE, Bench, verdict

NORMAL, ANOMALOUS, INVALID = Decision.NORMAL, Decision.ANOMALOUS, Decision.INVALID


def test_a_part_goes_through_the_whole_handshake() -> None:
    bench = Bench()
    assert bench.reads().trigger_ready
    risen = bench.write(trigger=True, trigger_id=7, part_id="A-1")
    assert (risen.trigger_ready, risen.trigger_ack, risen.acquiring, risen.busy) == (False, True, True, True)
    assert risen.state is State.SINGLE_EXECUTION
    assert bench.taken[0].trigger_id == 7
    assert bench.taken[0].part_id == "A-1"
    assert bench.taken[0].received_mono_ns == bench.now_ns
    assert not bench.write(trigger=False).trigger_ack
    bench.machine.on_acquired(7)
    exposed = bench.reads()
    assert (exposed.acquiring, exposed.busy, exposed.result_valid) == (False, True, False)
    judged = bench.judge(NORMAL, 7)
    assert (judged.busy, judged.result_valid, judged.trigger_ready) == (False, True, True)
    assert judged.state is State.READY
    assert judged.result is not None
    assert (judged.result.trigger_id, judged.result.part_id, judged.result.is_pass) == (7, "A-1", True)
    assert judged.sequence == judged.result.sequence == 101
    assert not bench.write(result_ack=True).result_valid
    after = bench.write(result_ack=False)
    assert (after.result_valid, after.result, after.sequence, after.trigger_ready) == (False, None, 101, True)


def test_ready_waits_until_the_handshake_of_the_trigger_is_over() -> None:
    bench = Bench()
    bench.write(trigger=True, trigger_id=7)
    assert not bench.judge(NORMAL, 7).trigger_ready
    assert bench.write(trigger=False).trigger_ready


@pytest.mark.parametrize("lacking", ["enable", "camera", "recipe", "local", "start", "stop"])
def test_rule_1_ready_needs_everything(lacking: str) -> None:
    bench = Bench(ready=lacking != "start")
    assert bench.reads().trigger_ready is (lacking != "start")
    match lacking:
        case "enable":
            bench.write(trigger_enable=False)
        case "camera":
            bench.machine.on_camera(False)
        case "recipe":
            bench.command(Command.UNPREPARE)
        case "local":
            bench.machine.on_local_control(True)
        case "stop":
            bench.machine.on_stopping()
        case _:
            bench.machine.use_recipe(RECIPE)
            bench.machine.on_camera(True)
            bench.write()
            bench.write(trigger_enable=True)
    assert not bench.reads().trigger_ready
    missed = bench.trigger(1)
    assert (missed.missed_trigger, missed.trigger_ack, missed.missed) == (True, False, 1)
    assert missed.error_code is ErrorCode.TRIGGER_NOT_READY
    assert bench.taken == []


def test_ready_and_trigger_in_one_write_is_a_missed_trigger() -> None:
    """TriggerReady has to be there before the edge."""
    bench = Bench()
    bench.write(trigger_enable=False)
    assert bench.write(trigger_enable=True, trigger=True, trigger_id=1).missed == 1
    assert bench.taken == []


@pytest.mark.parametrize("cause", ["deadline", "camera", "abort", "stop", "plc", "recipe"])
def test_rule_2_whatever_happens_a_trigger_has_one_result(cause: str) -> None:
    bench = Bench(deadline_ms=500 if cause == "deadline" else None)
    bench.write(heartbeat=1)
    bench.trigger(7, "A-1")
    match cause:
        case "deadline":
            assert not bench.passes(499).result_valid
            bench.passes(1)
        case "camera":
            bench.machine.on_camera(False)
        case "abort":
            assert bench.command(Command.ABORT).command_completed
        case "stop":
            bench.machine.on_stopping()
        case "plc":
            assert bench.passes(2_000).state is State.ERROR
            bench.write(clear_error=True)
        case _:
            bench.machine.use_recipe(4)
    reasons = {
        "deadline": Reason.DEADLINE,
        "camera": Reason.CAMERA_GONE,
        "stop": Reason.STOPPING,
    }
    outputs = bench.reads()
    assert outputs.result is not None
    assert (outputs.result.trigger_id, outputs.result.part_id) == (7, "A-1")
    assert (outputs.result.decision, outputs.result.is_pass) == (INVALID, False)
    assert outputs.result.reason is reasons.get(cause, Reason.ABORTED)
    assert (outputs.busy, outputs.acquiring, outputs.judged, outputs.invalid) == (False, False, 1, 1)
    late = bench.judge(NORMAL, 7)  # the pipeline's own verdict, too late
    assert (late.judged, late.result) == (1, outputs.result)


def test_a_late_verdict_is_never_taken_for_the_next_trigger_of_the_same_id() -> None:
    bench = Bench(deadline_ms=100)
    bench.trigger(7)
    bench.passes(100)
    bench.acknowledge()
    bench.write(trigger_enable=False)
    bench.write(trigger_enable=True)
    reused = bench.trigger(7)
    assert (reused.missed_trigger, reused.error_code) == (True, ErrorCode.TRIGGER_ID_REUSED)
    assert not bench.judge(NORMAL, 7).result_valid
    bench.trigger(7)
    assert len(bench.taken) == 2
    assert bench.judge(ANOMALOUS, 7).result_valid


def test_verdicts_of_other_triggers_and_of_none_are_no_result() -> None:
    bench = Bench()
    bench.trigger(7)
    bench.judge(NORMAL, 8)
    bench.machine.on_verdict(verdict(NORMAL))
    assert bench.reads().busy
    assert bench.reads().judged == 0


def test_rule_3_missed_is_latched_until_clear_error() -> None:
    bench = Bench()
    bench.trigger(1)
    assert bench.trigger(2).missed == 1
    bench.judge(NORMAL, 1)
    assert bench.reads().missed_trigger
    cleared = bench.write(clear_error=True)
    assert (cleared.missed_trigger, cleared.error_code, cleared.missed) == (False, ErrorCode.NONE, 1)
    assert [one.trigger_id for one in bench.taken] == [1]


def test_rule_3_a_repeated_trigger_is_acknowledged_and_its_result_stands() -> None:
    bench = Bench()
    bench.trigger(7, "A-1")
    while_judged = bench.trigger(7, "A-1")
    assert (while_judged.trigger_ack, while_judged.missed) == (True, 0)
    first = bench.judge(ANOMALOUS, 7)
    again = bench.trigger(7, "A-1")
    assert again.trigger_ack
    assert again.error_code is ErrorCode.TRIGGER_ID_REPEATED
    assert (again.result, again.judged) == (first.result, 1)
    assert len(bench.taken) == 1


def test_the_id_of_another_part_is_no_repetition() -> None:
    bench = Bench()
    bench.trigger(7, "A-1")
    bench.judge(NORMAL, 7)
    other = bench.trigger(7, "A-2")
    assert (other.trigger_ack, other.missed_trigger, other.error_code) == (False, True, ErrorCode.TRIGGER_ID_REUSED)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"trigger_id": 0}, ErrorCode.TRIGGER_ID_ZERO),
        ({"trigger_id": 1, "part_id_too_long": True}, ErrorCode.PART_ID_TOO_LONG),
    ],
)
def test_a_trigger_that_says_nothing_usable_is_missed(fields: dict[str, object], code: ErrorCode) -> None:
    bench = Bench()
    missed = bench.write(trigger=True, **fields)
    assert (missed.error_code, missed.missed, missed.trigger_ack) == (code, 1, False)
    assert bench.taken == []


def test_a_trigger_that_the_station_cannot_take_is_missed() -> None:
    bench = Bench()
    bench.takes = False
    missed = bench.trigger(1)
    assert (missed.error_code, missed.missed, missed.busy) == (ErrorCode.TRIGGER_NOT_TAKEN, 1, False)
    bench.takes = True
    assert bench.trigger(1).trigger_ack


def test_rule_4_the_newest_overwrites_and_says_so() -> None:
    bench = Bench()
    bench.trigger(1)
    bench.judge(NORMAL, 1)
    risen = bench.trigger(2)
    assert (risen.result_valid, risen.result_overrun) == (False, True)
    judged = bench.judge(ANOMALOUS, 2)
    assert judged.result is not None
    assert judged.result.trigger_id == 2
    assert not bench.write(clear_error=True).result_overrun


def test_rule_4_eight_are_buffered_and_none_is_lost() -> None:
    bench = Bench()
    bench.write(buffer_results=True)
    ids = range(1, BUFFERED_RESULTS + 1)
    for number in ids:
        assert bench.reads().trigger_ready
        bench.trigger(number)
        bench.judge(NORMAL, number)
    assert not bench.reads().trigger_ready
    assert bench.trigger(99).missed == 1
    seen = []
    for _ in ids:
        result = bench.reads().result
        assert result is not None
        seen.append((result.trigger_id, result.sequence))
        assert bench.write(result_ack=True).result is None
        bench.write(result_ack=False)
    assert seen == [(number, 100 + number) for number in ids]
    assert (bench.reads().result_valid, bench.reads().result_overrun) == (False, False)
    assert bench.reads().trigger_ready


def test_rule_4_in_free_run_a_full_buffer_drops_the_new_one() -> None:
    bench = Bench(free_run=True)
    bench.write(buffer_results=True)
    for _ in range(BUFFERED_RESULTS):
        bench.machine.on_verdict(verdict(NORMAL))
    assert not bench.reads().result_overrun
    bench.machine.on_verdict(verdict(ANOMALOUS))
    full = bench.reads()
    assert full.result_overrun
    assert full.result is not None
    assert full.result.sequence == 101
    assert full.judged == BUFFERED_RESULTS + 1


def test_rule_4_in_free_run_the_newest_overwrites_and_says_so() -> None:
    bench = Bench(free_run=True)
    bench.machine.on_verdict(verdict(NORMAL))
    assert not bench.reads().result_overrun
    bench.machine.on_verdict(verdict(ANOMALOUS))
    overwritten = bench.reads()
    assert overwritten.result_overrun
    assert overwritten.result is not None
    assert (overwritten.result.decision, overwritten.sequence) == (ANOMALOUS, 102)
    bench.write(clear_error=True)
    bench.acknowledge()
    bench.machine.on_verdict(verdict(NORMAL))
    assert not bench.reads().result_overrun


def test_turning_the_buffer_off_keeps_the_newest_and_says_that_others_went() -> None:
    bench = Bench(free_run=True)
    bench.write(buffer_results=True)
    for decision in (NORMAL, NORMAL, ANOMALOUS):
        bench.machine.on_verdict(verdict(decision))
    off = bench.write(buffer_results=False)
    assert off.result_overrun
    assert off.result is not None
    assert off.result.decision is ANOMALOUS


def test_an_id_whose_result_waits_in_the_buffer_is_not_judged_again_after_the_plc_began_anew() -> None:
    """Else the PLC would take the former part's result for this one's."""
    bench = Bench()
    bench.write(buffer_results=True)
    bench.trigger(1)
    bench.judge(NORMAL, 1)
    bench.write(trigger_enable=False)
    bench.write(trigger_enable=True)
    assert bench.trigger(1).error_code is ErrorCode.TRIGGER_ID_REUSED
    bench.acknowledge()
    assert bench.trigger(1).trigger_ack


def test_rule_6_a_recipe_that_fails_leaves_none() -> None:
    bench = Bench()
    begun = bench.command(Command.PREPARE_RECIPE, 9)
    assert (begun.command_executing, begun.trigger_ready, begun.recipe_id) == (True, False, 0)
    assert begun.state is State.INITIALIZED
    assert bench.asked_recipes == [9]
    bench.machine.on_recipe(9, prepared=False)
    failed = bench.reads()
    assert (failed.command_executing, failed.command_failed, failed.command_completed) == (False, True, False)
    assert (failed.state, failed.recipe_id, failed.trigger_ready) == (State.INITIALIZED, 0, False)
    assert failed.error_code is ErrorCode.RECIPE_FAILED
    bench.command(Command.PREPARE_RECIPE, 4)
    bench.machine.on_recipe(4, prepared=True)
    prepared = bench.reads()
    assert (prepared.command_completed, prepared.state, prepared.recipe_id) == (True, State.READY, 4)
    assert prepared.trigger_ready
    assert not bench.write(execute_command=False).command_completed


def test_the_outcome_of_a_command_is_shown_until_the_plc_lets_go() -> None:
    bench = Bench()
    assert bench.command(Command.ABORT).command_completed
    assert bench.write().command_completed
    assert not bench.write(execute_command=False).command_completed


def test_a_plc_that_lets_go_too_early_still_sees_the_outcome_until_its_next_command() -> None:
    bench = Bench()
    bench.command(Command.PREPARE_RECIPE, 9)
    bench.write(execute_command=False)
    bench.machine.on_recipe(9, prepared=True)
    assert bench.write().command_completed
    again = bench.write(execute_command=True, command=Command.PREPARE_RECIPE, recipe_id=8)
    assert (again.command_executing, again.command_completed) == (True, False)


def test_an_aborted_preparation_does_not_come_back() -> None:
    bench = Bench()
    bench.command(Command.PREPARE_RECIPE, 9)
    assert bench.command(Command.RESET).error_code is ErrorCode.COMMAND_NOT_ALLOWED
    assert bench.reads().command_executing
    assert bench.command(Command.ABORT).command_completed
    bench.machine.on_recipe(9, prepared=True)
    assert (bench.reads().state, bench.reads().recipe_id) == (State.INITIALIZED, 0)


@pytest.mark.parametrize("command", [Command.PREPARE_RECIPE, Command.UNPREPARE, Command.RESET])
def test_a_command_does_not_end_a_trigger(command: Command) -> None:
    bench = Bench()
    bench.trigger(1)
    refused = bench.command(command, 9)
    assert (refused.command_failed, refused.busy) == (True, True)
    assert refused.error_code is ErrorCode.COMMAND_NOT_ALLOWED
    assert bench.judge(NORMAL, 1).result_valid


@pytest.mark.parametrize("state", [State.PREOPERATIONAL, State.ERROR, State.HALTED])
def test_where_nothing_is_judged_no_command_is_carried_out(state: State) -> None:
    bench = Bench(ready=state is not State.PREOPERATIONAL)
    bench.write(heartbeat=1)
    if state is State.ERROR:
        bench.passes(2_000)
    elif state is State.HALTED:
        bench.machine.on_stopping()
    for command in Command:
        refused = bench.command(command, RECIPE)
        assert (refused.state, refused.command_failed, refused.command_executing) == (state, True, False)
    assert bench.asked_recipes == []


def test_an_unknown_command_fails() -> None:
    refused = Bench().command(77)
    assert (refused.command_failed, refused.error_code) == (True, ErrorCode.COMMAND_UNKNOWN)


def test_reset_empties_counters_and_queues_and_counts_on_in_sequence() -> None:
    bench = Bench()
    bench.trigger(1)
    bench.trigger(2)
    bench.judge(ANOMALOUS, 1)
    reset = bench.command(Command.RESET)
    assert (reset.judged, reset.anomalous, reset.invalid, reset.missed) == (0, 0, 0, 0)
    assert (reset.result_valid, reset.missed_trigger, reset.command_completed) == (False, False, True)
    assert bench.resynchronised == 1
    bench.trigger(1)
    assert bench.judge(NORMAL, 1).sequence == 102


def test_rule_7_the_heartbeat_counts_tenths_of_a_second_while_the_judge_is_fed() -> None:
    bench = Bench()
    before = bench.passes(100).heartbeat
    assert bench.passes(1_000).heartbeat - before == 10


def test_row_inference_hangs_the_heartbeat_stands_still_within_half_a_second() -> None:
    bench = Bench()
    bench.passes(1_000)
    still = bench.passes(500, fed=False).heartbeat
    assert bench.passes(60_000, fed=False).heartbeat == still
    assert bench.passes(1_000).heartbeat - still == pytest.approx(10, abs=1)


def test_the_heartbeat_goes_from_65535_to_0() -> None:
    bench = Bench()
    bench.passes(6_554_000, every_ms=250)
    assert bench.reads().heartbeat < 100


def test_row_camera_gone() -> None:
    bench = Bench()
    bench.trigger(1)
    bench.machine.on_camera(False)
    gone = bench.reads()
    assert (gone.camera_ok, gone.trigger_ready) == (False, False)
    assert gone.result is not None
    assert gone.result.reason is Reason.CAMERA_GONE
    bench.machine.on_camera(True)
    assert bench.reads().trigger_ready


@pytest.mark.parametrize(
    ("text", "reason"), [("the image is damaged or truncated (no end chunk)", Reason.DAMAGED), ("?", Reason.OTHER)]
)
def test_row_bad_frame(text: str, reason: Reason) -> None:
    bench = Bench()
    bench.trigger(1)
    judged = bench.judge(INVALID, 1, reason=text)
    assert judged.result is not None
    assert (judged.result.decision, judged.result.reason, judged.result.is_pass) == (INVALID, reason, False)


def test_row_restart() -> None:
    """A new process knows nothing: neither what stood in the PLC's bits, nor a result."""
    bench = Bench(ready=False, first_sequence=5_000)
    started = bench.reads()
    assert (started.online, started.sequence, started.result) == (False, 5_000, None)
    bench.machine.use_recipe(RECIPE)
    bench.machine.on_camera(True)
    bench.machine.on_started()
    assert bench.reads().online
    # the PLC goes on writing what it wrote before
    cyclic = {"trigger_enable": True, "trigger": True, "trigger_id": 3, "execute_command": True, "command": 2}
    first = bench.write(**cyclic)
    assert (first.trigger_ready, first.trigger_ack, first.missed) == (False, False, 0)
    assert first.state is State.READY  # the command was not carried out once more
    assert not bench.write(**cyclic).trigger_ready
    bench.write(trigger_enable=False, trigger=False)
    assert bench.write(trigger_enable=True).trigger_ready


@pytest.mark.parametrize("free_run", [False, True])
def test_row_plc_gone(free_run: bool) -> None:
    bench = Bench(free_run=free_run)
    bench.write(heartbeat=1)
    if free_run:
        bench.machine.on_verdict(verdict(NORMAL))
    else:
        bench.trigger(1)
        bench.judge(NORMAL, 1)
    assert bench.passes(1_999).result_valid
    gone = bench.passes(1)
    assert (gone.state, gone.error, gone.error_code) == (State.ERROR, True, ErrorCode.PLC_GONE)
    assert (gone.trigger_ready, gone.result_valid) == (False, False)
    bench.machine.on_verdict(verdict(NORMAL))
    assert bench.write(heartbeat=2).error
    assert not bench.reads().result_valid
    cleared = bench.write(clear_error=True)
    assert not cleared.error
    assert cleared.state is (State.CONTINUOUS_EXECUTION if free_run else State.READY)
    assert not cleared.trigger_ready
    bench.write(trigger_enable=False)
    assert bench.write(trigger_enable=True).trigger_ready is not free_run


def test_in_error_nothing_is_enabled_and_the_cause_stays() -> None:
    bench = Bench()
    bench.write(heartbeat=1)
    bench.passes(2_000)
    bench.write(trigger_enable=False)
    bench.write(trigger_enable=True)
    missed = bench.trigger(1)
    assert (missed.missed_trigger, missed.error_code) == (True, ErrorCode.PLC_GONE)
    assert not bench.write(clear_error=True).trigger_ready


def test_a_recipe_that_is_being_prepared_when_the_plc_goes_is_not_taken() -> None:
    bench = Bench()
    bench.command(Command.PREPARE_RECIPE, 9)
    bench.write(heartbeat=1)
    gone = bench.passes(2_000)
    assert (gone.command_executing, gone.command_failed) == (False, True)
    bench.machine.on_recipe(9, prepared=True)
    assert bench.write(clear_error=True).state is State.INITIALIZED


def test_a_plc_without_a_heartbeat_is_not_watched() -> None:
    assert not Bench().passes(3_600_000, every_ms=1_000).error


def test_row_no_result_valid_the_pass_bit_needs_it() -> None:
    """A PLC that gives up on its own timer never reads a pass."""
    bench = Bench()
    bench.trigger(1)
    assert bench.reads().result is None
    bench.write(result_ack=True)
    assert not bench.judge(NORMAL, 1).result_valid
    assert bench.write(result_ack=False).result_valid


def test_the_sequence_skips_zero() -> None:
    bench = Bench(first_sequence=2**32 - 1)
    bench.trigger(1)
    assert bench.judge(NORMAL, 1).sequence == 1


def test_free_run_shows_every_frame_and_takes_no_trigger() -> None:
    bench = Bench(free_run=True)
    assert bench.reads().state is State.CONTINUOUS_EXECUTION
    bench.machine.on_verdict(verdict(ANOMALOUS, part_id="frame-1.png"))
    shown = bench.reads()
    assert shown.result is not None
    assert (shown.result.trigger_id, shown.result.part_id, shown.anomalous) == (0, "frame-1.png", 1)
    assert bench.trigger(1).missed == 1
    assert bench.command(Command.UNPREPARE).state is State.INITIALIZED
    bench.machine.on_verdict(verdict(NORMAL))
    assert bench.reads().judged == 1


def test_state_bits_of_the_surroundings_are_passed_on() -> None:
    bench = Bench()
    bench.machine.on_archive(fault=True)
    bench.machine.on_drift(warning=True)
    assert (bench.reads().archive_fault, bench.reads().drift_warning) == (True, True)


def test_a_sequence_number_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence number is 1 to"):
        Bench(first_sequence=0)
