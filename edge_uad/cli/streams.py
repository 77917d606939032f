"""Standard streams that fail in one sentence: full, closed, or with a terminal that lacks a character."""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from edge_uad.errors import EdgeUadError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class OutputError(EdgeUadError):
    """Standard output cannot be written: its disk is full, or it was closed before the start."""


class OutputClosedError(Exception):
    """Whoever read standard output has gone, as in ``edge-uad … | head -1``; nothing is left to be said."""


class _StandardOutput(io.FileIO):
    """File descriptor 1; what goes wrong there is not taken for a fault of another file."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except BrokenPipeError as error:
            raise OutputClosedError from error
        except BlockingIOError:
            raise
        except OSError as error:
            raise OutputError(
                f"standard output cannot be written: {error.strerror}; free the disk, or send the output elsewhere"
            ) from error


class _StandardError(io.FileIO):
    """File descriptor 2; a message that cannot be written is dropped, and the work goes on."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def guard_standard_streams() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` for the rest of the process.

    Characters that their encoding lacks are written as escapes. A descriptor that was closed before the start is
    opened on the null device, so that no file of the program gets its number and is written to by mistake; writing to
    a closed standard output raises OutputError.
    """
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number, which is this one
    sys.stdout = _text(_StandardOutput(_STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_StandardError(_STDERR, "w", closefd=False), sys.stderr)


def flush_standard_output() -> None:
    """Write what is buffered; afterwards nothing is left for the interpreter's end to fail at.

    Raises:
        OutputError: it cannot be written.
        OutputClosedError: nobody reads it any more.
    """
    try:
        sys.stdout.flush()
    except (OutputError, OutputClosedError):
        drop_standard_output()
        raise


def drop_standard_output() -> None:
    """Send what is buffered, and what is still to come, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, _STDOUT)
    os.close(null)


def _text(raw: io.FileIO, before: TextIO | None) -> TextIO:
    # None where the descriptor was closed
    encoding = "utf-8" if before is None else before.encoding
    unbuffered = bool(getattr(before, "write_through", False))  # PYTHONUNBUFFERED
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == _STDERR,
        write_through=unbuffered,
    )
