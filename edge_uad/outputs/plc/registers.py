"""The register map: the one table that encoding, decoding, docs/plc.md and docs/plc-map.csv are made from.

A UINT32 has its high word first; a text has two characters a register, the first in the high byte.

``python -m edge_uad.outputs.plc.registers`` prints the tables as Markdown, with ``--csv`` as CSV.
"""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from edge_uad.outputs.plc.process_image import MAX_PART_ID_BYTES, Inputs, Outputs
from edge_uad.outputs.plc.results import Result
from edge_uad.records import Decision

MAP_VERSION = 1
MIRROR_ADDRESS = 1000
"""Holding registers from here on are the input registers again."""
SCORE_SCALE = 10_000
MAX_UINT16 = 0xFFFF
_CODING = "latin-1"
"""Every byte that a PLC writes comes back as it was."""

Kind = Literal["BITS", "UINT16", "UINT32", "TEXT"]
_TEXT_REGISTERS = MAX_PART_ID_BYTES // 2
_WIDTHS: Final[dict[Kind, int]] = {"BITS": 1, "UINT16": 1, "UINT32": 2, "TEXT": _TEXT_REGISTERS}
_DECISIONS: Final = {Decision.NORMAL: 1, Decision.ANOMALOUS: 2, Decision.INVALID: 3}


@dataclass(frozen=True, slots=True)
class Register:
    """One entry of the map: a value of one or several registers."""

    name: str
    address: int
    kind: Kind
    meaning: str
    bits: tuple[str, ...] = ()
    """Names of the bits, from bit 0 on, where it holds bits."""

    @property
    def width(self) -> int:
        """In registers."""
        return _WIDTHS[self.kind]

    @property
    def place(self) -> str:
        """``8`` or ``8–9``."""
        return f"{self.address}" if self.width == 1 else f"{self.address}–{self.address + self.width - 1}"


CONTROL_BITS = ("TriggerEnable", "Trigger", "ResultAck", "ExecuteCommand", "ClearError", "BufferResults")
_STATUS_FIELDS: Final = {
    "Online": "online",
    "TriggerReady": "trigger_ready",
    "TriggerAck": "trigger_ack",
    "Acquiring": "acquiring",
    "Busy": "busy",
    "ResultValid": "result_valid",
    "MissedTrigger": "missed_trigger",
    "ResultOverrun": "result_overrun",
    "CommandExecuting": "command_executing",
    "CommandCompleted": "command_completed",
    "CommandFailed": "command_failed",
    "Error": "error",
    "CameraOk": "camera_ok",
    "ArchiveFault": "archive_fault",
    "DriftWarning": "drift_warning",
    "LocalControl": "local_control",
}
STATUS_BITS = tuple(_STATUS_FIELDS)
RESULT_BITS = ("Pass", "Reject", "Invalid")

HOLDING = (
    Register("Control", 0, "BITS", "the bits below", CONTROL_BITS),
    Register("PlcHeartbeat", 1, "UINT16", "any change; watched from its first movement on, gone after 2 s without"),
    Register("TriggerId", 2, "UINT32", "chosen by the PLC, another one for each part, not 0"),
    Register("Command", 4, "UINT16", "1 PrepareRecipe, 2 Unprepare, 3 Abort, 4 reset counters and queues"),
    Register("CommandRecipeId", 5, "UINT16", "for PrepareRecipe, not 0"),
    Register("PartIdLength", 6, "UINT16", f"bytes of PartId, at most {MAX_PART_ID_BYTES}; 0: none"),
    Register("PartId", 7, "TEXT", "the line's own name for the part; ends at a 0 byte, too"),
)
"""Written by the PLC."""
INPUT = (
    Register("MapVersion", 0, "UINT16", f"{MAP_VERSION}"),
    Register("Heartbeat", 1, "UINT16", "+1 every 100 ms while the judge's watchdog is fed"),
    Register("Status", 2, "BITS", "the bits below", STATUS_BITS),
    Register("State", 3, "UINT16", "number of the state, as in OPC 40100-1"),
    Register("ErrorCode", 4, "UINT16", "see the table of error codes; ClearError sets it to 0"),
    Register("RecipeId", 5, "UINT16", "of the recipe that is judged by; 0: none"),
    Register("SequenceNo", 6, "UINT32", "+1 per result, never 0; starts at random"),
    Register("ResultTriggerId", 8, "UINT32", "of the result; 0 in free run and without ResultValid"),
    Register("Decision", 10, "UINT16", "0 none, 1 normal, 2 anomalous, 3 invalid"),
    Register("Result", 11, "BITS", "the bits below: 01 pass, 10 reject; 00 and 11 mean reject", RESULT_BITS),
    Register("Reason", 12, "UINT16", "why invalid, see the table of reasons"),
    Register("Score", 13, "UINT16", f"anomaly score × {SCORE_SCALE}; {MAX_UINT16}: more"),
    Register("Threshold", 14, "UINT16", f"threshold × {SCORE_SCALE}; {MAX_UINT16}: more"),
    Register("PeakX", 15, "UINT16", f"of the highest heat, in image pixels; {MAX_UINT16}: none"),
    Register("PeakY", 16, "UINT16", f"the same; {MAX_UINT16}: none"),
    Register("LatencyMs", 17, "UINT16", f"from the frame to its verdict; {MAX_UINT16}: more"),
    Register("Judged", 18, "UINT32", "results given since the start or the last reset, invalid ones among them"),
    Register("Anomalous", 20, "UINT32", "of these"),
    Register("Invalid", 22, "UINT32", "of these"),
    Register("Missed", 24, "UINT32", "edges of Trigger that were not acknowledged"),
    Register("ResultPartIdLength", 26, "UINT16", "bytes of ResultPartId"),
    Register("ResultPartId", 27, "TEXT", "the PartId that came with the trigger; in free run that of the frame"),
    Register("SequenceNoCheck", 43, "UINT16", "low word of SequenceNo again: unequal to register 7, read again"),
)
"""Read by the PLC."""
N_HOLDING = HOLDING[-1].address + HOLDING[-1].width
N_INPUT = INPUT[-1].address + INPUT[-1].width
N_COILS = 16
N_DISCRETE = 19
_INPUT_AT: Final = {one.name: one for one in INPUT}
_HOLDING_AT: Final = {one.name: one for one in HOLDING}


def decode_inputs(words: Sequence[int]) -> Inputs:
    """What the PLC wrote.

    Args:
        words: all holding registers, 0 to 65535 each.
    """
    control = words[_HOLDING_AT["Control"].address]
    bits = {name: bool(control >> number & 1) for number, name in enumerate(CONTROL_BITS)}
    length = words[_HOLDING_AT["PartIdLength"].address]
    return Inputs(
        trigger_enable=bits["TriggerEnable"],
        trigger=bits["Trigger"],
        result_ack=bits["ResultAck"],
        execute_command=bits["ExecuteCommand"],
        clear_error=bits["ClearError"],
        buffer_results=bits["BufferResults"],
        heartbeat=words[_HOLDING_AT["PlcHeartbeat"].address],
        trigger_id=_uint32(words, _HOLDING_AT["TriggerId"]),
        command=words[_HOLDING_AT["Command"].address],
        recipe_id=words[_HOLDING_AT["CommandRecipeId"].address],
        part_id=_text(words, _HOLDING_AT["PartId"], length) if length <= MAX_PART_ID_BYTES else None,
        part_id_too_long=length > MAX_PART_ID_BYTES,
    )


def encode_outputs(outputs: Outputs) -> list[int]:
    """All input registers."""
    status = sum(getattr(outputs, field) << number for number, field in enumerate(_STATUS_FIELDS.values()))
    values: dict[str, int | str] = {
        "MapVersion": MAP_VERSION,
        "Heartbeat": outputs.heartbeat,
        "Status": status,
        "State": outputs.state,
        "ErrorCode": outputs.error_code,
        "RecipeId": outputs.recipe_id,
        "SequenceNo": outputs.sequence,
        "Judged": outputs.judged,
        "Anomalous": outputs.anomalous,
        "Invalid": outputs.invalid,
        "Missed": outputs.missed,
        "SequenceNoCheck": outputs.sequence & MAX_UINT16,
    }
    if outputs.result is not None:
        values |= _result_values(outputs.result)
    words = [0] * N_INPUT
    for name, value in values.items():
        _store(words, _INPUT_AT[name], value)
    return words


def coils(holding: Sequence[int]) -> list[bool]:
    """The bits of Control."""
    return [bool(holding[0] >> number & 1) for number in range(N_COILS)]


def with_coils(holding: Sequence[int], address: int, values: Sequence[bool]) -> list[int]:
    """The holding registers after bits of Control were written."""
    control = holding[0]
    for number, value in enumerate(values, address):
        control = control | 1 << number if value else control & ~(1 << number)
    return [control, *holding[1:]]


def discrete_inputs(words: Sequence[int]) -> list[bool]:
    """The bits of Status, then those of Result."""
    status, result = words[_INPUT_AT["Status"].address], words[_INPUT_AT["Result"].address]
    return [bool((status | result << len(STATUS_BITS)) >> number & 1) for number in range(N_DISCRETE)]


def _result_values(result: Result) -> dict[str, int | str]:
    part_id = _cut(result.part_id)
    x, y = result.peak or (MAX_UINT16, MAX_UINT16)
    return {
        "ResultTriggerId": result.trigger_id,
        "Decision": _DECISIONS[result.decision],
        "Result": result.is_pass << 0 | (not result.is_pass) << 1 | (result.decision is Decision.INVALID) << 2,
        "Reason": result.reason,
        "Score": _scaled(result.score),
        "Threshold": _scaled(result.threshold),
        "PeakX": _clipped(x),
        "PeakY": _clipped(y),
        "LatencyMs": _clipped(result.latency_ms),
        "ResultPartIdLength": len(part_id),
        "ResultPartId": part_id,
    }


def _cut(part_id: str | None) -> str:
    """As many characters as there is room for; those that one byte does not hold become question marks."""
    return (part_id or "").encode(_CODING, "replace")[:MAX_PART_ID_BYTES].decode(_CODING)


def _scaled(value: float | None) -> int:
    return 0 if value is None else _clipped(round(value * SCORE_SCALE))


def _clipped(value: float) -> int:
    return int(min(max(value, 0), MAX_UINT16))


def _uint32(words: Sequence[int], register: Register) -> int:
    return words[register.address] << 16 | words[register.address + 1]


def _text(words: Sequence[int], register: Register, length: int) -> str | None:
    stored = b"".join(word.to_bytes(2, "big") for word in words[register.address : register.address + register.width])
    return stored[:length].partition(b"\0")[0].decode(_CODING) or None


def _store(words: list[int], register: Register, value: int | str) -> None:
    if isinstance(value, str):
        padded = value.encode(_CODING).ljust(2 * register.width, b"\0")
        stored = [int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2)]
    elif register.width == 2:
        stored = [value >> 16, value & MAX_UINT16]
    else:
        stored = [value]
    words[register.address : register.address + register.width] = stored


def markdown(registers: Sequence[Register]) -> str:
    """A table for docs/plc.md."""
    rows = ["| register | name | type | content |", "|---|---|---|---|"]
    for one in registers:
        meaning = one.meaning
        if one.bits:
            meaning += ": " + ", ".join(f"{number} {name}" for number, name in enumerate(one.bits))
        rows.append(f"| {one.place} | {one.name} | {one.kind} | {meaning} |")
    return "\n".join(rows)


def csv_text() -> str:
    """The whole map for import into a PLC's engineering tool: one line a value, bits on lines of their own."""
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(("area", "address", "bit", "registers", "type", "access", "name", "content"))
    for area, access, registers in (("holding", "read/write", HOLDING), ("input", "read", INPUT)):
        for one in registers:
            table.writerow((area, one.address, "", one.width, one.kind, access, one.name, one.meaning))
            table.writerows(
                (area, one.address, number, "", "BOOL", access, name, "") for number, name in enumerate(one.bits)
            )
    mirrored = (replace(one, address=one.address + MIRROR_ADDRESS) for one in INPUT)
    for one in mirrored:
        table.writerow(("holding", one.address, "", one.width, one.kind, "read", f"{one.name}Mirror", one.meaning))
    single_bits = (("coil", "read/write", CONTROL_BITS), ("discrete input", "read", (*STATUS_BITS, *RESULT_BITS)))
    for area, access, names in single_bits:
        table.writerows((area, number, "", "", "BOOL", access, name, "") for number, name in enumerate(names))
    return written.getvalue()


if __name__ == "__main__":
    if "--csv" in sys.argv[1:]:
        sys.stdout.write(csv_text())
    else:
        sys.stdout.write(f"{markdown(HOLDING)}\n\n{markdown(INPUT)}\n")
