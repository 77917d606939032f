"""The audit log: whole lines, in files that rotate; mended after a power cut; a full disk stops it and nothing else."""

import dataclasses
import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.errors import UsageError
from edge_uad.net.wire import Json
from edge_uad.outputs.audit import AuditLog, audit_entry, frame_digest, read_entries
from edge_uad.records import UnreadableFrame
from tests.fakes import RED, frame, green_inspector, picture

REPO = Path(__file__).parents[3]
INSPECTOR = green_inspector()


def entry(frame_id: int = 0) -> Json:
    one = frame(frame_id, RED)
    return audit_entry(INSPECTOR.inspect(one), one, None)


def opened(path: Path, *, max_bytes: int = 10**6, max_files: int = 3, fsync_s: float = 0.0) -> AuditLog:
    return AuditLog(path, max_bytes=max_bytes, max_files=max_files, fsync_s=fsync_s)


def ids(path: Path) -> list[int]:
    return [one["frame_id"] for _, one in read_entries(path)]


def test_a_line_holds_the_verdict_and_the_hashes_of_frame_bank_and_model(tmp_path: Path) -> None:
    one = frame(7, RED)
    verdict = INSPECTOR.inspect(one)
    log = opened(tmp_path / "audit" / "log.jsonl")
    log.append(audit_entry(verdict, one, "line/kept.png"))
    log.close()
    [(number, line)] = read_entries(tmp_path / "audit" / "log.jsonl")
    assert number == 1
    assert (line["frame_id"], line["decision"], line["score"]) == (7, "anomalous", verdict.score)
    assert (line["bank_id"], line["model_id"], line["evidence"]) == (verdict.bank_id, "f" * 64, "line/kept.png")
    assert line["frame_hw"] == [24, 32]
    assert line["frame_sha256"] == hashlib.sha256(b"24x32\n" + one.image.tobytes()).hexdigest()


def test_the_hash_of_a_frame_is_that_of_its_pixels_however_they_lie_in_memory() -> None:
    image = picture(RED).copy()
    image[3, 4] = 1
    wide = np.concatenate([image, image], axis=1)
    assert frame_digest(wide[:, :32]) == frame_digest(image)
    assert frame_digest(image) != frame_digest(np.ascontiguousarray(image.reshape(32, 24, 3)))


def test_a_frame_without_a_picture_has_a_line_too(tmp_path: Path) -> None:
    torn = UnreadableFrame(
        station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=1, reason="torn", part_id="\udcff"
    )
    log = opened(tmp_path / "log")
    log.append(audit_entry(INSPECTOR.inspect(torn), torn, None))
    log.close()
    [(_, line)] = read_entries(tmp_path / "log")
    assert (line["decision"], line["reason"], line["frame_sha256"], line["part_id"]) == (
        "invalid",
        "torn",
        None,
        "\\xff",
    )


def test_a_full_file_makes_way_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line_bytes = len(json.dumps(entry())) + 20
    log = opened(path, max_bytes=3 * line_bytes, max_files=3)
    for frame_id in range(20):
        log.append(entry(frame_id))
    log.close()
    files = sorted(one.name for one in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2", "log.lock"]
    assert all((tmp_path / name).stat().st_size <= 3 * line_bytes for name in files)
    kept = [*ids(tmp_path / "log.2"), *ids(tmp_path / "log.1"), *ids(path)]
    assert kept == list(range(20 - len(kept), 20))
    assert len(kept) >= 7


def test_one_file_may_be_all(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", max_bytes=1, max_files=1)
    for frame_id in range(3):
        log.append(entry(frame_id))
    log.close()
    assert ids(tmp_path / "log") == [2]


@settings(deadline=None)
@given(cut=st.floats(0, 1), junk=st.sampled_from([b"", b"\0", b"\0" * 5000, b"\0\0\n", b'{"schema":1,']))
def test_whatever_a_power_cut_leaves_the_whole_lines_stay_and_it_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: float, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = opened(path)
    for frame_id in range(3):
        log.append(entry(frame_id))
    log.close()
    content = path.read_bytes()
    kept = content[: round(cut * len(content))]
    path.write_bytes(kept + junk)
    whole = kept.count(b"\n")
    log = opened(path)
    log.append(entry(99))
    log.close()
    assert ids(path) == [*range(whole), 99]


def test_a_torn_line_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    path.write_bytes(json.dumps(entry()).encode() + b'\n{"schema":1,"sta')
    opened(path).close()
    assert f"the audit log {path} ended in a torn line: its last 16 bytes were cut off" in caplog.text
    assert ids(path) == [0]


@pytest.mark.parametrize("content", [b"root:x:0:0\n", b"a note", b'{"a": 1}\n', b"[1]\n", b"\n", b"x\0\n"])
def test_another_programs_file_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not an audit log of edge-uad"):
        opened(path)
    assert path.read_bytes() == content


def test_two_daemons_do_not_share_a_log_and_a_link_is_not_followed(tmp_path: Path) -> None:
    first = opened(tmp_path / "log")
    with pytest.raises(UsageError, match="another daemon writes the audit log"):
        opened(tmp_path / "log")
    first.close()
    opened(tmp_path / "log").close()
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with pytest.raises(UsageError, match=r"cannot be written: Too many levels of symbolic links"):
        opened(tmp_path / "link")


def test_a_line_that_was_edited_is_found(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(json.dumps(entry()).encode() + b"\nedited\n" + json.dumps(entry()).encode() + b"\n")
    with pytest.raises(UsageError, match="line 2 is not one of an audit log"):
        list(read_entries(tmp_path / "log"))


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import edge_uad.outputs.audit as audit
from tests.unit.outputs.test_audit import entry, opened
audit.RETRY_S = 0.0
path, room = Path(sys.argv[1]), int(sys.argv[2])
log = opened(path)
log.append(entry(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, resource.RLIM_INFINITY))
for frame_id in (1, 2, 3):
    log.append(entry(frame_id))
    print(log.fault, log.lost, path.stat().st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(entry(4))
print(log.fault, log.lost)
log.close()
"""


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_disk_that_is_full_stops_the_log_and_tells_of_the_gap_when_there_is_room_again(
    tmp_path: Path, room: int
) -> None:
    """The limit on a file's size is the kernel's own; it refuses in the middle of a line."""
    path = tmp_path / "log"
    command = [sys.executable, "-c", FULL_DISK, str(path), str(room)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=True)
    *full, again = done.stdout.splitlines()
    size = {line.rpartition(" ")[2] for line in full}
    assert len(size) == 1  # no part of a line stays behind
    assert [line.rpartition(" ")[0] for line in full] == [
        f"the audit log has stopped: File too large {lost}" for lost in (1, 2, 3)
    ]
    assert again == "None 3"
    assert ids(path) == [0, 4]
    gaps = [one for one in map(json.loads, path.read_text().splitlines()) if "gap" in one]
    assert [(one["gap"], one["reason"]) for one in gaps] == [(3, "File too large")]


def test_no_space_left_is_told_by_its_name(tmp_path: Path) -> None:
    """/dev/full is a disk without room."""
    log = opened(tmp_path / "log")
    with Path("/dev/full").open("rb+", buffering=0) as full:
        log._handle, handle = full.fileno(), log._handle
        log.append(entry())
        assert log.fault == "the audit log has stopped: No space left on device"
        log._handle = handle
    log.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_every_field_of_a_verdict_is_in_the_line() -> None:
    fields = {field.name for field in dataclasses.fields(INSPECTOR.inspect(frame()))} - {"heatmap"}
    assert fields < set(entry())
