"""Folders of pictures and of masks, as samples."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bank_tools.datasets.records import GOOD, ImageFile, Sample
from edge_uad.errors import UsageError
from edge_uad.sources.decode import SUFFIXES
from edge_uad.sources.folder import natural_key

NO_MASKS: Mapping[str, Path] = MappingProxyType({})
_MASK_ENDING = re.compile(r"_mask$")


def subfolders(folder: Path) -> list[Path]:
    """The visible folders inside a folder, in natural order; none where it is no folder.

    Raises:
        UsageError: the folder cannot be listed.
    """
    return sorted((path for path in _listed(folder) if path.is_dir()), key=natural_key)


def pictures(folder: Path, *, deep: bool = False) -> list[Path]:
    """The visible picture files inside a folder, in natural order; none where it is no folder.

    Args:
        folder: where to look.
        deep: whether to look in its subfolders as well.

    Raises:
        UsageError: the folder cannot be listed.
    """
    found = [path for path in _listed(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if deep:
        for below in subfolders(folder):
            found += pictures(below, deep=True)
    return sorted(found, key=natural_key)


def categories_of(root: Path, marker: str) -> list[Path]:
    """The folders that are categories: those below the root that hold the marker, or the root itself."""
    if (root / marker).is_dir():
        return [root]
    return [folder for folder in subfolders(root) if (folder / marker).is_dir()]


def samples(
    files: Sequence[Path],
    *,
    root: Path,
    kind: str = GOOD,
    anomalous: bool = False,
    masks: Mapping[str, Path] = NO_MASKS,
) -> list[Sample]:
    """A sample for each file, named by its path below the root; masks are found by the file's stem."""
    return [
        Sample(
            name=file.relative_to(root).as_posix(),
            kind=kind,
            anomalous=anomalous,
            origin=ImageFile(file),
            mask_path=masks.get(file.stem),
        )
        for file in files
    ]


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """A folder's masks by the stem of their image: ``003.png`` and ``003_mask.png`` are both for ``003``."""
    return {_MASK_ENDING.sub("", file.stem): file for file in pictures(folder)}


def orphans(masks: Mapping[str, Path], files: Sequence[Path], *, where: str) -> list[str]:
    """A warning where masks have no image."""
    stems = {file.stem for file in files}
    lost = [mask.name for stem, mask in masks.items() if stem not in stems]
    if not lost:
        return []
    return [
        f"{where}: {counted(lost, 'mask')} {'has' if len(lost) == 1 else 'have'} no image and "
        f"{'is' if len(lost) == 1 else 'are'} left out: {listed(lost)}"
    ]


def counted(things: Sequence[object], noun: str) -> str:
    """``1 mask``, ``3 masks``."""
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def listed(names: Sequence[str], at_most: int = 4) -> str:
    """The first few names, and that there are more."""
    return ", ".join(names[:at_most]) + (", …" if len(names) > at_most else "")


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be listed: {error.strerror or error}") from error
