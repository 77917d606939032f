"""Frames from a folder, a glob or a list of files, in natural order, and what was left out of it with its reason."""

import fnmatch
import glob
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edge_uad.errors import FrameError, SourceEndedError, UsageError
from edge_uad.net.wire import valid_text
from edge_uad.paths import expand_user
from edge_uad.records import Frame, UnreadableFrame
from edge_uad.sources.decode import MAX_IMAGE_PIXELS, SUFFIXES, UnusedBitsWarning, decode_picture, read_bytes

_DIGITS = re.compile(r"(\d+)")
_SHOWN_PER_REASON = 3
_THUMBNAIL_NAMES = frozenset(
    {
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        ".thumbnails",
        ".@__thumb",
        ".ds_store",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
    }
)
"""What network storage and file managers write beside pictures, in lower case."""
_APPLE_DOUBLE = "._"
"""How macOS begins the names of its notes on other files."""

log = logging.getLogger("edge_uad.sources.folder")


class LeftOutReason(StrEnum):
    """Why a file or folder gives no image; worded to follow a count."""

    UNKNOWN_SUFFIX = "without a known suffix"
    NO_SUFFIX = "without a suffix"
    HIDDEN = "hidden"
    THUMBNAIL = "of a file manager or network storage"
    UNREADABLE_FOLDER = "unreadable folder"
    REPEATED_FOLDER = "linked folder that is read already"
    BROKEN_LINK = "broken link"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder below the one named that gives no image."""

    path: Path
    reason: LeftOutReason


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What a folder, glob or path holds."""

    images: tuple[Path, ...]
    """In natural order: ``part2`` before ``part10``."""
    left_out: tuple[LeftOut, ...] = ()
    """In natural order; a folder left out is one entry, whatever it holds."""

    @property
    def counts(self) -> Counter[LeftOutReason]:
        """How many were left out for each reason."""
        return Counter(one.reason for one in self.left_out)


def describe_left_out(left_out: Iterable[LeftOut], *, root: Path | None = None) -> str | None:
    """``4 files or folders left out: 3 without a known suffix (a.txt, …), 1 unreadable folder (x)``; None for none.

    Args:
        left_out: of one or more :class:`FoundFiles`.
        root: names are relative to it where they lie below.
    """
    names: dict[LeftOutReason, list[str]] = {}
    for one in left_out:
        names.setdefault(one.reason, []).append(_printable(part_name(one.path, root)))
    if not names:
        return None
    parts = [f"{len(those)} {reason} ({_first_few(those)})" for reason, those in names.items()]
    n = sum(map(len, names.values()))
    return f"{n} {'file or folder' if n == 1 else 'files or folders'} left out: {', '.join(parts)}"


def find_images(path_or_glob: str) -> FoundFiles:
    """The pictures that a path names, and what was left out.

    A folder gives every file below it with a picture's suffix. Folders reached by symbolic links are read too, each
    folder once, so that a link to a folder above ends nowhere. Hidden files and folders, and those that network storage
    and file managers write, are left out; so is a file without suffix, even if it holds a picture. A glob (``**``
    descends by the same rules) gives every other file that it matches, whatever its suffix; a file gives itself.

    Raises:
        UsageError: nothing is there, or the folder cannot be listed.
    """
    path = expand_user(path_or_glob)
    if path.is_dir():
        return _images_of_folder(path, path_or_glob)
    if path.exists():
        return FoundFiles((path,))
    if not glob.has_magic(path_or_glob):
        raise UsageError(f"{path_or_glob}: there is no such file or folder; check the path")
    found = _images_of_glob(path)
    if not found.images:
        raise UsageError(f"{path_or_glob}: no file matches{_and_left_out(found.left_out, root_of(path_or_glob))}")
    return found


def image_files(path_or_glob: str) -> list[Path]:
    """The images of :func:`find_images`; what was left out is logged as a warning.

    Raises:
        UsageError: as :func:`find_images`.
    """
    found = find_images(path_or_glob)
    log_left_out(found, path_or_glob)
    return list(found.images)


def log_left_out(found: FoundFiles, path_or_glob: str) -> None:
    """Log one warning that counts what was left out; nothing where all was taken."""
    if text := describe_left_out(found.left_out, root=root_of(path_or_glob)):
        log.warning("%s: %s", path_or_glob, text)


def root_of(path_or_glob: str) -> Path:
    """The folder that part names of a folder's or glob's pictures are relative to: the one without wildcard."""
    path = expand_user(path_or_glob)
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
    """A file's part name: its path, relative to ``root`` where it lies below that; always valid UTF-8."""
    named = path.relative_to(root) if root is not None and path.is_relative_to(root) else path
    return valid_text(named.as_posix())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts numbers inside names by their value, folder by folder; the name itself settles what is left."""
    key: list[tuple[int, int, str]] = []
    for part in path.parts:
        key.extend((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in _DIGITS.split(part))
        key.append((-1, 0, ""))
    return key


def scan_folder(folder: Path) -> FoundFiles:
    """The pictures below a folder, which may be none, and what was left out; see :func:`find_images`.

    Raises:
        UsageError: the folder cannot be listed.
    """
    left_out: list[LeftOut] = []
    images: list[Path] = []
    for file in _walk(folder, left_out):
        if file.suffix.lower() in SUFFIXES:
            images.append(file)
        else:
            reason = LeftOutReason.UNKNOWN_SUFFIX if file.suffix else LeftOutReason.NO_SUFFIX
            left_out.append(LeftOut(file, reason))
    return _sorted(images, left_out)


def _images_of_folder(folder: Path, named: str) -> FoundFiles:
    found = scan_folder(folder)
    if not found.images:
        known = " ".join(sorted(SUFFIXES))
        raise UsageError(
            f"{named}: the folder holds no image; known suffixes are {known}{_and_left_out(found.left_out, folder)}"
        )
    return found


def _images_of_glob(pattern: Path) -> FoundFiles:
    left_out: list[LeftOut] = []
    if "**" in pattern.parts:
        root = root_of(str(pattern))
        wanted = pattern.parts[len(root.parts) :]
        files = [file for file in _walk(root, left_out) if _matches(file.parts[len(root.parts) :], wanted)]
        return _sorted(files, left_out)
    matches = glob.glob(str(pattern))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    files = []
    for file in map(Path, matches):
        if is_thumbnail(file.name):
            left_out.append(LeftOut(file, LeftOutReason.THUMBNAIL))
        elif not file.is_dir():
            files.append(file)
    return _sorted(files, left_out)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob, part by part; ``**`` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return any(_matches(parts[skipped:], rest) for skipped in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _sorted(images: Iterable[Path], left_out: Iterable[LeftOut]) -> FoundFiles:
    return FoundFiles(
        tuple(sorted(images, key=natural_key)), tuple(sorted(left_out, key=lambda one: natural_key(one.path)))
    )


def _walk(root: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Every visible file below a folder. Linked folders come last: one that has a path of its own is read by that.

    Raises:
        UsageError: the folder itself cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                left_out.append(LeftOut(folder, LeftOutReason.REPEATED_FOLDER))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: natural_key(Path(entry.name)))
        except OSError as error:
            if folder == root:
                raise UsageError(f"the folder {root} cannot be listed: {error.strerror or error}") from error
            left_out.append(LeftOut(folder, LeftOutReason.UNREADABLE_FOLDER))
            continue
        for entry in entries:
            path = Path(entry.path)
            if (reason := _unwanted(entry)) is not None:
                left_out.append(LeftOut(path, reason))
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif path.is_dir():
                links.append(path)
            else:
                yield path


def _unwanted(entry: os.DirEntry[str]) -> LeftOutReason | None:
    if is_thumbnail(entry.name):
        return LeftOutReason.THUMBNAIL
    if entry.name.startswith("."):
        return LeftOutReason.HIDDEN
    if entry.is_symlink() and not Path(entry.path).exists():
        return LeftOutReason.BROKEN_LINK
    return None


def is_thumbnail(name: str) -> bool:
    """Whether a file or folder of this name is written by network storage or a file manager beside pictures."""
    return name.lower() in _THUMBNAIL_NAMES or name.startswith(_APPLE_DOUBLE)


def _and_left_out(left_out: Sequence[LeftOut], root: Path) -> str:
    text = describe_left_out(left_out, root=root)
    return "" if text is None else f"; {text}"


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN_PER_REASON]) + (", …" if len(names) > _SHOWN_PER_REASON else "")


def _printable(name: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name)


class FolderSource:
    """Gives each file once, then ends. A file without a picture is an ``UnreadableFrame``.

    Args:
        station: the frames' station.
        files: in the order of inspection.
        root: ``part_id`` is the file's path relative to this.
        max_pixels: larger pictures are unreadable.
        left_out: what the folder holds beside ``files``, for a caller that reports it.
    """

    def __init__(
        self,
        station: str,
        files: Sequence[Path],
        *,
        root: Path | None = None,
        max_pixels: int = MAX_IMAGE_PIXELS,
        left_out: Sequence[LeftOut] = (),
    ) -> None:
        self.left_out = tuple(left_out)
        self.unused_bits = UnusedBitsWarning(station)
        """Counts 16-bit pictures whose highest bits are never used."""
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
            if self.unused_bits.n_pictures > 1:
                log.warning("%s", self.unused_bits.summary)
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
        self.unused_bits.note(picture, part_id)
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
