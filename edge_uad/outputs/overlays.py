"""Overlays as PNG files, named after the images they show."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from edge_uad.errors import UsageError
from edge_uad.files import replacing
from edge_uad.records import UInt8

SUFFIX = ".png"
MAX_NAME_BYTES = 255
"""What file systems allow of one name."""
_KEPT_BYTES = 180
"""Of an image's name in the name of its overlay, where that has to be shortened."""
_DIGEST_CHARS = 16


class OverlayFolder:
    """Writes one PNG per image, in the images' own folder structure below the folder that they share.

    ``a/b.jpg`` becomes ``a/b.png``; where several images differ in their suffix alone, ``a/b.jpg.png``. Where that is
    too long, taken, or holds control characters, the name is shortened and ends in a digest of the image's path. No two
    images have the same overlay.

    Args:
        root: created where it is missing.
        files: every image that may come.

    Raises:
        UsageError: the folder cannot be created, or an overlay would take the place of an image.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        self._names = overlay_names(files)
        images = {file.resolve() for file in files}
        replaced = next((file for file in files if self.path_of(file).resolve() in images), None)
        if replaced is not None:
            raise UsageError(f"the overlay of {replaced} would replace an image; name another folder than {root}")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the folder {root} cannot be created: {error.strerror}; name another one") from error

    def path_of(self, file: Path) -> Path:
        """The path of the overlay of one of the images."""
        return self._root / self._names[file.absolute()]

    def write(self, file: Path, picture: UInt8) -> Path:
        """Write an overlay, uint8 (H, W, 3) RGB.

        Raises:
            UsageError: the file cannot be written.
        """
        path = self.path_of(file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=False) as temporary:
                Image.fromarray(picture).save(temporary, compress_level=1)  # fast; photographs hardly shrink further
        except OSError as error:
            raise UsageError(f"the overlay {path} cannot be written: {error.strerror or error}") from error
        return path


def overlay_names(files: Iterable[Path]) -> dict[Path, Path]:
    """For each image, by its absolute path, the path of its overlay relative to the overlays' folder.

    Different images have different overlays, and none is a folder that another one lies in.
    """
    images = list(dict.fromkeys(file.absolute() for file in files))
    relative = _relative(images)
    short = {image: path.with_suffix(SUFFIX) for image, path in relative.items()}
    whole = {image: path.with_name(path.name + SUFFIX) for image, path in relative.items()}
    n_short, n_whole = Counter(short.values()), Counter(whole.values())
    names: dict[Path, Path] = {}
    for image in images:
        for name, n in (
            (short[image], n_short[short[image]] + n_whole[short[image]]),
            (whole[image], n_whole[whole[image]]),
        ):
            if n == 1 and _fits(name.name):
                names[image] = name
                break
    folders = {folder for path in whole.values() for folder in path.parents}
    names = {image: name for image, name in names.items() if name not in folders}
    taken = folders | set(names.values())
    for image in images:
        if image not in names:
            names[image] = _digested(image, relative[image], taken)
            taken.add(names[image])
    return names


def _relative(images: Sequence[Path]) -> dict[Path, Path]:
    """Each image's path below the folder that all share, without ``..``."""
    plain = {image: Path(os.path.normpath(image)) for image in images}
    common = Path(os.path.commonpath({path.parent for path in plain.values()})) if plain else Path()
    return {image: path.relative_to(common) for image, path in plain.items()}


def _fits(name: str) -> bool:
    return len(os.fsencode(name)) <= MAX_NAME_BYTES and not any(ord(one) < 0x20 or ord(one) == 0x7F for one in name)


def _digested(image: Path, relative: Path, taken: set[Path]) -> Path:
    """A name that fits and is not taken: what can be kept of the image's own, and a digest of its path."""
    kept = "".join(one if one.isprintable() else "_" for one in relative.name)
    kept = os.fsencode(kept)[:_KEPT_BYTES].decode("utf-8", "ignore")
    content = os.fsencode(image)
    while True:
        content = hashlib.sha256(content).hexdigest().encode()
        name = relative.with_name(f"{kept}-{content[:_DIGEST_CHARS].decode()}{SUFFIX}")
        if name not in taken:
            return name
