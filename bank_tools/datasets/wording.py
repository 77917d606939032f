"""Names and numbers as warnings show them."""

import os
from collections.abc import Sequence


def valid_utf8(name: str) -> str:
    """The text of a path, bytes that are not UTF-8 replaced by U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def counted(things: Sequence[object], noun: str) -> str:
    """``1 mask``, ``3 masks``."""
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def listed(names: Sequence[str], at_most: int = 4) -> str:
    """The first few names, and that there are more."""
    return ", ".join(names[:at_most]) + (", …" if len(names) > at_most else "")
