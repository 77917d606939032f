"""Folders of pictures and of masks, as samples."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bank_tools.datasets.records import GOOD, ImageFile, Sample
from bank_tools.datasets.wording import counted, listed
from edge_uad.errors import UsageError
from edge_uad.sources.decode import SUFFIXES
from edge_uad.sources.folder import is_thumbnail, natural_key, scan_folder

NO_MASKS: Mapping[Path, Path] = MappingProxyType({})
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
        folder: that is listed.
        deep: list its subfolders too.

    Raises:
        UsageError: the folder cannot be listed.
    """
    if not deep:
        found = [path for path in _listed(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]
        return sorted(found, key=natural_key)
    return list(scan_folder(folder).images) if folder.is_dir() else []


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
    masks: Mapping[Path, Path] = NO_MASKS,
) -> list[Sample]:
    """A sample for each file, named by its path below the root; masks by the file."""
    return [
        Sample(
            name=file.relative_to(root).as_posix(),
            kind=kind,
            anomalous=anomalous,
            origin=ImageFile(file),
            mask_path=masks.get(file),
        )
        for file in files
    ]


def match_masks(masks: Sequence[Path], files: Sequence[Path], *, where: str) -> tuple[dict[Path, Path], list[str]]:
    """Each image's mask by the stem: ``003_mask.png`` or else ``003.png`` is for ``003``.

    Args:
        masks: the files of masks.
        files: the images.
        where: how warnings name the folder of the masks.

    Returns:
        Mask by image, and a warning each for masks without an image and for masks of an image that has one already.
    """
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for mask in sorted(masks, key=lambda path: not _MASK_ENDING.search(path.stem)):
        by_stem[_MASK_ENDING.sub("", mask.stem)].append(mask)
    stems = {file.stem for file in files}
    lost = [mask.name for stem, those in by_stem.items() if stem not in stems for mask in those]
    second = [mask.name for stem, those in by_stem.items() if stem in stems for mask in those[1:]]
    warnings = []
    if lost:
        warnings.append(f"{where}: {counted(lost, 'mask')} without image, left out: {listed(lost)}")
    if second:
        warnings.append(
            f"{where}: {counted(second, 'mask')} of an image that has another mask, left out: {listed(second)}"
        )
    return {file: by_stem[file.stem][0] for file in files if file.stem in by_stem}, warnings


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and not is_thumbnail(path.name)]
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be listed: {error.strerror or error}") from error
