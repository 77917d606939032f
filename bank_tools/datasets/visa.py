"""VisA as published: one CSV file says which image is for learning and which is for scoring.

Zou et al., SPot-the-Difference, ECCV 2022. ``split_csv/1cls.csv`` is the one-class split, with the columns object,
split, label, image, mask; the paths are relative to the root. Masks hold small class numbers, not white.
"""

import csv
from collections import defaultdict
from pathlib import Path

from bank_tools.datasets.records import GOOD, Category, ImageFile, Layout, Sample
from bank_tools.datasets.wording import counted, listed
from edge_uad.errors import UsageError

SPLIT = Path("split_csv") / "1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
ANOMALY = "anomaly"
EXPECTED = """\
ROOT/
├── split_csv/
│   └── 1cls.csv            object,split,label,image,mask
└── <object>/
    └── Data/
        ├── Images/
        │   ├── Normal/     *.JPG
        │   └── Anomaly/    *.JPG
        └── Masks/
            └── Anomaly/    *.png"""


def matches(root: Path) -> bool:
    """Whether the one-class split is here."""
    return (root / SPLIT).is_file()


def read(root: Path) -> list[Category]:
    """Read every object that the split names."""
    rows: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(root):
        rows[row["object"]].append(row)
    return [_category(root, name, rows[name]) for name in sorted(rows)]


def _rows(root: Path) -> list[dict[str, str]]:
    path = root / SPLIT
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{column: row.get(column) or "" for column in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}; unpack the dataset again") from error
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise UsageError(f"{path} has no column {', '.join(sorted(missing))}; it needs {','.join(COLUMNS)}")
    return rows


def _category(root: Path, name: str, rows: list[dict[str, str]]) -> Category:
    lost: list[str] = []
    sides: dict[str, list[Sample]] = {"train": [], "test": []}
    for row in rows:
        image = _inside(root, row["image"])
        if image is None or row["split"] not in sides:
            lost.append(row["image"])
            continue
        anomalous = row["label"] == ANOMALY
        sides[row["split"]].append(
            Sample(
                name=row["image"],
                kind=ANOMALY if anomalous else GOOD,
                anomalous=anomalous,
                origin=ImageFile(image),
                mask_path=_inside(root, row["mask"]),
            )
        )
    warnings = (
        [f"{name}: {counted(lost, 'image')} of {SPLIT.name} not found and left out: {listed(lost)}"] if lost else []
    )
    good = [sample for sample in sides["train"] if not sample.anomalous]
    return Category(name=name, good=tuple(good), test=tuple(sides["test"]), warnings=tuple(warnings))


def _inside(root: Path, relative: str) -> Path | None:
    """The file that a path of the split names; None where it is not there or points out of the dataset."""
    path = root / relative
    if not relative or not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
        return None
    return path


LAYOUT = Layout(name="visa", title="VisA", expected=EXPECTED, matches=matches, read=read)
