"""A disk that fails on demand by real means, and the account of what the daemon wrote to it: for the soak."""

import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_uad.errors import EdgeUadError
from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.store import Table

DISK_MIB = 40
RECORDS_FILE = "records.sqlite"
POLL_S = 0.25
ATTACH_S = 20.0
_NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass(frozen=True, slots=True)
class DiskFault:
    """One way in which a disk fails."""

    begin: Callable[[int], None]
    """From now on it fails for the process of this number."""
    end: Callable[[int], None]
    """It works again."""


class FailingDisk:
    """What holds the records and the evidence: a file system of its own where this user may mount one.

    Args:
        folder: made here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.records = folder / "records" / RECORDS_FILE
        self.evidence = folder / "evidence"
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "soak", str(folder)]
        self._folder = folder
        self._mounted = shutil.which("mount") is not None and _succeeds(mount)
        self.kind = f"a file system of {DISK_MIB} MiB" if self._mounted else "RLIMIT_FSIZE"
        self.account = RecordsAccount(self.records)
        self._tracer: subprocess.Popen[bytes] | None = None

    def faults(self) -> dict[str, DiskFault]:
        """By name: what can be done on this machine."""
        found = {
            "fill_disk": DiskFault(self._fill, self._make_room)
            if self._mounted
            else DiskFault(_set_quota, _lift_quota),
            "replace_folder": DiskFault(self._replace_folder, _nothing),
            "refuse_open": DiskFault(self._take_folder_away, self._bring_folder_back),
        }
        if _can_trace():
            calls = {
                "refuse_write": "pwrite64,write:error=EIO",
                "refuse_fsync": "fsync,fdatasync:error=EIO",
                "refuse_rename": "rename,renameat,renameat2:error=EIO",
                "refuse_all": "pwrite64,fsync,fdatasync,openat,rename,ftruncate:error=EIO",
            }
            found |= {name: DiskFault(self._injecting(what), self._stop_injecting) for name, what in calls.items()}
        return found

    def close(self) -> None:
        """Unmount."""
        if self._tracer is not None:
            self._stop_injecting(0)
        if self._mounted:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def _fill(self, pid: int) -> None:  # noqa: ARG002  (the disk is full for everybody)
        with (self._folder / "filler").open("ab", buffering=0) as file:
            for n_bytes in (64 * 1024, 1):
                try:
                    while file.write(b"\0" * n_bytes) == n_bytes:
                        pass
                except OSError:
                    continue

    def _make_room(self, pid: int) -> None:  # noqa: ARG002  (as above)
        (self._folder / "filler").unlink(missing_ok=True)

    def _replace_folder(self, pid: int) -> None:  # noqa: ARG002  (a rename is seen by everybody)
        self.account.move(self._folder / f"records-{time.monotonic_ns()}")

    def _take_folder_away(self, pid: int) -> None:  # noqa: ARG002  (as above)
        self.records.parent.rename(self._folder / "away")
        self.records.parent.touch()  # a file in its place: nothing below it can be opened or made

    def _bring_folder_back(self, pid: int) -> None:  # noqa: ARG002  (as above)
        self.records.parent.unlink()
        (self._folder / "away").rename(self.records.parent)

    def _injecting(self, what: str) -> Callable[[int], None]:
        calls = what.partition(":")[0]
        paths = [self.records.with_name(f"{RECORDS_FILE}{end}") for end in ("", "-wal", "-shm")]
        # a rename is the evidence's alone; every other call is meant where it is one of SQLite's files
        only = [] if calls.startswith("rename") else [option for path in paths for option in ("-P", str(path))]

        def begin(pid: int) -> None:
            command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={what}", *only]
            self._tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)
            _wait_until_traced(pid)

        return begin

    def _stop_injecting(self, pid: int) -> None:  # noqa: ARG002  (the tracer knows)
        if self._tracer is not None:
            self._tracer.send_signal(signal.SIGINT)  # it detaches; the daemon goes on
            self._tracer.wait(ATTACH_S)
            self._tracer = None


def _nothing(pid: int) -> None:
    """A folder that was replaced stays replaced."""


def _set_quota(pid: int) -> None:
    """The operating system refuses that process every further byte in a file."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def _lift_quota(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, _NO_LIMIT)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _can_trace() -> bool:
    """Whether this user may attach strace to a process and replace what its system calls return."""
    if shutil.which("strace") is None:
        return False
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        tracer = subprocess.Popen(
            ["strace", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=EIO", "-p", str(sleeping.pid)],
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_traced(sleeping.pid)
        except TimeoutError:
            return False
        finally:
            tracer.kill()
            tracer.wait()
            sleeping.kill()
    return True


def _wait_until_traced(pid: int) -> None:
    status = Path(f"/proc/{pid}/status")
    deadline_s = time.monotonic() + ATTACH_S
    while "TracerPid:\t0" in status.read_text():
        if time.monotonic() > deadline_s:
            raise TimeoutError("strace did not attach")
        time.sleep(0.01)


class RecordsAccount:
    """Counts what is in the records while they are written, before retention deletes it.

    Args:
        path: of the file in use; :meth:`move` moves it away, as another one will be begun.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._moved: Path | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._position = dict.fromkeys((Table.VERDICTS, Table.EVENTS), 0)
        self._moved_position = dict(self._position)
        self.frames: dict[str, Counter[int]] = {}
        """How often each frame id has a row, by station."""
        self.events: Counter[str] = Counter()
        self.missing = 0
        """Verdicts that gaps speak of."""
        self.n_files = 0
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin to read along."""
        self._thread.start()

    @property
    def n_rows(self) -> int:
        """Verdicts with a row."""
        return sum(frames.total() for frames in self.frames.values())

    def move(self, target: Path) -> None:
        """Move the folder with the file away, while the daemon has it open."""
        with self._lock:
            self._finish_moved()
            self._path.parent.rename(target)
            self._moved, self._moved_position = target / self._path.name, self._position
            self._position = dict.fromkeys(self._position, 0)

    def close(self) -> None:
        """Read what there still is, and check every chain; the daemon must have ended."""
        self._stop.set()
        self._thread.join()
        self._finish_moved()
        self._finish(self._path, self._position)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            with self._lock:
                try:
                    self._read(self._path, self._position)
                except (EdgeUadError, OSError, sqlite3.Error):
                    continue  # taken away, or not made yet

    def _finish_moved(self) -> None:
        """Nobody writes to it any more: the daemon has begun another one."""
        if self._moved is not None:
            self._finish(self._moved, self._moved_position)
            shutil.rmtree(self._moved.parent)
            self._moved = None

    def _finish(self, path: Path, position: dict[Table, int]) -> None:
        self._read(path, position)
        self.n_files += 1
        with RecordReader(path) as reader:
            problems, reports = reader.verify()
        self.faults += [*problems, *(problem for report in reports for problem in report.problems)]

    def _read(self, path: Path, position: dict[Table, int]) -> None:
        with RecordReader(path) as reader:
            for table, last_id in list(position.items()):
                for row in reader.rows(table, after_id=last_id):
                    if row.id != position[table] + 1:
                        self.faults.append(f"{table}: rows {position[table] + 1} to {row.id - 1} were deleted unread")
                    position[table] = row.id
                    self._count(table, row.parsed())

    def _count(self, table: Table, entry: dict) -> None:
        if table is Table.VERDICTS:
            self.frames.setdefault(entry["station"], Counter())[entry["frame_id"]] += 1
            return
        self.events[entry["event"]] += 1
        self.missing += entry.get("gap") or 0
