"""``edge-uad`` and ``python -m edge_uad``: the process's entry, which can be interrupted from its first moment."""

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED_EXIT_CODE = 130
"""128 + SIGINT, as shells report it."""


def main() -> NoReturn:
    """Run the command of ``sys.argv`` and exit.

    While modules are imported, and after the command has ended, Ctrl-C ends the process at once: an exception inside
    an import or at the interpreter's end is printed as a traceback, or lost.
    """
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as under nohup
    if interruptible:
        signal.signal(signal.SIGINT, _exit_at_once)
    from edge_uad.cli.run import run  # noqa: PLC0415  # takes its time, and may be interrupted from here on

    code = run(sys.argv[1:], interruptible=interruptible)
    if interruptible:
        signal.signal(signal.SIGINT, _exit_at_once)
    sys.exit(code)


def _exit_at_once(_number: int, _frame: object) -> NoReturn:
    os._exit(INTERRUPTED_EXIT_CODE)


if __name__ == "__main__":
    main()
