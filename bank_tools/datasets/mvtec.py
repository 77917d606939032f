"""MVTec AD and the sets laid out like it: ``train/good``, ``test/<kind>``, ``ground_truth/<kind>``.

- MVTec AD: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021. VisA's own script for this form
  (``visa_pytorch``) names masks without ``_mask``, which is read as well.
- BTAD, the beanTech set: Mishra et al., VT-ADL, ISIE 2021. Three products, ``ok`` and ``ko``; images are BMP or PNG by
  product, masks carry their image's stem.
- MVTec AD 2: Heckler-Kram et al., The MVTec AD 2 Dataset, arXiv 2503.21622. A bank may learn from ``train/good`` and
  from ``validation/good``: calibration holds out its own share of them. ``test_private`` and ``test_private_mixed`` are
  for the benchmark's server, come without answers and are not read.
"""

from pathlib import Path

from bank_tools.datasets.folders import categories_of, match_masks, pictures, samples, subfolders
from bank_tools.datasets.records import GOOD, Category, Layout, Sample

EXPECTED = """\
ROOT/                       (or a category itself)
└── <category>/
    ├── train/
    │   └── good/           *.png
    ├── test/
    │   ├── good/           *.png
    │   └── <kind>/         *.png
    └── ground_truth/
        └── <kind>/         *_mask.png"""
OK = "ok"
BTAD_EXPECTED = """\
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
PUBLIC = "test_public"
MASKS = "ground_truth"
MVTEC2_EXPECTED = """\
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
    """Whether a category with ``train/good`` is here."""
    return bool(categories_of(root, f"train/{GOOD}"))


def read(root: Path) -> list[Category]:
    """Read every category."""
    return [read_category(folder) for folder in categories_of(root, f"train/{GOOD}")]


def read_category(folder: Path, *, good: str = GOOD) -> Category:
    """Read one category; what the folders of good images are called differs between publishers."""
    warnings: list[str] = []
    test: list[Sample] = []
    for kind in subfolders(folder / "test"):
        found, odd = read_kind(kind, folder / "ground_truth" / kind.name, category=folder, good=good)
        test += found
        warnings += odd
    for kind in subfolders(folder / "ground_truth"):
        if not (folder / "test" / kind.name).is_dir() and kind.name != good:
            warnings.append(f"{folder.resolve().name}/ground_truth/{kind.name}: there are no test images of this kind")
    return Category(
        name=folder.resolve().name,
        good=tuple(samples(pictures(folder / "train" / good), root=folder)),
        test=tuple(test),
        warnings=tuple(warnings),
    )


def read_kind(folder: Path, masks_folder: Path, *, category: Path, good: str) -> tuple[list[Sample], list[str]]:
    """Read the images of one kind, with their masks where it is an anomaly; and say what is odd."""
    files = pictures(folder)
    where = category.resolve().name
    warnings = [] if files else [f"{where}/{folder.relative_to(category).as_posix()}: the folder holds no image"]
    masks, odd = match_masks(
        pictures(masks_folder), files, where=f"{where}/{masks_folder.relative_to(category).as_posix()}"
    )
    warnings += odd
    if folder.name == good:
        return samples(files, root=category, masks=masks), warnings
    return samples(files, root=category, kind=folder.name, anomalous=True, masks=masks), warnings


def matches_btad(root: Path) -> bool:
    """Whether a product with ``train/ok`` is here."""
    return bool(categories_of(root, f"train/{OK}"))


def read_btad(root: Path) -> list[Category]:
    """Read every product."""
    return [read_category(folder, good=OK) for folder in categories_of(root, f"train/{OK}")]


def matches_mvtec2(root: Path) -> bool:
    """Whether a category with ``test_public`` is here."""
    return bool(categories_of(root, PUBLIC))


def read_mvtec2(root: Path) -> list[Category]:
    """Read every category."""
    return [_read_mvtec2_category(folder) for folder in categories_of(root, PUBLIC)]


def _read_mvtec2_category(folder: Path) -> Category:
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


LAYOUT = Layout(
    name="mvtec", title="MVTec AD and trees laid out like it", expected=EXPECTED, matches=matches, read=read
)
BTAD = Layout(name="btad", title="BTAD", expected=BTAD_EXPECTED, matches=matches_btad, read=read_btad)
MVTEC2 = Layout(name="mvtec2", title="MVTec AD 2", expected=MVTEC2_EXPECTED, matches=matches_mvtec2, read=read_mvtec2)
