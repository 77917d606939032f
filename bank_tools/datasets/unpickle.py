"""Reads the pickles in which CIFAR is published, and nothing else.

A pickle may name any function of any module for the reader to call. This reader looks up none: the few names that an
array in a pickle needs stand for small classes of its own, every other name is refused, and the pixels are bytes
until they are checked.
"""

import io
import pickle  # only its parser is used; every name it looks up is answered below
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edge_uad.errors import FrameError, UsageError
from edge_uad.records import UInt8
from edge_uad.sources.decode import read_bytes

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
