"""CIFAR-10 and CIFAR-100 as published for Python: pickled arrays of 32×32 pictures.

Krizhevsky, Learning multiple layers of features from tiny images, 2009. One class is good, the rest anomalous; of
CIFAR-100 the classes are the 20 superclasses, as in UniFormaly and the papers it compares with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bank_tools.datasets.layout import Layout
from bank_tools.datasets.one_vs_rest import Labelled, one_vs_rest
from bank_tools.datasets.records import Category, ImageRow
from bank_tools.datasets.unpickle import read_pickle
from edge_uad.errors import UsageError
from edge_uad.records import UInt8

SIDE_PX = 32
ROW_BYTES = 3 * SIDE_PX * SIDE_PX
EXPECTED = """\
cifar-10-batches-py/        (CIFAR-10)
├── batches.meta
├── data_batch_1 … 5
└── test_batch
cifar-100-python/           (CIFAR-100)
├── meta
├── train
└── test
(folders of pictures: --layout classes)"""


@dataclass(frozen=True, slots=True)
class _Edition:
    meta: str
    names_key: str
    labels_key: str
    test: str

    def train_files(self, root: Path) -> list[Path]:
        return sorted(root.glob("data_batch_*")) if self.test == "test_batch" else [root / "train"]


_CIFAR_10 = _Edition("batches.meta", "label_names", "labels", "test_batch")
_CIFAR_100 = _Edition("meta", "coarse_label_names", "coarse_labels", "test")


def matches(root: Path) -> bool:
    """Whether the files of one of the two are here."""
    return _edition(root) is not None


def read(root: Path) -> list[Category]:
    """Each class against the rest."""
    edition = _edition(root)
    if edition is None:
        return []
    names = _names(root / edition.meta, edition.names_key)
    train = [item for file in edition.train_files(root) for item in _labelled(file, edition.labels_key, names)]
    return one_vs_rest(train, _labelled(root / edition.test, edition.labels_key, names))


def _edition(root: Path) -> _Edition | None:
    for edition in (_CIFAR_10, _CIFAR_100):
        files = [root / edition.meta, root / edition.test, *edition.train_files(root)]
        if len(files) > 2 and all(file.is_file() for file in files):
            return edition
    return None


def _names(path: Path, key: str) -> list[str]:
    names = read_pickle(path).get(key)
    if not isinstance(names, list) or not names:
        raise UsageError(f"{path} has no list {key!r}; fetch the dataset again")
    return [name.decode("latin-1") if isinstance(name, bytes) else str(name) for name in names]


def _labelled(path: Path, labels_key: str, names: Sequence[str]) -> list[Labelled]:
    content = read_pickle(path)
    rows, labels = _pixels(path, content.get("data")), content.get(labels_key)
    if not isinstance(labels, list) or len(labels) != len(rows):
        raise UsageError(f"{path} has {len(rows)} pictures but no list {labels_key!r} of as many; fetch it again")
    if any(not isinstance(label, int) or not 0 <= label < len(names) for label in labels):
        raise UsageError(f"{path} has labels beyond its {len(names)} classes; fetch it again")
    return [
        Labelled(f"{path.name}:{index}", names[label], ImageRow(row, (SIDE_PX, SIDE_PX)))
        for index, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]


def _pixels(path: Path, rows: Any) -> UInt8:
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != ROW_BYTES:
        raise UsageError(f"{path} has no array of pictures with {ROW_BYTES} bytes each; fetch it again")
    return rows


LAYOUT = Layout(
    name="cifar", title="CIFAR-10 or CIFAR-100", expected=EXPECTED, matches=matches, read=read, labelled_classes=True
)
