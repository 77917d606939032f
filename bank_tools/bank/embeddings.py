"""Embeddings of many images in a temporary file, read back block by block: memory does not grow with their number."""

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_uad.errors import UsageError
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.masking import foreground
from edge_uad.records import Embedding, Float32, Int, PatchMask

Change = Callable[[ForegroundEmbedding], ForegroundEmbedding]
"""Another form of an image's embedding, with the same mask."""


class _Records:
    """The file, one record of tokens and attention for each image, and the masks.

    Pickled it is the file's content, which a process elsewhere reads as it is given, by :class:`_RecordsInMemory`.
    """

    def __init__(self, folder: Path | None) -> None:
        with _explained(folder):
            self.folder = folder or Path(tempfile.gettempdir())
            self._file = _temporary_file(self.folder)
        weakref.finalize(self, self._file.close)
        self.masks: list[PatchMask] = []
        self.dim = 0

    def append(self, image: ForegroundEmbedding) -> None:
        tokens = np.ascontiguousarray(image.embedding.tokens, np.float32)
        attention = np.ascontiguousarray(image.embedding.attention, np.float32)
        with _explained(self.folder):
            for array in (tokens, attention):
                _write_all(self._file, array.data.cast("B"))
        self.dim = tokens.shape[1]
        self.masks.append(image.mask)

    def attention(self, image: int) -> Float32:
        n = len(self.masks[image].foreground)
        attention = np.empty(n, np.float32)
        _read_all(self._file, attention.data.cast("B"), 4 * n * (image * (self.dim + 1) + self.dim))
        return attention

    def read(self, image: int) -> ForegroundEmbedding:
        mask = self.masks[image]
        n = len(mask.foreground)
        record = np.empty(n * (self.dim + 1), np.float32)
        _read_all(self._file, record.data.cast("B"), image * record.nbytes)
        tokens, attention = record[: n * self.dim].reshape(n, self.dim), record[n * self.dim :]
        return ForegroundEmbedding(Embedding(tokens=tokens, attention=attention, grid_hw=mask.grid_hw), mask)

    def __reduce__(self) -> tuple[type["_RecordsInMemory"], tuple[object, ...]]:
        content = np.empty(0, np.float32)
        if self.masks:
            # mapped, so that it is copied to where it is wanted and nowhere else
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            content = np.frombuffer(mapped, np.float32)
        return _RecordsInMemory, (content, self.masks, self.dim)


class _RecordsInMemory:
    """The same records, read only, in memory that several processes may share."""

    def __init__(self, content: Float32, masks: list[PatchMask], dim: int) -> None:
        self._content = content
        self.masks = masks
        self.dim = dim
        self.folder = Path(tempfile.gettempdir())

    def append(self, _image: ForegroundEmbedding) -> None:
        raise TypeError("embeddings that another process made are read only")

    def attention(self, image: int) -> Float32:
        return self._record(image)[-len(self.masks[image].foreground) :]

    def read(self, image: int) -> ForegroundEmbedding:
        mask, record = self.masks[image], self._record(image)
        n = len(mask.foreground)
        tokens, attention = record[: n * self.dim].reshape(n, self.dim), record[n * self.dim :]
        return ForegroundEmbedding(Embedding(tokens=tokens, attention=attention, grid_hw=mask.grid_hw), mask)

    def _record(self, image: int) -> Float32:
        length = len(self.masks[image].foreground) * (self.dim + 1)
        return self._content[image * length : (image + 1) * length]


class EmbeddingStore:
    """Embeddings with their masks, in the order in which they were appended; only the masks stay in memory.

    The file has no name: it is gone when the process ends, however it ends. What is read is bit for bit what was
    appended. All images have the same grid and dimension.

    Args:
        folder: of the temporary file; None for the system's folder of temporary files.

    Raises:
        UsageError: the file cannot be made.
    """

    def __init__(self, folder: Path | None = None, *, view: "_View | None" = None) -> None:
        self._view = view or _View(_Records(folder), None, None, None)

    def append(self, image: ForegroundEmbedding) -> None:
        """Write one image's embedding to the file.

        Raises:
            UsageError: the disk is full or cannot be written.
        """
        self._view.records.append(image)

    def only(self, images: Sequence[int]) -> "EmbeddingStore":
        """A view of some of the images, numbered anew in the order given."""
        return EmbeddingStore(view=replace(self._view, images=[self._number(image) for image in images]))

    def changed(self, change: Change) -> "EmbeddingStore":
        """A view in which each image is changed as it is read."""
        before = self._view.change
        both = change if before is None else lambda image: change(before(image))
        return EmbeddingStore(view=replace(self._view, change=both))

    def masked(self, *, kernel: int, threshold: float) -> "EmbeddingStore":
        """A view of the images there are now, each with the mask of its own attention.

        Args:
            kernel: as of :func:`edge_uad.inference.masking.foreground`.
            threshold: as there; 0 keeps every patch.

        Raises:
            FrameError: an image's attention cannot be masked by.
        """
        records = self._view.records
        masks = [
            foreground(records.attention(image), mask.grid_hw, kernel=kernel, threshold=threshold)
            for image, mask in enumerate(records.masks)
        ]
        return EmbeddingStore(view=replace(self._view, masks=masks))

    def __len__(self) -> int:
        return len(self._view.records.masks if self._view.images is None else self._view.images)

    def __iter__(self) -> Iterator[ForegroundEmbedding]:
        return (self[image] for image in range(len(self)))

    def __getitem__(self, image: int) -> ForegroundEmbedding:
        found = self._view.records.read(self._number(image))
        if self._view.masks is not None:
            found = replace(found, mask=self._view.masks[self._number(image)])
        return found if self._view.change is None else self._view.change(found)

    def mask(self, image: int) -> PatchMask:
        """The mask of one image, without reading its embedding."""
        masks = self._view.records.masks if self._view.masks is None else self._view.masks
        return masks[self._number(image)]

    @property
    def folder(self) -> Path:
        """Where the file lies, and where other temporary files of the same work may lie."""
        return self._view.records.folder

    @property
    def dim(self) -> int:
        """D, the dimension of the embeddings; 0 before the first."""
        return self._view.records.dim

    @property
    def n_foreground(self) -> Int:
        """int64 (n,), foreground patches of each image."""
        return np.asarray([self.mask(image).foreground.sum() for image in range(len(self))], np.int64)

    def _number(self, image: int) -> int:
        if not 0 <= image < len(self):
            raise IndexError(f"image {image} of {len(self)}")
        return image if self._view.images is None else self._view.images[image]


@dataclass(frozen=True, slots=True)
class _View:
    """What a store shows of the records."""

    records: _Records | _RecordsInMemory
    images: Sequence[int] | None
    """Numbers of records; None for all, those that are appended later among them."""
    change: Change | None
    masks: Sequence[PatchMask] | None
    """Of the records, where other ones than theirs are shown."""


class ForegroundPatches:
    """The foreground patches of all images of a store as rows of one matrix, each read when it is indexed.

    Rows come image by image, in the order of the grid; the matrix itself is never in memory.
    """

    def __init__(self, images: EmbeddingStore) -> None:
        self._images = images
        self._ends = np.cumsum(images.n_foreground)
        self.shape = (int(self._ends[-1]), images.dim)
        """(M, D)."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: "slice | Int") -> Float32:
        """float32 (n, D): the rows of a slice without step, or of an ascending array of row numbers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            rows = np.arange(start, max(start, stop))
        found = np.empty((len(rows), self.shape[1]), np.float32)
        image_of = self.image_of(rows)
        for image in np.unique(image_of).tolist():
            first, last = np.searchsorted(image_of, (image, image + 1))
            one = self._images[image]
            before = int(self._ends[image - 1]) if image else 0
            found[first:last] = one.embedding.tokens[one.mask.foreground][rows[first:last] - before]
        return found

    def image_of(self, rows: Int) -> Int:
        """int64 (n,): the image each row belongs to."""
        return np.searchsorted(self._ends, rows, side="right")


def scratch_folder(beside: Path) -> Path:
    """Where temporary files of embeddings go: $TMPDIR where it is set, else the folder of the result.

    Not the system's folder of temporary files, which is often in memory or small.
    """
    named = os.environ.get("TMPDIR")
    return Path(named) if named else beside


def temporary_array(shape: tuple[int, int], folder: Path) -> Float32:
    """float32 zeros in a nameless temporary file, mapped: the system can write it out where memory is short.

    Raises:
        UsageError: the disk is full or cannot be written.
    """
    n_bytes = 4 * shape[0] * shape[1]
    with _explained(folder), _temporary_file(folder) as file:
        os.posix_fallocate(file.fileno(), 0, n_bytes)  # a full disk is an error here, not a signal at some later write
        mapped = mmap.mmap(file.fileno(), n_bytes)
    return np.frombuffer(mapped, np.float32).reshape(shape)


def _temporary_file(folder: Path) -> BinaryIO:
    """A file without a name in the folder.

    Raises:
        OSError: it cannot be made.
    """
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def _write_all(file: BinaryIO, content: memoryview) -> None:
    while content:
        content = content[file.write(content) :]


def _read_all(file: BinaryIO, into: memoryview, offset: int) -> None:
    while into:
        n = os.preadv(file.fileno(), [into], offset)
        if n == 0:
            raise OSError(errno.EIO, "the temporary file of embeddings ended early")
        into, offset = into[n:], offset + n


@contextmanager
def _explained(folder: Path | None) -> Iterator[None]:
    """Turn a full or read-only disk into one sentence."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"the embeddings of the good images cannot be written to a temporary file in {folder or 'TMPDIR'} "
            f"({error.strerror or error}); free some space there or set TMPDIR to another folder"
        ) from error
