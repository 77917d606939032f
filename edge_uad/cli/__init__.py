"""The command line: one file per command; what they import stays inside them, so that --help is instant.

``edge_uad.__main__`` is the process's entry, ``run`` its boundary.
"""

from typing import Annotated

import typer

from edge_uad import __version__
from edge_uad.cli.ablate import ablate
from edge_uad.cli.arguments import with_checked_arguments
from edge_uad.cli.bench import bench
from edge_uad.cli.build_bank import build_bank
from edge_uad.cli.certify import certify
from edge_uad.cli.console import print_line
from edge_uad.cli.evaluate import evaluate
from edge_uad.cli.export import export
from edge_uad.cli.inspect import inspect
from edge_uad.cli.keys import keys
from edge_uad.cli.records import app as records
from edge_uad.cli.replay import replay
from edge_uad.cli.send import send
from edge_uad.cli.serve import serve
from edge_uad.cli.tune import tune
from edge_uad.cli.watch import watch
from edge_uad.errors import UsageError

LOADS_FILES_IN_BACKGROUND = frozenset({"serve"})
"""Commands whose main thread touches no file system: it may hang, as a dead network mount does."""

app = typer.Typer(
    help="Visual anomaly inspection, learned from good parts alone.",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("build-bank")(build_bank)
app.command("inspect")(inspect)
app.command("serve")(serve)
app.command("watch")(watch)
app.command("send")(send)
app.command("export")(export)
app.command("certify")(certify)
app.command("evaluate")(evaluate)
app.command("ablate")(ablate)
app.command("tune")(tune)
app.command("bench")(bench)
app.command("keys")(keys)
app.command("replay")(replay)
app.add_typer(records, name="records")


def _check_arguments(commands: typer.Typer) -> None:
    """Every command below is called through :func:`edge_uad.cli.arguments.with_checked_arguments`."""
    for info in commands.registered_commands:
        if info.callback is not None:
            in_background = info.name in LOADS_FILES_IN_BACKGROUND
            info.callback = with_checked_arguments(info.callback, look_at_files=not in_background)
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _check_arguments(group.typer_instance)


_check_arguments(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"edge-uad {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # typer calls back by itself
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        context.get_help()
        raise typer.Exit(UsageError.exit_code)
