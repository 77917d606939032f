"""Magnetic tile defects (MTD) in the authors' own folders.

Huang, Qiu and Yuan, Surface defect saliency of magnetic tile, The Visual Computer 36, 2020: every folder has
``Imgs`` with each photograph (``.jpg``) beside its mask (``.png``). There is no published split; as is usual since
Rudolph et al., DifferNet, WACV 2021, 80 % of the tiles without defect are what is learned from and the rest is
scored; here they are drawn by a fixed seed over the sorted names.
"""

from pathlib import Path

from bank_tools.datasets.folders import orphans, pictures, samples, subfolders
from bank_tools.datasets.layout import Layout
from bank_tools.datasets.records import Category, Sample
from bank_tools.datasets.splits import seeded_split

PREFIX = "MT_"
FREE = f"{PREFIX}Free"
IMAGES = "Imgs"
GOOD_SHARE, SPLIT_SEED = 0.8, 0
EXPECTED = """\
ROOT/
├── MT_Free/
│   └── Imgs/               *.jpg *.png
├── MT_Blowhole/
│   └── Imgs/               *.jpg and *.png, its mask
├── MT_Break/
├── MT_Crack/
├── MT_Fray/
└── MT_Uneven/"""


def matches(root: Path) -> bool:
    """Whether ``MT_Free`` is here."""
    return (root / FREE).is_dir()


def read(root: Path) -> list[Category]:
    """The one category: the tiles."""
    warnings: list[str] = []
    test: list[Sample] = []
    good, held_out = seeded_split(_photographs(root / FREE), share=GOOD_SHARE, seed=SPLIT_SEED)
    test += samples(held_out, root=root)
    for folder in subfolders(root):
        if folder.name.startswith(PREFIX) and folder.name != FREE:
            kind = folder.name.removeprefix(PREFIX).lower()
            files = _photographs(folder)
            masks = {file.stem: file for file in pictures(folder / IMAGES) if file.suffix.lower() == ".png"}
            warnings += orphans(masks, files, where=f"{folder.name}/{IMAGES}")
            test += samples(files, root=root, kind=kind, anomalous=True, masks=masks)
    return [Category(name="tiles", good=tuple(samples(good, root=root)), test=tuple(test), warnings=tuple(warnings))]


def _photographs(folder: Path) -> list[Path]:
    return [file for file in pictures(folder / IMAGES) if file.suffix.lower() != ".png"]


LAYOUT = Layout(name="mtd", title="the magnetic tiles", expected=EXPECTED, matches=matches, read=read)
