"""Options that several commands share, so that they read and behave alike."""

from pathlib import Path
from typing import Annotated

import typer

from edge_uad.errors import UsageError
from edge_uad.records import Box

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="Model file of edge-uad export.", show_default="the default backbone in the cache"),
]
BankOption = Annotated[Path, typer.Option("--bank", help="Bank file of edge-uad build-bank.")]
ProviderOption = Annotated[
    str, typer.Option("--provider", help="cpu, cuda or tensorrt; one that is not active is an error.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="CPU threads of the backbone; 0 takes all cores.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON Lines on stdout, for machines.")]


def parse_roi(text: str | None) -> Box | None:
    """``x,y,w,h`` → box.

    Raises:
        UsageError: not four whole numbers, or an empty box.
    """
    if text is None:
        return None
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--roi is {text!r}; give four whole numbers x,y,w,h in image pixels") from None
    if x < 0 or y < 0 or w < 1 or h < 1:
        raise UsageError(f"--roi is {text!r}; x and y must not be negative, w and h at least 1 px")
    return x, y, w, h
