"""Runs a command of the command line in this process: every failure ends in one sentence and a documented exit code."""

import _thread
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import typer
import typer.main

from edge_uad.__main__ import INTERRUPTED_EXIT_CODE
from edge_uad._packages import own_packages
from edge_uad.cli import app
from edge_uad.cli.console import debugging, print_error
from edge_uad.cli.streams import (
    OutputClosedError,
    OutputError,
    drop_standard_output,
    flush_standard_output,
    guard_standard_streams,
)
from edge_uad.errors import EdgeUadError, UsageError

PROGRAM = "edge-uad"
CRASH_EXIT_CODE = 1
OUTPUT_CLOSED_EXIT_CODE = 141
"""128 + SIGPIPE, as shells report it."""
USAGE_EXIT_CODE = UsageError.exit_code

_ClickException: type[Any] = typer.BadParameter.__mro__[2]
"""The root of what click raises for a wrong command line; typer has a click of its own, or not, by its version."""

_PATH_REMEDIES = {
    errno.EACCES: "check the permissions, or run as a user who has them",
    errno.EPERM: "check the permissions, or run as a user who has them",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another, or move it away",
    errno.ENOTEMPTY: "name another, or move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "check the links: they lead in a circle",
    errno.ENXIO: "name a regular file",
    errno.ENODEV: "name a regular file",
    errno.ESPIPE: "name a regular file",
}
"""What is wrong with a path, and so with the command; any other error of the system is not the command's fault."""
_SYSTEM_REMEDIES = {
    errno.ENOSPC: "free the disk",
    errno.EDQUOT: "free the disk, or raise the quota",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs, or use a machine with more memory",
    errno.EIO: "check the disk",
}


class _Interrupts:
    """Ctrl-C as KeyboardInterrupt, and whether it came: libraries turn the exception into others."""

    def __init__(self) -> None:
        self.received = False

    def handle(self, _number: int, _frame: FrameType | None) -> NoReturn:
        self.received = True
        raise KeyboardInterrupt


def run(arguments: Sequence[str], *, interruptible: bool = True) -> int:
    """Run ``edge-uad`` with these arguments, as the only command of this process.

    Args:
        arguments: without the program's name.
        interruptible: Ctrl-C interrupts the command; False where the process ignores it.

    Returns:
        The exit code.
    """
    guard_standard_streams()
    _report_lost_errors()
    interrupts = _Interrupts()
    if interruptible:
        signal.signal(signal.SIGINT, interrupts.handle)
    return exit_code_of(arguments, interrupts)


def exit_code_of(arguments: Sequence[str], interrupts: "_Interrupts | None" = None) -> int:
    """Run a command; changes nothing of the process, so that several may be run in one."""
    try:
        code = _run(arguments)
        flush_standard_output()
    except BaseException as error:  # noqa: BLE001  # the process's boundary: it ends in an exit code
        try:
            return _explain(error, arguments, interrupted=interrupts is not None and interrupts.received)
        except KeyboardInterrupt:
            return INTERRUPTED_EXIT_CODE
    return code


def _run(arguments: Sequence[str]) -> int:
    own_packages()
    _refuse_empty(arguments)
    command = typer.main.get_command(app)
    code = command.main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
    return code if isinstance(code, int) else 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raise UsageError for an empty argument: as a path it would mean the working directory."""
    for number, argument in enumerate(arguments, 1):
        option, equals, value = argument.partition("=")
        if not argument or (equals and not value and option.startswith("--")):
            named = f"the value of {option}" if option else f"argument {number}"
            raise UsageError(f"{named} is empty; leave it out, and check the variables of the command")


def _explain(error: BaseException, arguments: Sequence[str], *, interrupted: bool) -> int:
    """Print the sentence and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else CRASH_EXIT_CODE
    if isinstance(error, OutputClosedError):
        drop_standard_output()
        return OUTPUT_CLOSED_EXIT_CODE
    if isinstance(error, OutputError):
        drop_standard_output()
    if interrupted or isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED_EXIT_CODE
    if debugging():
        traceback.print_exception(error)
    sentence, code = _sentence_of(error, " ".join((PROGRAM, *arguments[:1])))
    print_error(sentence)
    return code


def _sentence_of(error: BaseException, command: str) -> tuple[str, int]:
    match error:
        case EdgeUadError():
            return str(error), error.exit_code
        case OSError():
            return _of_system(error, command)
        case UnicodeEncodeError() | UnicodeDecodeError():
            return _of_encoding(error), USAGE_EXIT_CODE
        case MemoryError():
            sentence = f"{command} needs more memory than there is; close other programs, or give it less"
        case _ if isinstance(error, _ClickException):
            return _of_command_line(error, command), error.exit_code
        case _:
            sentence = (
                f"{command} failed by a fault of its own ({type(error).__name__}: {_one_line(error)}); "
                "set EDGE_UAD_DEBUG=1 for the traceback, and report it"
            )
    return sentence, CRASH_EXIT_CODE


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def _of_encoding(error: UnicodeEncodeError | UnicodeDecodeError) -> str:
    wrong = error.object[error.start : error.end]
    return f"{wrong!r} in {error.object!r} is not {error.encoding}; rename the file, or change the text"


def _of_command_line(error: Any, command: str) -> str:
    context = getattr(error, "ctx", None)
    path = command if context is None else context.command_path
    return f"{error.format_message().rstrip('.')}; see {path} --help"


def _of_system(error: OSError, command: str) -> tuple[str, int]:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    subject = " → ".join(names) or command
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    if names and error.errno in _PATH_REMEDIES:
        return f"{subject}: {reason}; {_PATH_REMEDIES[error.errno]}", USAGE_EXIT_CODE
    remedy = _SYSTEM_REMEDIES.get(error.errno or 0, "set EDGE_UAD_DEBUG=1 for where it happened")
    return f"{subject}: {reason}; {remedy}", CRASH_EXIT_CODE


def _report_lost_errors() -> None:
    """One line, and no traceback, for errors that the interpreter prints by itself: in threads and in destructors."""

    def in_thread(lost: threading.ExceptHookArgs) -> None:
        if not issubclass(lost.exc_type, SystemExit):
            name = lost.thread.name if lost.thread else "?"
            _print_lost(f"thread {name}", lost.exc_value)

    def in_destructor(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _thread.interrupt_main()  # the interpreter dropped it inside a callback: once more
        else:
            _print_lost("clean-up", lost.exc_value)

    threading.excepthook = in_thread
    sys.unraisablehook = in_destructor


def _print_lost(where: str, error: BaseException | None) -> None:
    if debugging() and error is not None:
        traceback.print_exception(error)
    print_error(f"{where}: {type(error).__name__}: {_one_line(error)}")
