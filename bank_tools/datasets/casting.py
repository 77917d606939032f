"""Casting products (CPD): pump impellers from above, good and defective, without masks.

Published by Dabhi as "casting product image data for quality inspection" (Kaggle, 2020), 300×300 px in
``casting_data``. A bank learns from ``train/ok_front``; ``train/def_front`` is left out, because nothing here learns
from defects, and the published test split is scored.
"""

from pathlib import Path

from bank_tools.datasets.folders import pictures, samples
from bank_tools.datasets.records import Category, Layout

GOOD_FOLDER, DEFECT_FOLDER = "ok_front", "def_front"
ARCHIVE_FOLDER = "casting_data"
EXPECTED = """\
casting_data/
├── train/
│   ├── ok_front/           *.jpeg
│   └── def_front/          (not read)
└── test/
    ├── ok_front/           *.jpeg
    └── def_front/          *.jpeg"""


def matches(root: Path) -> bool:
    """Whether ``train/ok_front`` is here, or in ``casting_data`` beside the other folders of the archive."""
    return _base(root) is not None


def read(root: Path) -> list[Category]:
    """The one category."""
    root = _base(root) or root
    test = samples(pictures(root / "test" / GOOD_FOLDER), root=root)
    test += samples(pictures(root / "test" / DEFECT_FOLDER), root=root, kind=DEFECT_FOLDER, anomalous=True)
    good = samples(pictures(root / "train" / GOOD_FOLDER), root=root)
    return [Category(name="casting", good=tuple(good), test=tuple(test))]


def _base(root: Path) -> Path | None:
    for base in (root, root / ARCHIVE_FOLDER, root / ARCHIVE_FOLDER / ARCHIVE_FOLDER):
        if (base / "train" / GOOD_FOLDER).is_dir():
            return base
    return None


LAYOUT = Layout(name="casting", title="the casting products", expected=EXPECTED, matches=matches, read=read)
