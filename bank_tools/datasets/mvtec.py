"""MVTec AD, and every tree laid out like it: ``train/good``, ``test/<kind>``, ``ground_truth/<kind>``.

Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021. MTD and BTAD are often passed on in this form;
VisA's own script for it (``visa_pytorch``) names masks without ``_mask``, which is read as well.
"""

from pathlib import Path

from bank_tools.datasets.folders import categories_of, masks_by_stem, orphans, pictures, samples, subfolders
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.records import GOOD, Category, Sample

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
    if folder.name == good:
        return samples(files, root=category), warnings
    masks = masks_by_stem(masks_folder)
    warnings += orphans(masks, files, where=f"{where}/{masks_folder.relative_to(category).as_posix()}")
    return samples(files, root=category, kind=folder.name, anomalous=True, masks=masks), warnings


LAYOUT = Layout(
    name="mvtec", title="MVTec AD and trees laid out like it", expected=EXPECTED, matches=matches, read=read
)
