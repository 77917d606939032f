"""Spread: how work on many items is carried out, one after the other here or on the workers of a cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Spread(Protocol):
    """Does work on many items; their results come in the items' order.

    Args:
        work: depends on its item alone, and can be pickled with all that it holds.
        items: made by the caller's thread, a few ahead at most. What making one raises comes out in its place.
    """

    def __call__(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """The results. One that is an iterator may come as a list, when all of it is there."""


def one_by_one(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """On the caller's thread, each when its result is asked for. Implements Spread."""
    return (work(item) for item in items)
