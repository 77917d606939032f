"""The next items made while the present one is worked on."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def ahead(items: Iterable[Item], *, depth: int = 2) -> Iterator[Item]:
    """The same items in the same order, made by a thread of its own.

    What making an item raises comes out in its place. A generator left early is closed, its thread ended.

    Args:
        items: used by one thread at a time.
        depth: so many are made before they are asked for, and no more.
    """
    iterator = iter(items)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker:
            waiting = deque(maker.submit(next, iterator, _END) for _ in range(depth))
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(maker.submit(next, iterator, _END))
                yield item  # type: ignore[misc]  # next gives an item or _END, and _END it is not
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
