"""A new bank while the line runs: seen on disk, or asked for; loaded and verified beside the old one."""

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

LOOK_EVERY_S = 1.0

log = logging.getLogger("edge_uad.runtime.reload")

_Mark = tuple[int, int, int]
"""Inode, time of change in ns, size: what a file that was replaced or written again differs in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBank:
    """What came of a bank file that was read again."""

    path: Path
    inspector: Inspector | None
    """None where the file was refused."""
    refused: str | None
    """Why."""


class BankReloader:
    """Looks at bank files and loads those that changed, one at a time, in a thread that ends with the loading.

    A file that changed is loaded once it has stayed the same from one look to the next: a copy takes its time.

    Args:
        paths: the files, loaded already by whoever made this.
        load: reads and verifies one.
        wake: called, from the loading thread, when there is something to take.
        look_every_s: between two looks at the disk.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        load: Callable[[Path], Inspector],
        wake: Callable[[], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._load = load
        self._wake = wake
        self._look_every_s = look_every_s
        self._look_due_s = 0.0
        self._loaded = {path: _mark(path) for path in paths}
        self._seen = dict(self._loaded)
        self._asked: list[Path] = []
        self._loading: threading.Thread | None = None
        self._done: queue.SimpleQueue[NewBank] = queue.SimpleQueue()

    def ask(self) -> None:
        """Read every file again, changed or not."""
        self._asked = list(self._loaded)

    def look(self) -> None:
        """See what changed, at a bounded rate, and begin to load it. Never waits."""
        if time.monotonic() >= self._look_due_s:
            self._look_due_s = time.monotonic() + self._look_every_s
            for path, loaded in self._loaded.items():
                mark = _mark(path)
                settled = mark == self._seen[path]
                self._seen[path] = mark
                # a file that is gone is on its way to be replaced
                if settled and mark not in (None, loaded) and path not in self._asked:
                    self._asked.append(path)
        if self._asked and (self._loading is None or not self._loading.is_alive()):
            path = self._asked.pop(0)
            self._loaded[path] = self._seen[path] = _mark(path)  # before reading: what is written meanwhile is new
            self._loading = threading.Thread(target=self._read, args=(path,), name="bank", daemon=True)
            self._loading.start()

    def take(self) -> NewBank | None:
        """What was loaded or refused, once. Never waits."""
        try:
            return self._done.get_nowait()
        except queue.Empty:
            return None

    def _read(self, path: Path) -> None:
        try:
            new = NewBank(path=path, inspector=self._load(path), refused=None)
        except EdgeUadError as error:
            new = NewBank(path=path, inspector=None, refused=str(error))
        except Exception as error:  # this thread's boundary: a bank that cannot be read must not end the line
            log.exception("fault inside while %s was read", path)
            new = NewBank(path=path, inspector=None, refused=f"fault inside: {type(error).__name__}: {error}")
        self._done.put(new)
        self._wake()


def _mark(path: Path) -> _Mark | None:
    """None where there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116  # follows links, as the reader does
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
