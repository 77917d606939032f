"""A disk that runs full on demand, and what the daemon writes to it, read along: for the soak."""

import json
import os
import resource
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Protocol

DISK_MIB = 24
FILL_BYTES = 64 * 1024
POLL_S = 0.25
_NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Disk(Protocol):
    """What holds the audit log and the evidence."""

    kind: str

    def fill(self, pid: int) -> None:
        """From now on nothing can be written by that process."""

    def make_room(self, pid: int) -> None:
        """It can write again."""

    def close(self) -> None:
        """Let go."""


def small_disk(folder: Path) -> Disk:
    """A small file system of its own where this user may mount one, else the file-size quota of the process."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "soak", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    return MountedDisk(folder) if mounted else FileSizeQuota()


class MountedDisk:
    """A tmpfs that a large file takes all of."""

    kind = f"a file system of {DISK_MIB} MiB"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / "filler"

    def fill(self, pid: int) -> None:  # noqa: ARG002  (the disk is full for everybody)
        """Write until there is no room."""
        with self._filler.open("ab", buffering=0) as file:
            for n_bytes in (FILL_BYTES, 1):  # the last bytes, too: a line of the log is small
                try:
                    while file.write(b"\0" * n_bytes) == n_bytes:
                        pass
                except OSError:
                    continue

    def make_room(self, pid: int) -> None:  # noqa: ARG002  (as above)
        """Remove the large file."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class FileSizeQuota:
    """The operating system refuses that process every further byte in a file."""

    kind = "RLIMIT_FSIZE"

    def fill(self, pid: int) -> None:
        """Allow one byte."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def make_room(self, pid: int) -> None:
        """Allow all."""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, _NO_LIMIT)

    def close(self) -> None:
        """The quota ends with the process."""


class AuditReader:
    """Reads the audit log while it is written and rotates; what it has seen may be deleted by the daemon.

    Args:
        path: of the newest file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._handle = path.open("rb")
        self._offset = self._settled = 0
        self.entries: Counter[str] = Counter()
        """Verdicts by station."""
        self.gaps = 0
        self.lost = 0
        """Verdicts that gap lines speak of."""
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Read what there still is; the daemon must have ended."""
        self._stop.set()
        self._thread.join()
        self._read()
        self._take(to_end=True)
        if self._offset < os.fstat(self._handle.fileno()).st_size:
            self.faults.append("the audit log ends in a torn line")
        self._handle.close()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._read()

    def _read(self) -> None:
        """To the end of this file, and on into the newer one where there is one."""
        rotated = self._is_rotated()  # before reading: after it nothing is added to this file
        self._take(to_end=rotated)
        if not rotated:
            return
        before = os.fstat(self._handle.fileno()).st_ino
        self._handle.close()
        if os.stat(self._path.with_name(f"{self._path.name}.1")).st_ino != before:  # noqa: PTH116  (as below)
            self.faults.append("the audit log rotated twice before it was read")
        self._handle = self._path.open("rb")
        self._offset = self._settled = 0

    def _is_rotated(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._handle.fileno()).st_ino  # noqa: PTH116  (its pair)
        except FileNotFoundError:
            return False  # in the middle of it

    def _take(self, *, to_end: bool) -> None:
        """Whole lines that were there at the last look already: what did not fit on the disk is cut off at once."""
        size = os.fstat(self._handle.fileno()).st_size
        end = size if to_end else min(size, self._settled)
        self._settled = size
        content = os.pread(self._handle.fileno(), max(end - self._offset, 0), self._offset)
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            if "gap" in entry:
                self.gaps += 1
                self.lost += entry["gap"]
            else:
                self.entries[entry["station"]] += 1
