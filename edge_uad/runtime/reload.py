"""A new bank while the line runs: noticed on disk or requested, loaded and verified beside the old one."""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_uad.errors import EdgeUadError
from edge_uad.inference.inspector import Inspector

POLL_EVERY_S = 1.0
STALLED_AFTER_S = 10.0
"""A file system that has not answered for so long is reported."""

log = logging.getLogger("edge_uad.runtime.reload")

FileMark = tuple[int, int, int]
"""Inode, time of change in ns, size: a file that was replaced or written again differs in one of them."""


def file_mark(path: Path) -> FileMark | None:
    """The mark of a file, following links as the reader does; None where there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116  # the plain call, and its only exception
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBank:
    """The outcome of reading a bank file again."""

    path: Path
    inspector: Inspector | None
    """None where the file was refused."""
    refused: str | None
    """Why."""


class BankReloader:
    """Polls bank files and loads those that changed, in its own thread: a file system that hangs stops nothing else.

    A file that changed is loaded once it is the same in two polls, since copying takes its time.

    Args:
        paths: the files, loaded already by the caller.
        load: reads and verifies one.
        poll_every_s: between two polls.
        mark_of: what a changed file differs in.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        load: Callable[[Path], Inspector],
        poll_every_s: float = POLL_EVERY_S,
        mark_of: Callable[[Path], FileMark | None] = file_mark,
    ) -> None:
        self._load = load
        self._poll_every_s = poll_every_s
        self._mark_of = mark_of
        self._loaded = {path: mark_of(path) for path in paths}
        self._seen = dict(self._loaded)
        self._to_load: list[Path] = []
        self._requested = threading.Event()
        self._wake = threading.Event()
        self._stop = False
        self._results: queue.SimpleQueue[NewBank] = queue.SimpleQueue()
        self._on_result: Callable[[], None] = lambda: None
        self._busy_since_s: float | None = None
        # a daemon thread: a dead mount must not keep the process alive
        self._thread = threading.Thread(target=self._run, name="bank reload", daemon=True)

    def start(self, *, on_result: Callable[[], None]) -> None:
        """Begin to poll.

        Args:
            on_result: called from the polling thread when ``result`` has something to give.
        """
        self._on_result = on_result
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present call. Never waits."""
        self._stop = True
        self._wake.set()

    def request(self) -> None:
        """Have every file read again, changed or not. Never waits."""
        self._requested.set()
        self._wake.set()

    def result(self) -> NewBank | None:
        """The next bank that was loaded or refused, once; None where there is none. Never waits."""
        try:
            return self._results.get_nowait()
        except queue.Empty:
            return None

    def stalled_s(self) -> float:
        """How long the present poll has taken, beyond what is normal; 0 where the files answer."""
        since_s = self._busy_since_s
        busy_s = 0.0 if since_s is None else time.monotonic() - since_s
        return busy_s if busy_s > STALLED_AFTER_S else 0.0

    def poll(self) -> None:
        """Compare the files with their former marks and load those that changed or were requested."""
        if self._requested.is_set():
            self._requested.clear()
            self._to_load = list(self._loaded)
        for path, loaded in self._loaded.items():
            mark = self._mark_of(path)
            settled = mark == self._seen[path]
            self._seen[path] = mark
            # a file that is gone is about to be replaced
            if settled and mark not in (None, loaded) and path not in self._to_load:
                self._to_load.append(path)
        while self._to_load:
            path = self._to_load.pop(0)
            self._loaded[path] = self._seen[path] = self._mark_of(
                path
            )  # before reading: what is written meanwhile is new
            self._results.put(self._read(path))
            self._on_result()

    def _run(self) -> None:
        while not self._stop:
            self._busy_since_s = time.monotonic()
            try:
                self.poll()
            except Exception:  # this thread's boundary: polling goes on, whatever one poll met
                log.exception("the bank files could not be polled")
            self._busy_since_s = None
            self._wake.wait(self._poll_every_s)
            self._wake.clear()

    def _read(self, path: Path) -> NewBank:
        try:
            return NewBank(path=path, inspector=self._load(path), refused=None)
        except EdgeUadError as error:
            return NewBank(path=path, inspector=None, refused=str(error))
        except Exception as error:  # this thread's boundary: a bank that cannot be read must not end the line
            log.exception("fault inside while %s was read", path)
            return NewBank(path=path, inspector=None, refused=f"fault inside: {type(error).__name__}: {error}")
