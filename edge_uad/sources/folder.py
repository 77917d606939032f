"""HeatmapRenderer from a folder, a glob or a list of files, in natural order."""

import glob
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from edge_uad.errors import FrameError, SourceEndedError, UsageError
from edge_uad.net.wire import valid_text
from edge_uad.records import Frame, UnreadableFrame
from edge_uad.sources.decode import MAX_IMAGE_PIXELS, SUFFIXES, decode_picture, read_bytes

_DIGITS = re.compile(r"(\d+)")


def image_files(path_or_glob: str) -> list[Path]:
    """The pictures that a path names.

    A folder gives every file below it with a picture's suffix; a glob (``**`` descends) gives every file that
    it matches; a file gives itself. Hidden files and folders are left out of folders.

    Returns:
        In natural order: ``part2`` before ``part10``.

    Raises:
        UsageError: nothing is there.
    """
    path = Path(path_or_glob).expanduser()
    if path.is_dir():
        files = [file for file in _walk(path) if file.suffix.lower() in SUFFIXES]
        if not files:
            known = " ".join(sorted(SUFFIXES))
            raise UsageError(f"{path_or_glob}: the folder holds no image; known suffixes are {known}")
    elif path.exists():
        files = [path]
    elif glob.has_magic(path_or_glob):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
        files = [Path(name) for name in matches if not Path(name).is_dir()]
        if not files:
            raise UsageError(f"{path_or_glob}: no file matches")
    else:
        raise UsageError(f"{path_or_glob}: there is no such file or folder; check the path")
    return sorted(files, key=natural_key)


def root_of(path_or_glob: str) -> Path:
    """What the names of a folder's or glob's pictures are told relative to: the folder that has no wildcard."""
    path = Path(path_or_glob).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not glob.has_magic(path_or_glob):
        return path.parent
    plain: list[str] = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain) if plain else Path()


def part_name(path: Path, root: Path | None) -> str:
    """What a file's part is called: its path, relative to ``root`` where it stands below; always valid UTF-8."""
    named = path.relative_to(root) if root is not None and path.is_relative_to(root) else path
    return valid_text(named.as_posix())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts numbers inside names by their value, folder by folder; the name itself settles what is left."""
    key: list[tuple[int, int, str]] = []
    for part in path.parts:
        key.extend((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in _DIGITS.split(part))
        key.append((-1, 0, ""))
    return key


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.extend(Path(parent, name) for name in names if not name.startswith("."))
    return found


class FolderSource:
    """Gives each file once, then ends. A file without a picture is an ``UnreadableFrame``.

    Args:
        station: the frames' station.
        files: in the order of inspection.
        root: ``part_id`` is the file's path relative to this.
        max_pixels: larger pictures are unreadable.
    """

    def __init__(
        self, station: str, files: Sequence[Path], *, root: Path | None = None, max_pixels: int = MAX_IMAGE_PIXELS
    ) -> None:
        self._station = station
        self._files = list(files)
        self._root = root
        self._max_pixels = max_pixels
        self._least_side_px: int | None = None
        self._next = 0

    def reduce_to(self, least_side_px: int) -> None:
        """Decode JPEG files at the smallest size whose sides both have so many pixels."""
        self._least_side_px = least_side_px

    def open(self) -> None:
        """Nothing to connect; after ``close`` the folder goes on where it was."""

    def read(self, timeout_s: float) -> Frame | UnreadableFrame | None:  # noqa: ARG002  (files do not keep one waiting)
        """The next file.

        Raises:
            SourceEndedError: all files have been given.
        """
        if self._next == len(self._files):
            raise SourceEndedError(f"all {len(self._files)} files have been read")
        frame_id, path = self._next, self._files[self._next]
        self._next += 1
        part_id = self._part_id(path)
        at_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        try:
            picture = decode_picture(read_bytes(path), max_pixels=self._max_pixels, least_side_px=self._least_side_px)
        except FrameError as error:
            return UnreadableFrame(
                station=self._station,
                frame_id=frame_id,
                captured_at_ns=at_ns,
                captured_mono_ns=mono_ns,
                part_id=part_id,
                reason=str(error),
            )
        return Frame(
            station=self._station,
            frame_id=frame_id,
            captured_at_ns=at_ns,
            captured_mono_ns=mono_ns,
            part_id=part_id,
            image=picture.image,
            taken_hw=picture.taken_hw,
        )

    def close(self) -> None:
        """Nothing is held open between files."""

    def _part_id(self, path: Path) -> str:
        return part_name(path, self._root)
