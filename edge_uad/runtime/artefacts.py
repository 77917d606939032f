"""Banks and models that must lie in one folder, whatever symbolic links and replaced files do."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_uad.errors import ArtefactError

_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def opened_inside(path: Path, folder: Path | None) -> Iterator[Path]:
    """A path that reads the very file that was checked, even where ``path`` is replaced meanwhile.

    Links are followed, as a line's "current bank" may be one; the opened file itself says where they lead.

    Args:
        path: of a bank or a model.
        folder: what it must lie in; None allows every place and gives ``path`` back.

    Raises:
        ArtefactError: the file lies elsewhere, is no regular file, or cannot be opened.
    """
    if folder is None:
        yield path
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be opened: {error.strerror}; check the path and its rights") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtefactError(f"{path} is not a regular file; name a bank or a model")
        opened = _DESCRIPTORS / str(descriptor)
        real = opened.readlink()
        if not real.is_relative_to(folder.resolve()):
            raise ArtefactError(
                f"{path} leads to {real}, outside artefacts_dir {folder}; "
                "put the file itself there, or change artefacts_dir"
            )
        yield opened
    finally:
        os.close(descriptor)
