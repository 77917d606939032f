"""What every argument of every command is held to: ``~`` expanded, files that are files, numbers that are numbers."""

import functools
import inspect
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from typer.models import OptionInfo

from edge_uad.errors import UsageError
from edge_uad.files import OPEN_DESCRIPTORS
from edge_uad.paths import expand_user

MAX_NUMBER = 2**31 - 1
"""No option has a use for more, and libraries fail at it in ways of their own."""
_SPECIAL_KINDS = (
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISSOCK, "socket"),
)


def with_checked_arguments(command: Callable[..., None], *, look_at_files: bool = True) -> Callable[..., None]:
    """The command, called with every Path expanded by :func:`edge_uad.paths.expand_user` and every number checked.

    Args:
        command: called by typer; it keeps its signature and help.
        look_at_files: refuse pipes, devices and sockets (reading one may never end, and replacing one destroys it),
            and paths that the file system refuses. False where the main thread may not wait for a file system.
    """
    parameters = inspect.signature(command).parameters

    @functools.wraps(command)
    def run(**options: Any) -> None:
        checked = {}
        for name, value in options.items():
            _check_number(value, parameters[name])
            checked[name] = _expanded(value, look_at_files=look_at_files)
        command(**checked)

    return run


def _check_number(value: Any, parameter: inspect.Parameter) -> None:
    if isinstance(value, int | float) and (not math.isfinite(value) or abs(value) > MAX_NUMBER):
        raise UsageError(f"{_option(parameter)} is {value}; give a number up to {MAX_NUMBER}")


def _option(parameter: inspect.Parameter) -> str:
    """As it is written on the command line; ``typer.Option("--name", …)`` takes the first word for the default."""
    for info in get_args(parameter.annotation):
        if isinstance(info, OptionInfo):
            words = (word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str))
            return next(words, parameter.name)
    return parameter.name


def _expanded(value: Any, *, look_at_files: bool) -> Any:
    if isinstance(value, list):
        return [_expanded(one, look_at_files=look_at_files) for one in value]
    if not isinstance(value, Path):
        return value
    path = expand_user(value)
    if look_at_files:
        _refuse_special(path)
    return path


def _refuse_special(path: Path) -> None:
    """Raise UsageError for a pipe, a device or a socket.

    Raises:
        OSError: the file system refuses the path; that nothing is there is no error here.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return  # the command reports what it misses, or creates it
    if stat.S_ISFIFO(mode) and str(path).startswith(OPEN_DESCRIPTORS):
        return
    for is_kind, kind in _SPECIAL_KINDS:
        if is_kind(mode):
            raise UsageError(f"{path} is a {kind}; name a regular file or a folder")
