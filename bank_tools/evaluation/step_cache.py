"""The finished steps of a long run, on disk: a run that was killed continues where it was."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_uad.errors import UsageError
from edge_uad.files import write_atomically

_SUFFIX = ".safetensors"

Tensors = dict[str, NDArray[Any]]


class StepCache:
    """Results by the digest of everything that decides them; a changed setting is another step.

    Args:
        folder: created where it is missing.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.n_found = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the folder {folder} cannot be made: {error.strerror}; name another --out") from error

    def get(self, key: str) -> Tensors | None:
        """The result of a finished step; None where there is none."""
        try:
            found: Tensors = load(self._path(key).read_bytes())
        except (OSError, SafetensorError):
            return None
        self.n_found += 1
        return found

    def put(self, key: str, tensors: Tensors) -> None:
        """Keep a finished step.

        Raises:
            UsageError: it cannot be written.
        """
        write_result(self._path(key), save({name: np.ascontiguousarray(one) for name, one in tensors.items()}))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def digest_of(facts: object) -> str:
    """SHA-256 of anything that JSON can say, the same for equal facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def write_result(path: Path, content: bytes) -> None:
    """A file of a measurement, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}; free some space or name another --out"
        ) from error
