"""How long work reports its progress: the command line draws it, the Python API and tests draw nothing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Shows the steps of long work, one after the other."""

    def step(self, label: str, total: int | None, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a step; the callable returned takes how many units were done since its last call.

        Args:
            label: what is being done.
            total: how many units there are; None where it is not known beforehand.
            unit: what is counted, in the plural.
        """


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def step(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:  # noqa: ARG002  # the protocol's
        """Count into the void."""
        yield lambda done: None  # noqa: ARG005  # as above
