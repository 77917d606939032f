"""Sample, Category, Dataset: the records that every layout is read into."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from bank_tools.datasets.masks import Mask, MaskError, MaskOddity, read_mask
from edge_uad.errors import UsageError
from edge_uad.records import UInt8
from edge_uad.sources.decode import read_bytes, read_image
from edge_uad.sources.folder import part_name

GOOD = "good"
"""The kind of an image without anomaly, whatever its folder is called."""


class ImageOrigin(Protocol):
    """Where an image's pixels come from."""

    def image(self) -> UInt8:
        """uint8 (H, W, 3), RGB."""

    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal."""


@dataclass(slots=True, unsafe_hash=True)
class ImageFile:
    """A picture in a file; identified by its path."""

    path: Path
    _digest: str | None = field(default=None, repr=False, compare=False)

    def image(self) -> UInt8:
        """uint8 (H, W, 3), RGB.

        Raises:
            FrameError: the file holds no whole picture.
        """
        return read_image(self.path)

    def digest(self) -> str:
        """SHA-256 of the file's bytes; computed once, because one file is a sample of many categories.

        Raises:
            FrameError: the file cannot be read.
        """
        if self._digest is None:
            self._digest = hashlib.sha256(read_bytes(self.path)).hexdigest()
        return self._digest


@dataclass(frozen=True, slots=True, eq=False)
class ImageRow:
    """A picture that is one row of an array, as CIFAR keeps them."""

    pixels: UInt8
    """uint8 (3·H·W,): all red, all green, all blue, each row by row."""
    hw: tuple[int, int]

    def image(self) -> UInt8:
        """uint8 (H, W, 3), RGB."""
        return np.ascontiguousarray(self.pixels.reshape(3, *self.hw).transpose(1, 2, 0))

    def digest(self) -> str:
        """SHA-256 of the pixels, headed by the size."""
        return hashlib.sha256(f"{self.hw[0]}x{self.hw[1]}:".encode() + self.pixels.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of a dataset with its label and mask."""

    name: str
    """Unique within its category: ``test/crack/003.png``, ``test_batch:17``."""
    kind: str
    """``good``, the kind of anomaly, or the class."""
    anomalous: bool
    origin: ImageOrigin
    mask_path: Path | None = None
    """Marks the defects, see :mod:`bank_tools.datasets.masks`; None for an anomalous image without outline, and for
    most good ones."""

    def image(self) -> UInt8:
        """uint8 (H, W, 3), RGB.

        Raises:
            FrameError: there is no whole picture; the text says why, not which.
        """
        return self.origin.image()

    def digest(self) -> str:
        """SHA-256 of the image's content in hexadecimal: what an embedding is cached by.

        Raises:
            FrameError: the file cannot be read.
        """
        return self.origin.digest()

    def mask(self, image_hw: tuple[int, int]) -> Mask | None:
        """Which pixels are defects.

        Args:
            image_hw: the image's height and width, which the mask must have as well.

        Returns:
            None for an anomalous image without a mask; without defects for a good image.

        Raises:
            MaskError: the mask cannot be read, has another size than the image, or contradicts the image's label.
        """
        if self.mask_path is None:
            return None if self.anomalous else Mask(np.zeros(image_hw, np.bool_))
        mask = read_mask(self.mask_path)
        name = part_name(self.mask_path, self.mask_path.parent)
        height, width = mask.defect.shape
        if (height, width) != image_hw:
            raise MaskError(MaskOddity.WRONG_SIZE, name, f"{width}×{height}, the image is {image_hw[1]}×{image_hw[0]}")
        if self.anomalous != mask.defect.any():
            raise MaskError(MaskOddity.ALL_BLACK if self.anomalous else MaskOddity.ON_GOOD, name)
        return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One product, or one class against the rest."""

    name: str
    good: tuple[Sample, ...]
    """What a bank may learn from."""
    test: tuple[Sample, ...]
    """What is scored; never used for the bank or the threshold."""
    warnings: tuple[str, ...] = ()
    """What was odd in it and how that was dealt with, one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A tree as it was read."""

    name: str
    """The root folder's name."""
    root: Path
    layout: str
    """The published form it was read in: one of ``LAYOUTS``."""
    categories: tuple[Category, ...]
    labelled_classes: bool = False
    """Whether the categories are classes of one labelled set, each against the rest."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd in the categories and how that was dealt with, one sentence each, to be shown to the user."""
        return tuple(warning for category in self.categories for warning in category.warnings)

    def only(self, names: Sequence[str]) -> "Dataset":
        """The same with the categories named, in the dataset's order.

        Raises:
            UsageError: there is no such category.
        """
        there = [category.name for category in self.categories]
        for name in names:
            if name not in there:
                raise UsageError(f"{self.root}: there is no category {name!r}; there are {', '.join(there)}")
        return replace(self, categories=tuple(category for category in self.categories if category.name in names))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One published form of a dataset."""

    name: str
    title: str
    """The datasets that are published so."""
    expected: str
    """The tree, drawn."""
    matches: Callable[[Path], bool]
    """Whether a folder is a root of this layout, by its folders' names alone."""
    read: Callable[[Path], Sequence[Category]]
    """Reads a root that matches."""
    labelled_classes: bool = False
    """Whether the categories are classes, each against the rest: such anomalies have no masks."""
