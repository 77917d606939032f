"""Paths as people write them: the one place that expands ``~`` and refuses what cannot be a path."""

import os
from pathlib import Path

from edge_uad.errors import UsageError


def expand_user(path: str | Path) -> Path:
    """The path with a leading ``~`` or ``~user`` replaced by that user's home folder.

    Raises:
        UsageError: it is empty, holds a NUL character, or the home folder is unknown.
    """
    text = os.fspath(path)
    if not text:
        raise UsageError("a path is empty; name a file or a folder")
    if "\0" in text:
        raise UsageError(f"{text}: a path cannot hold a NUL character; write it without")
    if not text.startswith("~"):
        return Path(text)
    user = text.partition("/")[0]
    # a file may be called so, and a shell hands its name over as it is
    if user != "~" and os.path.lexists(text):
        return Path(text)
    expanded = os.path.expanduser(text)  # noqa: PTH111  # Path("./~") is Path("~")
    if expanded.startswith("~"):
        raise UsageError(f"{text}: the home folder {user} is not known on this machine; write the folder's full path")
    return Path(expanded)
