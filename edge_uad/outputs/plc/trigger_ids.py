"""Which TriggerIds were taken, and which verdicts are still to come for triggers that have their result already."""

from collections import OrderedDict

from edge_uad.records import Trigger

REMEMBERED = 64


class TriggerIds:
    """The newest triggers since TriggerEnable rose, so that one sent again is not judged again."""

    def __init__(self) -> None:
        self._taken: OrderedDict[int, str | None] = OrderedDict()
        self._owed: OrderedDict[int, None] = OrderedDict()

    def begin_anew(self) -> None:
        """The PLC begins anew: its ids mean other parts from now on."""
        self._taken.clear()

    def add(self, trigger: Trigger) -> None:
        """A trigger was taken."""
        self._taken[trigger.trigger_id] = trigger.part_id
        while len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)

    def repeats(self, trigger_id: int, part_id: str | None) -> bool:
        """The same id for the same part was taken before."""
        return trigger_id in self._taken and self._taken[trigger_id] == part_id

    def occupied(self, trigger_id: int) -> bool:
        """The id means another part, or a verdict that bears it is still to come and would be taken for this one's."""
        return trigger_id in self._taken or trigger_id in self._owed

    def owe(self, trigger_id: int) -> None:
        """The trigger was given a result before its verdict came."""
        self._owed[trigger_id] = None
        while len(self._owed) > REMEMBERED:
            self._owed.popitem(last=False)

    def settle(self, trigger_id: int) -> bool:
        """A verdict came; whether it is one that is too late to be a result."""
        if trigger_id not in self._owed:
            return False
        del self._owed[trigger_id]
        return True
