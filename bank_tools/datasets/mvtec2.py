"""MVTec AD 2: public and private tests, of which only the public one comes with its answers.

Heckler-Kram et al., The MVTec AD 2 Dataset, arXiv 2503.21622. A bank may learn from ``train/good`` and from
``validation/good``: calibration holds out its own share of them. ``test_private`` and ``test_private_mixed`` are for
the benchmark's server and are not read.
"""

from pathlib import Path

from bank_tools.datasets.folders import categories_of, pictures, samples, subfolders
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.mvtec import read_kind
from bank_tools.datasets.records import GOOD, Category, Sample

PUBLIC = "test_public"
MASKS = "ground_truth"
EXPECTED = """\
ROOT/                       (or a category itself)
└── <category>/
    ├── train/
    │   └── good/           *.png
    ├── validation/
    │   └── good/           *.png
    └── test_public/
        ├── good/           *.png
        ├── bad/            *.png
        └── ground_truth/
            └── bad/        *_mask.png"""


def matches(root: Path) -> bool:
    """Whether a category with ``test_public`` is here."""
    return bool(categories_of(root, PUBLIC))


def read(root: Path) -> list[Category]:
    """Read every category."""
    return [_read_category(folder) for folder in categories_of(root, PUBLIC)]


def _read_category(folder: Path) -> Category:
    warnings: list[str] = []
    test: list[Sample] = []
    for kind in subfolders(folder / PUBLIC):
        if kind.name != MASKS:
            found, odd = read_kind(kind, folder / PUBLIC / MASKS / kind.name, category=folder, good=GOOD)
            test += found
            warnings += odd
    good = pictures(folder / "train" / GOOD) + pictures(folder / "validation" / GOOD)
    return Category(
        name=folder.resolve().name,
        good=tuple(samples(good, root=folder)),
        test=tuple(test),
        warnings=tuple(warnings),
    )


LAYOUT = Layout(name="mvtec2", title="MVTec AD 2", expected=EXPECTED, matches=matches, read=read)
