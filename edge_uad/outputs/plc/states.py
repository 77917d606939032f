"""A station's states and the table of every transition between them; the diagram of docs/plc.md is drawn from it.

``python -m edge_uad.outputs.plc.states`` prints the diagram.
"""

import sys
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from types import MappingProxyType


class State(IntEnum):
    """Numbered as in OPC 40100-1, Machine Vision."""

    PREOPERATIONAL = 1
    """The daemon starts; nothing has been judged yet."""
    HALTED = 2
    """The daemon stops; only a new start leads out of this."""
    ERROR = 3
    """The PLC went silent; ClearError leads out of this."""
    INITIALIZED = 5
    """There is no recipe to judge by."""
    READY = 6
    """A trigger can be taken, where camera, queue and TriggerEnable allow it."""
    SINGLE_EXECUTION = 7
    """A trigger was acknowledged, its result is not there yet."""
    CONTINUOUS_EXECUTION = 8
    """Free run: every frame is judged, without triggers."""

    @property
    def title(self) -> str:
        """``SingleExecution``."""
        return self.name.title().replace("_", "")


class Event(StrEnum):
    """What changes the state."""

    STARTED = "the first inference is done"
    RECIPE_PREPARED = "a recipe is loaded and warmed up"
    RECIPE_WITHDRAWN = "Unprepare, or PrepareRecipe begins"
    TRIGGER_TAKEN = "a trigger is acknowledged"
    RESULT_GIVEN = "its result is given"
    FREE_RUN_BEGUN = "the station runs freely"
    PLC_GONE = "the PLC's heartbeat stands still"
    ERROR_CLEARED = "ClearError"
    STOPPED = "the daemon stops"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table."""

    source: State
    event: Event
    target: State


TRANSITIONS = (
    Transition(State.PREOPERATIONAL, Event.STARTED, State.INITIALIZED),
    Transition(State.INITIALIZED, Event.RECIPE_PREPARED, State.READY),
    Transition(State.READY, Event.RECIPE_WITHDRAWN, State.INITIALIZED),
    Transition(State.READY, Event.TRIGGER_TAKEN, State.SINGLE_EXECUTION),
    # the only way out of it: whatever ends a trigger gives its one result first
    Transition(State.SINGLE_EXECUTION, Event.RESULT_GIVEN, State.READY),
    Transition(State.READY, Event.FREE_RUN_BEGUN, State.CONTINUOUS_EXECUTION),
    Transition(State.CONTINUOUS_EXECUTION, Event.RECIPE_WITHDRAWN, State.INITIALIZED),
    Transition(State.INITIALIZED, Event.PLC_GONE, State.ERROR),
    Transition(State.READY, Event.PLC_GONE, State.ERROR),
    Transition(State.CONTINUOUS_EXECUTION, Event.PLC_GONE, State.ERROR),
    Transition(State.ERROR, Event.ERROR_CLEARED, State.INITIALIZED),
    Transition(State.PREOPERATIONAL, Event.STOPPED, State.HALTED),
    Transition(State.INITIALIZED, Event.STOPPED, State.HALTED),
    Transition(State.READY, Event.STOPPED, State.HALTED),
    Transition(State.CONTINUOUS_EXECUTION, Event.STOPPED, State.HALTED),
    Transition(State.ERROR, Event.STOPPED, State.HALTED),
)
NEXT_STATE = MappingProxyType({(row.source, row.event): row.target for row in TRANSITIONS})
"""The state that follows; an event that is no key here does not occur in that state."""


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    names = [f'  state "{state.value} {state.title}" as s{state.value}' for state in State]
    arrows = [f"  s{row.source.value} --> s{row.target.value}: {row.event}" for row in TRANSITIONS]
    return "\n".join(["stateDiagram-v2", *names, f"  [*] --> s{State.PREOPERATIONAL.value}", *arrows])


if __name__ == "__main__":
    sys.stdout.write(mermaid() + "\n")
