"""The terminal: results on stdout, everything else on stderr. Whatever a name holds, it is shown and does nothing."""

import json
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

DECISION_STYLES = {"normal": "green", "anomalous": "bold red", "invalid": "bold yellow"}
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def printable(text: str) -> str:
    r"""The text with control characters, line ends, invisible characters and undecodable bytes as escapes.

    A file may be called ``\x1b[2J``; a terminal would obey it, and a line end would forge a line of a log.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of a name that is not UTF-8
    return character.encode("unicode_escape").decode("ascii")


class _EscapingConsole(Console):
    """A console that prints every text by :func:`printable`, and breaks no line of it."""

    def print(self, *objects: Any, **options: Any) -> None:
        """See :class:`rich.console.Console`; texts are printed in one line, whatever the terminal's width."""
        if all(isinstance(one, str) for one in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _EscapingConsole()
stderr = _EscapingConsole(stderr=True)


def print_line(text: str) -> None:
    """One line of results on stdout, as it is."""
    console.print(text, markup=False, highlight=False)


def print_json(value: object) -> None:
    """One line of JSON on stdout, ASCII alone: every name comes back whole, also one that is not UTF-8."""
    console.file.write(json.dumps(value, ensure_ascii=True) + "\n")
    console.file.flush()


def note(message: str) -> None:
    """One line on stderr: a summary or a hint, no result."""
    stderr.print(message, markup=False, highlight=False)


def warn(message: str) -> None:
    """One line that the user should read, though the work goes on."""
    stderr.print(f"warning: {message}", style="yellow", markup=False, highlight=False)


def print_error(message: str) -> None:
    """The sentence that a command ends with."""
    stderr.print(f"edge-uad: {message}", style="bold red", markup=False, highlight=False)


def debugging() -> bool:
    """Whether tracebacks are wanted: ``EDGE_UAD_DEBUG=1``."""
    return os.environ.get("EDGE_UAD_DEBUG", "0") not in {"", "0"}


class LogFormatter(logging.Formatter):
    """One line for each record; an exception is its type, its text and its place, a traceback under EDGE_UAD_DEBUG."""

    def __init__(self) -> None:
        super().__init__(LOG_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The line, escaped by :func:`printable`."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        error = record.exc_info[1] if record.exc_info else None
        line = printable(self.formatMessage(record) + ("" if error is None else _in_brief(error)))
        if error is None or not debugging():
            return line
        return f"{line}\n{''.join(traceback.format_exception(error)).rstrip()}"


def _in_brief(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f": {type(error).__name__}: {error}{place}"


class _RateColumn(ProgressColumn):
    """Units per second, as measured."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="cyan")


class TerminalProgress:
    """Draws each step as a bar with rate and time left; on a terminal it moves, in a log it is one line a step.

    Args:
        hidden: draw nothing.
    """

    def __init__(self, *, hidden: bool = False) -> None:
        self._hidden = hidden

    @contextmanager
    def step(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """See :class:`edge_uad.progress.Progress`."""
        bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=stderr,
            disable=self._hidden,
        )
        with bar:
            task = bar.add_task(label, total=total, unit=unit)
            yield lambda done: bar.advance(task, done)
            if total is None:
                bar.update(task, total=bar.tasks[0].completed)
