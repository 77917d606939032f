"""CIFAR-10 and CIFAR-100 as published for Python: pickled arrays of 32×32 pictures.

Krizhevsky, Learning multiple layers of features from tiny images, 2009. One class is good, the rest anomalous; of
CIFAR-100 the classes are the 20 superclasses, as in UniFormaly and the papers it compares with.

A pickle may name any function of any module for the reader to call. The reader here looks up none: the few names that
an array in a pickle needs are mapped to small classes of this module, every other name is refused, and the pixels are
bytes until they are checked.
"""

import io
import pickle  # only its parser is used; every name it looks up is answered below
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bank_tools.datasets.classes import Labelled, one_vs_rest
from bank_tools.datasets.records import Category, ImageRow, Layout
from edge_uad.errors import FrameError, UsageError
from edge_uad.records import UInt8
from edge_uad.sources.decode import read_bytes

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
MAX_PICKLE_BYTES = 512 * 1024**2
_FAULTS = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
)


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


class _DType:
    """Stands for ``numpy.dtype``; only bytes are known."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in {"u1", b"u1", "|u1"}:
            raise pickle.UnpicklingError(f"an array of {code!r}, where pixels are u1")

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: bytes have none."""


class _Array:
    """Stands for ``numpy.ndarray`` and what rebuilds it."""

    def __init__(self, *_: object) -> None:
        self.pixels: UInt8 = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array that is not made of bytes")
        self.pixels = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if column_major else "C")


class _Names(pickle.Unpickler):
    KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _DType,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): lambda text, _codec: text.encode("latin-1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.KNOWN[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """A dictionary of strings, bytes, numbers, lists and arrays of bytes.

    Returns:
        By key, which Python 2 wrote as bytes; an array is uint8.

    Raises:
        UsageError: the file cannot be read, is no such pickle, or asks for anything else.
    """
    try:
        content = _Names(io.BytesIO(read_bytes(path, max_bytes=MAX_PICKLE_BYTES)), encoding="bytes").load()
    except (FrameError, *_FAULTS) as error:
        raise UsageError(f"{path} is not a CIFAR pickle that can be read safely ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, a dictionary was expected; fetch it again")
    return {_text(key): value.pixels if isinstance(value, _Array) else value for key, value in content.items()}


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


LAYOUT = Layout(
    name="cifar", title="CIFAR-10 or CIFAR-100", expected=EXPECTED, matches=matches, read=read, labelled_classes=True
)
