"""Work on many items, several at a time, its results in the items' order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], *, workers: int) -> Iterator[Result]:
    """The results of ``work`` for each item, computed in worker threads while the caller's thread makes the next items.

    What making an item or the work on it raises comes out in its place. A generator left early is closed, its threads
    ended.

    Args:
        work: called by several threads at once, where there are several.
        items: used by the caller's thread alone.
        workers: threads. One item more than these is under way, so that none of them waits for the next.
    """
    iterator = iter(items)
    under_way: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="in-order") as pool:
            try:
                while (future := _submitted(work, iterator, pool)) is not None:
                    under_way.append(future)
                    if len(under_way) > workers:
                        yield under_way.popleft().result()
                while under_way:
                    yield under_way.popleft().result()
            finally:
                for future in under_way:
                    future.cancel()
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def _submitted(work: Callable[[Item], Result], iterator: Iterator[Item], pool: Executor) -> Future[Result] | None:
    """The work on the next item; None where there is none. An item that cannot be made is work that fails."""
    try:
        item = next(iterator)
    except StopIteration:
        return None
    except Exception as error:  # noqa: BLE001  (raised again where its result is read)
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed
    return pool.submit(work, item)
