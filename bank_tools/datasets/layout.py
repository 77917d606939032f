"""What a layout is: how its tree is drawn, recognised and read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bank_tools.datasets.records import Category


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One published form of a dataset."""

    name: str
    title: str
    """The datasets that are published so."""
    expected: str
    """The tree, drawn."""
    matches: Callable[[Path], bool]
    """Whether a folder looks like a root of this layout, by its folders' names alone."""
    read: Callable[[Path], Sequence[Category]]
    """Reads a root that matches."""
    labelled_classes: bool = False
    """Whether the categories are classes, each against the rest: such anomalies have no masks."""
