"""Magnetic tile defects (MTD) in the authors' own folders.

Huang, Qiu and Yuan, Surface defect saliency of magnetic tile, The Visual Computer 36, 2020: every folder has
``Imgs`` with each photograph (``.jpg``) beside its mask (``.png``). There is no published split; as is usual since
Rudolph et al., DifferNet, WACV 2021, 80 % of the tiles without defect are what is learned from and the rest is
scored; here they are drawn by a fixed seed over the sorted names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bank_tools.datasets.folders import match_masks, pictures, samples, subfolders
from bank_tools.datasets.records import Category, Layout, Sample

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
    free_masks, odd = match_masks(_masks(root / FREE), _photographs(root / FREE), where=f"{FREE}/{IMAGES}")
    warnings += odd
    test += samples(held_out, root=root, masks=free_masks)
    for folder in subfolders(root):
        if folder.name.startswith(PREFIX) and folder.name != FREE:
            kind = folder.name.removeprefix(PREFIX).lower()
            files = _photographs(folder)
            masks, odd = match_masks(_masks(folder), files, where=f"{folder.name}/{IMAGES}")
            warnings += odd
            test += samples(files, root=root, kind=kind, anomalous=True, masks=masks)
    return [Category(name="tiles", good=tuple(samples(good, root=root)), test=tuple(test), warnings=tuple(warnings))]


def _photographs(folder: Path) -> list[Path]:
    return [file for file in pictures(folder / IMAGES) if file.suffix.lower() != ".png"]


def _masks(folder: Path) -> list[Path]:
    return [file for file in pictures(folder / IMAGES) if file.suffix.lower() == ".png"]


def seeded_split(items: Sequence[Path], *, share: float, seed: int) -> tuple[list[Path], list[Path]]:
    """A part of the items, drawn by the seed, and the rest; each in the order given.

    Args:
        items: in an order that does not depend on the machine.
        share: of the first part, 0..1; its size is rounded down.
        seed: of the draw.
    """
    drawn = set(np.random.default_rng(seed).permutation(len(items))[: int(share * len(items))].tolist())
    return (
        [item for index, item in enumerate(items) if index in drawn],
        [item for index, item in enumerate(items) if index not in drawn],
    )


LAYOUT = Layout(name="mtd", title="the magnetic tiles", expected=EXPECTED, matches=matches, read=read)
