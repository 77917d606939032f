"""Files that appear whole or not at all, and digests of files: the one atomic write of the project."""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

OPEN_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")
"""Where what a process has open is read by a path."""
_FILE_MODE = 0o666
"""Before the umask: a file made here is shared as any other file is."""
_MISCONFIGURATION = {
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
}
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.part(\.[^.]+)?")
"""An unfinished file's name: random, short whatever the target's name is, with the target's suffix at the end."""


@contextmanager
def replacing(path: Path, *, mode: int = _FILE_MODE, durable: bool = True) -> Iterator[Path]:
    """A temporary file in the folder of ``path``, moved into its place at the end, removed if anything is raised.

    It has the target's suffix, so that writers which choose a format by the suffix choose the right one.

    Args:
        path: the file that appears or is replaced, in a folder that exists.
        mode: permissions before the umask.
        durable: content and name survive a power cut once the block has ended; False for what can be made again.

    Raises:
        OSError: the folder is missing or cannot be written to.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part{path.suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, *, mode: int = _FILE_MODE, durable: bool = True) -> None:
    """A whole file in one step; see :func:`replacing`.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path, mode=mode, durable=durable) as temporary:
        temporary.write_bytes(content)


def is_misconfiguration(error: OSError) -> bool:
    """Whether the path or its permissions are wrong; otherwise a disk fails, and that may pass."""
    return error.errno in _MISCONFIGURATION


def is_partial(name: str) -> bool:
    """Whether a file of this name is one that a killed process left unfinished."""
    return _PARTIAL.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk.

    Raises:
        OSError: the disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BufferedReader:
    """A regular file, opened for reading; never waits, as a pipe without a writer makes ``open`` wait.

    The pipe of a shell's ``<(command)`` is open already, and allowed.

    Raises:
        OSError: it cannot be opened, or is a folder, a named pipe, a device or a socket.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  # Path.open takes no opener; the caller closes
    mode = os.fstat(file.fileno()).st_mode
    if not stat.S_ISREG(mode) and not (stat.S_ISFIFO(mode) and str(path).startswith(OPEN_DESCRIPTORS)):
        file.close()
        raise OSError(errno.ENXIO, "it is no regular file", str(path))
    os.set_blocking(file.fileno(), True)
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # reading names no file
