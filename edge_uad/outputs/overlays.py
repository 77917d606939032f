"""Overlays as PNG files, named after the images they show."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from edge_uad.errors import UsageError
from edge_uad.files import replacing
from edge_uad.records import UInt8


class OverlayFolder:
    """Writes one PNG per image, in the images' own folder structure below what they share.

    Args:
        root: created where it is missing.
        files: every image that may come.

    Raises:
        UsageError: the folder cannot be created, or an overlay would take the place of an image.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        parents = {str(file.absolute().parent) for file in files}
        self._common = Path(os.path.commonpath(parents)) if parents else Path()
        self._stems = Counter(self._relative(file).with_suffix("") for file in files)
        images = {file.resolve() for file in files}
        replaced = next((file for file in files if self.path_of(file).resolve() in images), None)
        if replaced is not None:
            raise UsageError(f"the overlay of {replaced} would replace an image; name another folder than {root}")
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the folder {root} cannot be created: {error.strerror}; name another one") from error

    def path_of(self, file: Path) -> Path:
        """Where the overlay of an image goes."""
        relative = self._relative(file)
        clashes = self._stems[relative.with_suffix("")] > 1
        return self._root / (relative.with_name(f"{relative.name}.png") if clashes else relative.with_suffix(".png"))

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

    def _relative(self, file: Path) -> Path:
        return file.absolute().relative_to(self._common)
