"""One process at a time."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge_uad.errors import WeightsError

LOCK_TIMEOUT_S = 1800.0
_POLL_S = 0.2


@contextmanager
def only_one_process(folder: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold a folder's lock. The kernel lets go of it when the process ends, however it ends.

    Raises:
        WeightsError: the folder cannot be made, or another process holds it all this time.
    """
    deadline = time.monotonic() + timeout_s
    with _lock_file(folder) as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise WeightsError(
                        f"another process has been at work in {folder} for {timeout_s:.0f} s; end it and try again"
                    ) from error
                time.sleep(_POLL_S)
        yield


def _lock_file(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("wb")
    except OSError as error:
        raise WeightsError(
            f"the cache folder {folder} cannot be used: {error.strerror}; set EDGE_UAD_CACHE to another one"
        ) from error
