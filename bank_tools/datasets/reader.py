"""From a folder to a dataset: which layout it has, what is odd in it, and what it should have looked like."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bank_tools.datasets import btad, casting, cifar, classes, mtd, mvtec, mvtec2, species60, textiles, visa
from bank_tools.datasets.checks import oddities
from bank_tools.datasets.drawing import drawn, two_columns
from bank_tools.datasets.folders import subfolders
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.records import Dataset
from edge_uad.errors import UsageError

AUTO = "auto"
_KNOWN: tuple[Layout, ...] = (
    visa.LAYOUT,
    mvtec2.LAYOUT,
    mvtec.LAYOUT,
    btad.LAYOUT,
    mtd.LAYOUT,
    casting.LAYOUT,
    cifar.LAYOUT,
    textiles.LAYOUT,
    species60.LAYOUT,
    classes.LAYOUT,
)
"""In the order in which they are tried: the more particular first."""
LAYOUTS: tuple[str, ...] = tuple(layout.name for layout in _KNOWN)
_MAX_WRAPPERS = 2


def read_dataset(root: Path, *, layout: str = AUTO, categories: Sequence[str] | None = None) -> Dataset:
    """Read a dataset's tree: which images there are and where their masks lie; pictures are read later, one by one.

    Args:
        root: the dataset's folder, the folder of one category, or a folder that an archive wrapped around them.
        layout: one of ``LAYOUTS``, or ``auto`` to tell by the names of folders.
        categories: the names of those wanted; None for all.

    Raises:
        UsageError: no such folder, layout or category; a tree laid out otherwise, drawn beside what was expected;
            a category without good or without test images.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; name the dataset's root")
    candidates = _candidates(layout)
    for base in _unwrapped(root):
        for candidate in candidates:
            if candidate.matches(base):
                return _read(base, candidate, categories)
    raise UsageError(_wrong_tree(root, candidates if layout != AUTO else ()))


def _read(root: Path, layout: Layout, wanted: Sequence[str] | None) -> Dataset:
    dataset = Dataset(
        name=root.resolve().name,
        root=root,
        layout=layout.name,
        categories=tuple(layout.read(root)),
        labelled_classes=layout.labelled_classes,
    )
    if wanted is not None:
        dataset = dataset.only(wanted)
    checked = (
        replace(category, warnings=tuple(oddities(category, root=root, labelled_classes=layout.labelled_classes)))
        for category in dataset.categories
    )
    return replace(dataset, categories=tuple(checked))


def _candidates(name: str) -> tuple[Layout, ...]:
    if name == AUTO:
        return _KNOWN
    for layout in _KNOWN:
        if layout.name == name:
            return (layout,)
    raise UsageError(f"there is no layout {name!r}; there are {AUTO}, {', '.join(LAYOUTS)}")


def _unwrapped(root: Path) -> Iterator[Path]:
    """The root, then what it holds as long as that is one folder alone."""
    yield root
    for _ in range(_MAX_WRAPPERS):
        inside = subfolders(root)
        if len(inside) != 1:
            return
        root = inside[0]
        yield root


def _wrong_tree(root: Path, asked: Sequence[Layout]) -> str:
    if asked:
        layout = asked[0]
        problem = f"{root} is not laid out as {layout.title}; put it in that form or name another --layout"
        expected = layout.expected
    else:
        problem = f"{root} has none of the known layouts ({', '.join(LAYOUTS)}); lay it out as below or name --layout"
        expected = mvtec.EXPECTED
    return f"{problem}\n\n{two_columns('expected', expected, 'found', drawn(root))}"
