"""docs/performance.md, measured on this machine: ``make performance``.

    python -m benchmarks.performance [--quick] [--only line,growth] [--page-only] [--set ROOT]…

Runs each benchmark as a process, keeps its results in build/performance/, and writes from them the page and
docs/performance/*.svg. ``--quick`` only checks that all of them run; its page stays in build/performance/. A benchmark
that fails leaves the page unchanged; run it again with ``--only``, and the kept results of the others are used.
``--set`` names a dataset for what a lower precision does to verdicts, and may be repeated.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bank_tools.bench.machine import OtherPrograms, machine
from benchmarks.report import say

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "performance"
PAGE = ROOT / "docs" / "performance.md"
BENCHMARKS = ("line", "stations", "reference", "frames", "sessions", "precision", "search", "coreset", "growth")
"""In the page's order; one that this checkout does not have is left out."""
OF_SETS = "precision"
"""The one that takes ``--set``."""

HEAD = """# Performance

How fast edge-uad is on one named machine, and how far that is from what the machine can do. Every figure and picture
here is written by `make performance`, which took {total} on it.

{machine}

Whatever is compared was measured in turn, a little of each, in the same run: what disturbs the machine for a while
disturbs both. Medians, and p99 where there are enough repetitions.
"""


def main() -> int:
    options = parsed()
    names = [name for name in BENCHMARKS if importlib.util.find_spec(f"benchmarks.{name}")]
    wanted = names if options.only is None else [name for name in names if name in options.only.split(",")]
    BUILD.mkdir(parents=True, exist_ok=True)
    if not options.page_only:
        measure(wanted, quick=options.quick, sets=options.set)
    results = {name: json.loads(kept(name).read_text(encoding="utf-8")) for name in names if kept(name).is_file()}
    missing = [name for name in names if name not in results]
    if missing:
        say(f"no page: {', '.join(missing)} left no results; run them with --only {','.join(missing)}")
        return 1
    quick = any(result.get("quick") for result in results.values())
    page = BUILD / PAGE.name if quick else PAGE
    write(page, results, BUILD)
    print(f"{page.relative_to(ROOT)}: {len(results)} benchmarks, {shown_s(total_s(results))} of measuring")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="check that everything runs; the page stays in build/performance"
    )
    parser.add_argument("--only", metavar="NAMES", help=f"by commas, of {', '.join(BENCHMARKS)}")
    parser.add_argument("--page-only", action="store_true", help="write the page from kept results")
    parser.add_argument(
        "--set", type=Path, action="append", default=[], metavar="ROOT", help="a dataset, for the lower precisions"
    )
    return parser.parse_args()


def kept(name: str) -> Path:
    return BUILD / f"{name}.json"


def measure(names: Sequence[str], *, quick: bool, sets: Sequence[Path]) -> None:
    """Run each, and add to its results the share of the machine that other programs took.

    Raises:
        SystemExit: one failed; the rest is not run.
    """
    for name in names:
        kept(name).unlink(missing_ok=True)
        others, started_s = OtherPrograms(), time.monotonic()
        given = sets if name == OF_SETS else ()
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(kept(name)), "--out", str(BUILD)]
        command += [text for root in given for text in ("--set", str(root.absolute()))]
        say(f"── {name}")
        code = subprocess.run([*command, *(["--quick"] if quick else [])], cwd=ROOT, check=False).returncode
        if code or not kept(name).is_file():
            kept(name).unlink(missing_ok=True)
            raise SystemExit(f"benchmarks.{name} ended with exit code {code}; nothing was written to {PAGE.name}")
        result = json.loads(kept(name).read_text(encoding="utf-8"))
        # the last folder names the set; the rest of the path is private to this machine
        result["command"] += "".join(f" --set {root.absolute().name}" for root in given)
        around = {"quick": quick, "others_share": others.share(), "whole_s": time.monotonic() - started_s}
        kept(name).write_text(json.dumps(result | around, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write(page: Path, results: dict[str, dict[str, Any]], build: Path) -> None:
    """Write the page, and copy its pictures from the build folder into the folder with the page's name."""
    pictures = page.parent / page.stem
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    lines = [HEAD.format(total=shown_s(total_s(results)), machine=machine_table())]
    lines += goals(results)
    for result in results.values():
        lines += section(result, build, pictures)
    stamp = datetime.now(UTC).date().isoformat()
    lines.append(f"*Measured on {stamp}. `python -m benchmarks.performance --help` shows how to measure a part again.*")
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def machine_table() -> str:
    return markdown_table(("machine", ""), list(machine().items()), left=2)


def goals(results: dict[str, dict[str, Any]]) -> list[str]:
    """Each benchmark's goals and whether they were met."""
    rows = []
    for name, result in results.items():
        for what, (value, relation, goal) in result["facts"].get("goals", {}).items():
            met = value >= goal if relation == ">=" else value <= goal
            sign = "at least" if relation == ">=" else "at most"
            rows.append((what, f"{value:.3f}", f"{sign} {goal:g}", "met" if met else "not met", name))
    if not rows:
        return []
    columns = ("quantity", "measured", "goal", "", "benchmark")
    return ["## Goals\n", markdown_table(columns, rows, left=1), ""]


def section(result: dict[str, Any], build: Path, pictures: Path) -> list[str]:
    share = result["others_share"]
    around = shown_s(result["whole_s"])
    if share is not None:
        around += f"; other programs took {share:.0%} of the machine meanwhile"
    lines = [f"## {result['title']}\n", result["about"], "", f"`{result['command']}`: {around}.\n"]
    for table in result["tables"]:
        lines += [f"**{table['title'].capitalize()}**\n", markdown_table(table["columns"], table["rows"]), ""]
        if table.get("note"):
            lines += [table["note"], ""]
    for plot in result["plots"]:
        shutil.copy(build / plot["file"], pictures / plot["file"])
        lines += [f"![{plot['title']}]({pictures.name}/{plot['file']})", ""]
    return lines


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Figures to the right, aligned in the source too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if at < left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    padded = [
        [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))


def total_s(results: dict[str, dict[str, Any]]) -> float:
    return sum(result["whole_s"] for result in results.values())


def shown_s(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


if __name__ == "__main__":
    sys.exit(main())
