"""What a PLC writes to a station and reads from it, whatever the protocol: the two halves of the process image."""

from dataclasses import dataclass
from enum import IntEnum

from edge_uad.outputs.plc.results import Result
from edge_uad.outputs.plc.states import State

MAX_PART_ID_BYTES = 32


class Command(IntEnum):
    """What ExecuteCommand carries out."""

    PREPARE_RECIPE = 1
    UNPREPARE = 2
    ABORT = 3
    RESET = 4


class ErrorCode(IntEnum):
    """Why the Error bit is set, or what was refused last; ClearError sets it to 0."""

    NONE = 0
    """Nothing is wrong."""
    PLC_GONE = 1
    """The PLC's heartbeat moved once and then stood still for 2 s; state 3 until ClearError."""
    RECIPE_FAILED = 2
    """The recipe could not be prepared; there is none now."""
    COMMAND_UNKNOWN = 3
    """There is no command of that number."""
    COMMAND_NOT_ALLOWED = 4
    """The command cannot be carried out in this state, or another one is being carried out."""
    TRIGGER_NOT_READY = 10
    """An edge of Trigger while TriggerReady was 0."""
    TRIGGER_ID_ZERO = 11
    """An edge of Trigger with TriggerId 0."""
    PART_ID_TOO_LONG = 12
    """An edge of Trigger with a PartId length above 32."""
    TRIGGER_ID_REUSED = 13
    """TriggerId belongs to another part whose result is not acknowledged, or is still to come from the judge."""
    TRIGGER_NOT_TAKEN = 14
    """The station had no room for the trigger."""
    TRIGGER_ID_REPEATED = 15
    """TriggerId was taken before: acknowledged, not judged again, and no new result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the PLC writes, taken as a whole."""

    trigger_enable: bool = False
    trigger: bool = False
    result_ack: bool = False
    execute_command: bool = False
    clear_error: bool = False
    buffer_results: bool = False
    heartbeat: int = 0
    """Any change counts."""
    trigger_id: int = 0
    command: int = 0
    recipe_id: int = 0
    part_id: str | None = None
    part_id_too_long: bool = False
    """Its length is above what there is room for; ``part_id`` is None then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the PLC reads, at one moment."""

    heartbeat: int
    online: bool
    trigger_ready: bool
    trigger_ack: bool
    acquiring: bool
    busy: bool
    result_valid: bool
    missed_trigger: bool
    result_overrun: bool
    command_executing: bool
    command_completed: bool
    command_failed: bool
    error: bool
    camera_ok: bool
    archive_fault: bool
    drift_warning: bool
    local_control: bool
    state: State
    error_code: ErrorCode
    recipe_id: int
    """0: none."""
    sequence: int
    """Of the result shown now or last; a random number before the first."""
    result: Result | None
    """None where ``result_valid`` is False."""
    judged: int
    """Results given since the start or the last reset, invalid ones among them."""
    anomalous: int
    invalid: int
    missed: int
    """Edges of Trigger that were not acknowledged."""
