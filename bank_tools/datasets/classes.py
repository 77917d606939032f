"""A folder for each class: ImageNet-30, Species-60, CIFAR as pictures, or anybody's own classes.

ImageNet-30 (Hendrycks et al., NeurIPS 2019) and Species-60 (UniFormaly, appendix; a part of Hendrycks et al.'s
Species) come as ``one_class_train`` and ``one_class_test``; elsewhere the two are called ``train`` and ``test``. A
split list (``train.txt`` or ``one_class_train.txt`` beside the folders: on each line a picture's path below its
split's folder, and after it perhaps a label) says which pictures count; without one all do.
"""

from pathlib import Path

from bank_tools.datasets.folders import counted, listed, pictures, subfolders
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.one_vs_rest import Labelled, one_vs_rest
from bank_tools.datasets.records import Category, ImageFile
from edge_uad.errors import UsageError

SPLITS = (("one_class_train", "one_class_test"), ("train", "test"))
EXPECTED = """\
ROOT/
├── train/                  (or one_class_train/)
│   ├── <class>/            *.jpg *.png …
│   └── <another class>/
├── test/                   (or one_class_test/)
│   ├── <class>/            *.jpg *.png …
│   └── <another class>/
├── train.txt               (optional: which of them count,
└── test.txt                 as <class>/<picture>)"""


def matches(root: Path) -> bool:
    """Whether a pair of splits is here, with a folder for each class."""
    return _splits(root) is not None


def read(root: Path) -> list[Category]:
    """Each class of the first split against the rest of the second."""
    return one_vs_rest(*labelled(root))


def labelled(root: Path) -> tuple[list[Labelled], list[Labelled]]:
    """What banks may learn from, and what is scored; nothing where there are no splits.

    Raises:
        UsageError: a split list cannot be read, or lists what is not there.
    """
    splits = _splits(root)
    return ([], []) if splits is None else (_labelled(root / splits[0]), _labelled(root / splits[1]))


def class_names(root: Path) -> set[str]:
    """The classes that both splits have."""
    splits = _splits(root)
    if splits is None:
        return set()
    train, test = ({folder.name for folder in subfolders(root / split)} for split in splits)
    return train & test


def _splits(root: Path) -> tuple[str, str] | None:
    if (root / "ground_truth").exists():  # somebody's form of a defect set: a kind of defect is no class
        return None
    for train, test in SPLITS:
        if subfolders(root / train) and subfolders(root / test):
            return train, test
    return None


def _labelled(split: Path) -> list[Labelled]:
    chosen = _split_list(split.with_suffix(".txt"))
    found = [
        Labelled(file.relative_to(split.parent).as_posix(), folder.name, ImageFile(file))
        for folder in subfolders(split)
        for file in pictures(folder, deep=True)
    ]
    if chosen is None:
        return found
    by_path = {item.name.removeprefix(f"{split.name}/"): item for item in found}
    picked = {line: by_path.get(line) or by_path.get(line.rsplit(maxsplit=1)[0]) for line in chosen}
    lost = [line for line, item in picked.items() if item is None]
    if lost:
        raise UsageError(
            f"{split.with_suffix('.txt')} lists {counted(lost, 'picture')} that {split.name}/ does not hold "
            f"({listed(lost)}); unpack the dataset again or correct the list"
        )
    return [item for item in picked.values() if item is not None]


def _split_list(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the split list {path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


LAYOUT = Layout(
    name="classes", title="folders of classes", expected=EXPECTED, matches=matches, read=read, labelled_classes=True
)
