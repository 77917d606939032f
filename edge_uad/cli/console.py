"""The terminal: results on stdout, everything else on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(soft_wrap=True)
stderr = Console(stderr=True)

DECISION_STYLES = {"normal": "green", "anomalous": "bold red", "invalid": "bold yellow"}


def warn(message: str) -> None:
    """One line that the user should read, though the work goes on."""
    stderr.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


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
