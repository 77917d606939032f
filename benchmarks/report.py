"""Common options and results of the benchmarks; ``make performance`` puts the results on one page.

    python -m benchmarks.NAME [--quick] [--json FILE] [--out DIR]

The JSON is ``{"title", "about", "command", "elapsed_s", "tables": [{"title", "columns", "rows", "note"}], "plots":
[{"file", "title"}], "facts": {…}}``: rows are texts, ``facts`` whatever else was measured, unrounded; each plot is an
SVG file of ``--out``. ``facts["goals"]``, where there are any: ``{quantity: [measured, ">=" or "<=", goal]}``.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bank_tools.report.charts import Chart


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass
class Report:
    """One benchmark's results as they come in; printed at once, written by ``close``."""

    name: str
    """Of the module."""
    title: str
    about: str
    """What was measured and how, in a paragraph."""
    tables: list[Table] = field(default_factory=list)
    plots: dict[str, "Chart"] = field(default_factory=dict)
    """By file name."""
    facts: dict[str, Any] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    def add(self, table: Table) -> None:
        """Print a table and keep it."""
        self.tables.append(table)
        print_table(table)

    def plot(self, file: str, chart: "Chart") -> None:
        """Keep a chart, which has a title; one with nothing to draw is left out, and that is printed."""
        if chart.missing:
            say(f"{file}: {chart.missing}")
        else:
            self.plots[file] = chart

    def close(self, options: argparse.Namespace) -> None:
        """Write the files that ``--json`` and ``--out`` name."""
        elapsed_s = time.monotonic() - self.started_s
        print(f"{elapsed_s:.0f} s")
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            self._write_plots(options.out)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "title": self.title,
                "about": self.about,
                "command": f"python -m benchmarks.{self.name}",
                "elapsed_s": elapsed_s,
                "tables": [asdict(table) for table in self.tables],
                "plots": [{"file": file, "title": chart.title} for file, chart in self.plots.items()],
                "facts": self.facts,
            }
            options.json.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def _write_plots(self, folder: Path) -> None:
        if self.plots:
            from bank_tools.report.figures import svg_of  # noqa: PLC0415  # most benchmarks draw nothing

            for file, chart in self.plots.items():
                (folder / file).write_bytes(svg_of(chart, background="white"))


def options_of(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer points and repetitions, to check that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results for machines")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where plots go, as SVG")
    return parser


def print_table(table: Table) -> None:
    """Aligned columns; the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    print(table.title)
    for row in (table.columns, *table.rows):
        cells = [cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))]  # noqa: B905  # zip above was strict
        print("  " + "  ".join(cells).rstrip())
    if table.note:
        print(f"  {table.note}")
    print(flush=True)


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)
