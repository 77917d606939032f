"""Files that appear whole or not at all, and digests of files: the one atomic write of the project."""

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
