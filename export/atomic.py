"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; moved into its place at the end, gone if anything is raised.

    The name ends as the target's does, so that it can be opened by its kind before it appears.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
    try:
        yield beside
        sync(beside)
        os.replace(beside, target)  # noqa: PTH105  # os.replace is the documented atomic one
        sync(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
