"""The command line: one file per command; what they import stays inside them, so that --help is instant."""

import sys
from typing import Annotated

import typer

from edge_uad import __version__
from edge_uad._packages import own_packages
from edge_uad.cli.ablate import ablate
from edge_uad.cli.bench import bench
from edge_uad.cli.build_bank import build_bank
from edge_uad.cli.certify import certify
from edge_uad.cli.console import stderr
from edge_uad.cli.evaluate import evaluate
from edge_uad.cli.export import export
from edge_uad.cli.inspect import inspect
from edge_uad.cli.keys import keys
from edge_uad.cli.records import app as records
from edge_uad.cli.replay import replay
from edge_uad.cli.send import send
from edge_uad.cli.serve import serve
from edge_uad.cli.watch import watch
from edge_uad.errors import EdgeUadError

INTERRUPTED_EXIT_CODE = 130

app = typer.Typer(
    help="Visual anomaly inspection in a background thread, learned from good parts alone.",
    no_args_is_help=True,
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
app.command("bench")(bench)
app.command("keys")(keys)
app.command("replay")(replay)
app.add_typer(records, name="records")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge-uad {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[  # typer calls back by itself
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; an error of ours becomes one sentence on stderr and its exit code."""
    try:
        own_packages()
        app()
    except EdgeUadError as error:
        stderr.print(f"edge-uad: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
