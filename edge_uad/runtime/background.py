"""A call in a background thread, so that a caller can stop waiting for it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BackgroundCall(Generic[Result]):
    """Starts at once, in a daemon thread: a call that never returns must not keep the process alive.

    Args:
        call: the function to run.
        name: of the thread.
    """

    def __init__(self, call: Callable[[], Result], *, name: str) -> None:
        self._call = call
        self._results: list[Result] = []
        self._faults: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ended(self, wait_s: float = 0.0) -> bool:
        """Whether the call has returned or raised, after waiting for ``wait_s`` seconds at most."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def result(self) -> Result:
        """What the call returned, once it has ended.

        Raises:
            BaseException: whatever the call raised.
        """
        if self._faults:
            raise self._faults[0]
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._call())
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
            self._faults.append(error)
