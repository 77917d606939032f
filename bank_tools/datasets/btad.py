"""BTAD, the beanTech set: three products, ``ok`` and ``ko``.

Mishra et al., VT-ADL, ISIE 2021. Images are BMP or PNG by product, masks carry their image's stem.
"""

from pathlib import Path

from bank_tools.datasets import mvtec
from bank_tools.datasets.folders import categories_of
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.records import Category

OK = "ok"
EXPECTED = """\
ROOT/                       (or a product itself)
├── 01/
│   ├── train/
│   │   └── ok/             *.bmp *.png
│   ├── test/
│   │   ├── ok/             *.bmp *.png
│   │   └── ko/             *.bmp *.png
│   └── ground_truth/
│       └── ko/             *.png *.bmp
├── 02/
└── 03/"""


def matches(root: Path) -> bool:
    """Whether a product with ``train/ok`` is here."""
    return bool(categories_of(root, f"train/{OK}"))


def read(root: Path) -> list[Category]:
    """Read every product."""
    return [mvtec.read_category(folder, good=OK) for folder in categories_of(root, f"train/{OK}")]


LAYOUT = Layout(name="btad", title="BTAD", expected=EXPECTED, matches=matches, read=read)
