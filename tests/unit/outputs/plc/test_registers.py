"""The register map: the code's one table, what the documents say, and what goes over the wire."""

import csv
import itertools
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.outputs.plc.process_image import ErrorCode, Inputs, Outputs
from edge_uad.outputs.plc.registers import (
    CONTROL_BITS,
    HOLDING,
    INPUT,
    N_HOLDING,
    N_INPUT,
    RESULT_BITS,
    STATUS_BITS,
    Register,
    coils,
    csv_text,
    decode_inputs,
    discrete_inputs,
    encode_outputs,
    markdown,
    with_coils,
)
from edge_uad.outputs.plc.results import Reason, Result, reason_of
from edge_uad.outputs.plc.states import TRANSITIONS, Event, State, mermaid
from edge_uad.records import Decision
from edge_uad.runtime.daemon import STOPPED_REASON
from edge_uad.runtime.scheduler import DEADLINE_REASON
from edge_uad.sources.ffmpeg.decoder import REFERS_TO_DAMAGED
from tests.plc import RECIPE, Bench

ROOT = Path(__file__).parents[4]
PLC_MD = (ROOT / "docs" / "plc.md").read_text(encoding="utf-8")
WORD = st.integers(0, 0xFFFF)


def test_the_document_shows_the_codes_tables_and_diagram() -> None:
    for generated in (markdown(HOLDING), markdown(INPUT), f"```mermaid\n{mermaid()}\n```"):
        assert generated in PLC_MD, f"put this into docs/plc.md:\n{generated}"


@pytest.mark.parametrize("enumeration", [ErrorCode, Reason])
def test_the_document_lists_every_number(enumeration: type[ErrorCode] | type[Reason]) -> None:
    for one in enumeration:
        assert f"| {one.value} | {one.name.replace('_', ' ').lower()} |" in PLC_MD


def test_the_csv_file_is_the_codes() -> None:
    text = (ROOT / "docs" / "plc-map.csv").read_text(encoding="utf-8")
    assert text == csv_text(), "python -m edge_uad.outputs.plc.registers --csv > docs/plc-map.csv"
    rows = list(csv.DictReader(text.splitlines()))
    assert {row["area"] for row in rows} == {"holding", "input", "coil", "discrete input"}


@pytest.mark.parametrize("registers", [HOLDING, INPUT], ids=["holding", "input"])
def test_entries_follow_each_other_without_gap_or_overlap(registers: tuple[Register, ...]) -> None:
    assert registers[0].address == 0
    assert all(one.address + one.width == following.address for one, following in itertools.pairwise(registers))


def test_the_map_is_version_1_and_must_not_move() -> None:
    """A contract: a change of any place or bit is another version."""
    assert {one.name: one.address for one in HOLDING} == {
        "Control": 0, "PlcHeartbeat": 1, "TriggerId": 2, "Command": 4, "CommandRecipeId": 5, "PartIdLength": 6,
        "PartId": 7,
    }  # fmt: skip
    assert {one.name: one.address for one in INPUT} == {
        "MapVersion": 0, "Heartbeat": 1, "Status": 2, "State": 3, "ErrorCode": 4, "RecipeId": 5, "SequenceNo": 6,
        "ResultTriggerId": 8, "Decision": 10, "Result": 11, "Reason": 12, "Score": 13, "Threshold": 14, "PeakX": 15,
        "PeakY": 16, "LatencyMs": 17, "Judged": 18, "Anomalous": 20, "Invalid": 22, "Missed": 24,
        "ResultPartIdLength": 26, "ResultPartId": 27, "SequenceNoCheck": 43,
    }  # fmt: skip
    assert (N_HOLDING, N_INPUT) == (23, 44)
    assert CONTROL_BITS == (
        "TriggerEnable", "Trigger", "ResultAck", "ExecuteCommand", "ClearError", "BufferResults"
    )  # fmt: skip
    assert STATUS_BITS == (
        "Online", "TriggerReady", "TriggerAck", "Acquiring", "Busy", "ResultValid", "MissedTrigger", "ResultOverrun",
        "CommandExecuting", "CommandCompleted", "CommandFailed", "Error", "CameraOk", "ArchiveFault", "DriftWarning",
        "LocalControl",
    )  # fmt: skip
    assert RESULT_BITS == ("Pass", "Reject", "Invalid")
    assert [one.value for one in State] == [1, 2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize(("number", "name"), list(enumerate(CONTROL_BITS)))
def test_each_control_bit_is_its_field(number: int, name: str) -> None:
    field = "".join(f"_{one.lower()}" if one.isupper() else one for one in name).strip("_")
    assert decode_inputs([1 << number, *[0] * (N_HOLDING - 1)]) == replace(Inputs(), **{field: True})


def test_the_other_holding_registers_are_their_fields() -> None:
    words = [0, 9, 0x0102, 0x0304, 3, 12, 4, 0x4142, 0x4300, *[0xFFFF] * 14]
    assert decode_inputs(words) == Inputs(heartbeat=9, trigger_id=0x01020304, command=3, recipe_id=12, part_id="ABC")


@pytest.mark.parametrize(("length", "part_id", "too_long"), [(0, None, False), (32, "z" * 32, False), (33, None, True)])
def test_a_part_id_has_up_to_32_bytes(length: int, part_id: str | None, too_long: bool) -> None:
    inputs = decode_inputs([0, 0, 0, 0, 0, 0, length, *[0x7A7A] * 16])
    assert (inputs.part_id, inputs.part_id_too_long) == (part_id, too_long)


@given(st.lists(WORD, min_size=N_HOLDING, max_size=N_HOLDING))
def test_any_words_are_inputs(words: list[int]) -> None:
    inputs = decode_inputs(words)
    assert inputs.trigger_id == words[2] * 65536 + words[3]
    assert len(inputs.part_id or "") <= 32


def outputs(**changed: object) -> Outputs:
    """Those of a station that has just been made ready."""
    return replace(Bench().reads(), **changed)


@pytest.mark.parametrize(("number", "name"), list(enumerate(STATUS_BITS)))
def test_each_status_bit_is_its_field(number: int, name: str) -> None:
    field = "".join(f"_{one.lower()}" if one.isupper() else one for one in name).strip("_")
    flags = {one.name: False for one in fields(Outputs) if one.type in {"bool", bool}}
    assert len(flags) == 16
    words = encode_outputs(outputs(**(flags | {field: True})))
    assert words[2] == 1 << number
    assert discrete_inputs(words)[number]
    assert sum(discrete_inputs(words)) == 1


RESULT = Result(
    sequence=0x0001_0002,
    trigger_id=0x0003_0004,
    part_id="part",
    decision=Decision.NORMAL,
    reason=Reason.NONE,
    score=0.1234,
    threshold=0.5,
    peak=(10, 20),
    latency_ms=33.7,
)


def test_a_result_is_where_the_map_says() -> None:
    words = encode_outputs(outputs(result_valid=True, result=RESULT, sequence=RESULT.sequence, recipe_id=RECIPE))
    assert words[:2] == [1, 0]
    assert words[3:18] == [6, 0, RECIPE, 1, 2, 3, 4, 1, 1, 0, 1234, 5000, 10, 20, 33]
    assert words[26:29] == [4, 0x7061, 0x7274]
    assert words[29:] == [0] * 14 + [2]


@pytest.mark.parametrize(
    ("decision", "number", "bits"),
    [(Decision.NORMAL, 1, 0b001), (Decision.ANOMALOUS, 2, 0b010), (Decision.INVALID, 3, 0b110)],
)
def test_pass_and_reject_are_antivalent(decision: Decision, number: int, bits: int) -> None:
    words = encode_outputs(outputs(result=replace(RESULT, decision=decision)))
    assert (words[10], words[11]) == (number, bits)
    assert discrete_inputs(words)[16:] == [bool(bits & 1), bool(bits & 2), bool(bits & 4)]


def test_without_a_result_there_is_neither_pass_nor_reject() -> None:
    assert encode_outputs(outputs())[8:18] == [0] * 10


def test_what_is_too_large_is_clipped_and_never_wraps() -> None:
    large = replace(RESULT, score=7.0, threshold=-1.0, peak=None, latency_ms=70_000.0, part_id="é" * 40 + "→")
    words = encode_outputs(outputs(result=large, judged=2**32 - 1))
    assert words[13:20] == [0xFFFF, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF]
    assert words[26:43] == [32, *[0xE9E9] * 16]
    assert encode_outputs(outputs(result=replace(RESULT, part_id="→")))[27] == 0x3F00


@given(
    st.integers(0, 0xFFFF),
    st.integers(0, 15).flatmap(
        lambda at: st.tuples(st.just(at), st.lists(st.booleans(), min_size=1, max_size=16 - at))
    ),
)
def test_coils_are_the_bits_of_control(control: int, written: tuple[int, list[bool]]) -> None:
    at, bits = written
    before = [control, *range(1, N_HOLDING)]
    after = with_coils(before, at, bits)
    assert coils(after) == [*coils(before)[:at], *bits, *coils(before)[at + len(bits) :]]
    assert after[1:] == before[1:]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEADLINE_REASON, Reason.DEADLINE),
        (STOPPED_REASON, Reason.STOPPING),
        ("no image", Reason.NO_IMAGE),
        ("camera gone", Reason.CAMERA_GONE),
        ("aborted", Reason.ABORTED),
        ("stopping", Reason.STOPPING),
        ("id gap", Reason.ID_GAP),
        ("the picture has not changed for 5 s", Reason.FROZEN),
        (f"a damaged picture: {REFERS_TO_DAMAGED}", Reason.LOST_PACKETS),
        ("a damaged picture: part of it was lost on the way", Reason.LOST_PACKETS),
        ("a damaged picture: it cannot be decoded (damaged)", Reason.DAMAGED),
        ("the image's header is damaged (no pixels, or not a JPEG after all)", Reason.DAMAGED),
        ("the image is empty (0 bytes)", Reason.DAMAGED),
        ("this is not an image of a known format (JPEG, PNG)", Reason.DAMAGED),
        ("no patch is foreground: nothing to judge", Reason.OTHER),
        ("fault inside: KeyError: 3", Reason.OTHER),
        (None, Reason.NONE),
    ],
)
def test_each_text_has_its_number(text: str | None, reason: Reason) -> None:
    assert reason_of(text) is reason


def test_every_state_can_be_reached_and_only_the_last_has_no_way_out() -> None:
    assert {row.target for row in TRANSITIONS} == set(State) - {State.PREOPERATIONAL}
    assert set(State) - {row.source for row in TRANSITIONS} == {State.HALTED}
    assert {row.event for row in TRANSITIONS} == set(Event)
    assert len({(row.source, row.event) for row in TRANSITIONS}) == len(TRANSITIONS)
