"""Evidence: kept whole and without loss, named safely, forgotten by count, age and bytes; nothing else is touched."""

import dataclasses
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_uad.errors import UsageError
from edge_uad.outputs.evidence import VERDICT_KEY, EvidenceStore
from edge_uad.records import Decision, Frame, UnreadableFrame, Verdict
from edge_uad.sources.decode import read_image
from tests.fakes import GREEN, RED, frame, green_inspector

INSPECTOR = green_inspector()
JUDGED_FOR_GOOD = (Decision.ANOMALOUS, Decision.INVALID)


def store(
    folder: Path, *, max_files: int = 1000, max_bytes: int = 10**9, max_age_days: float = 1.0, good: bool = False
) -> EvidenceStore:
    decisions = tuple(Decision) if good else JUDGED_FOR_GOOD
    return EvidenceStore(
        folder, decisions=decisions, max_files=max_files, max_bytes=max_bytes, max_age_days=max_age_days
    )


def anomalous(frame_id: int = 0, part_id: str | None = None) -> tuple[Verdict, Frame]:
    one = dataclasses.replace(frame(frame_id, RED), part_id=part_id)
    return INSPECTOR.inspect(one), one


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_anomalous_frame_is_kept_without_loss_and_with_its_verdict(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    verdict, one = anomalous(7, "tray/SN 4711.png")
    one = dataclasses.replace(one, image=noise)
    name = store(tmp_path).keep(verdict, one)
    assert name is not None
    assert name.startswith("line/")
    assert name.endswith("Z-anomalous-7-tray_SN_4711.png.png")
    assert files(tmp_path) == [tmp_path / name]
    assert np.array_equal(read_image(tmp_path / name), noise)
    with Image.open(tmp_path / name) as image:
        told = json.loads(image.info[VERDICT_KEY])
    assert (told["frame_id"], told["decision"], told["score"]) == (7, "anomalous", verdict.score)


def test_what_is_kept_is_chosen_by_decision(tmp_path: Path) -> None:
    good = frame(1, GREEN)
    invalid = frame(2)
    torn = UnreadableFrame(station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=1, reason="torn")
    chosen = store(tmp_path / "chosen")
    assert chosen.keep(INSPECTOR.inspect(good), good) is None
    assert chosen.keep(INSPECTOR.invalid(invalid, "deadline"), invalid) is not None
    assert chosen.keep(INSPECTOR.inspect(torn), torn) is None  # there is nothing at hand to keep
    sent = dataclasses.replace(torn, payload=b"\xff\xd8 half a picture")
    name = chosen.keep(INSPECTOR.inspect(sent), sent)
    assert name is not None
    assert name.endswith("-invalid-3.bin")
    assert (tmp_path / "chosen" / name).read_bytes() == sent.payload
    assert store(tmp_path / "all", good=True).keep(INSPECTOR.inspect(good), good) is not None


def test_the_oldest_goes_where_there_are_too_many(tmp_path: Path) -> None:
    kept = store(tmp_path, max_files=3)
    names = [kept.keep(*anomalous(frame_id)) for frame_id in range(8)]
    assert [path.relative_to(tmp_path).as_posix() for path in files(tmp_path)] == names[-3:]


def test_the_oldest_goes_where_it_is_too_much(tmp_path: Path) -> None:
    kept = store(tmp_path, max_bytes=2000)
    for frame_id in range(20):
        kept.keep(*anomalous(frame_id))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 2000
    assert len(files(tmp_path)) > 1


def test_what_is_too_old_goes_without_a_new_frame(tmp_path: Path) -> None:
    kept = store(tmp_path, max_age_days=1)
    kept.keep(*anomalous())
    [path] = files(tmp_path)
    two_days_ago_s = time.time() - 2 * 86_400
    os.utime(path, (two_days_ago_s, two_days_ago_s))
    store(tmp_path, max_age_days=3)
    assert files(tmp_path) == [path]
    store(tmp_path, max_age_days=1)
    assert files(tmp_path) == []


def test_earlier_runs_count_and_what_they_left_half_written_goes(tmp_path: Path) -> None:
    first = store(tmp_path)
    for frame_id in range(5):
        first.keep(*anomalous(frame_id))
    half_written = tmp_path / "line" / ".0123456789abcdef.part.png"
    half_written.write_bytes(b"half")
    own = [tmp_path / "line" / "notes.png", tmp_path / "readme.txt", tmp_path / "line" / ".hidden.part"]
    for path in own:
        path.write_bytes(b"the operator's own")
    before = [path for path in files(tmp_path) if path not in [*own, half_written]]
    store(tmp_path, max_files=2)
    assert files(tmp_path) == sorted([*before[-2:], *own])


def test_a_link_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    kept = store(tmp_path / "a")
    kept.keep(*anomalous())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "line").symlink_to(tmp_path / "a" / "line")
    store(tmp_path / "b", max_age_days=1e-9)
    assert len(files(tmp_path / "a")) == 1


@settings(deadline=None)
@given(part_id=st.text(max_size=300), station=st.text(min_size=1, max_size=80), at_ns=st.integers(0, 2**63 - 1))
def test_no_name_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, part_id: str, station: str, at_ns: int
) -> None:
    folder = tmp_path_factory.mktemp("evidence")
    verdict, one = anomalous(2**63 - 1, part_id)
    name = store(folder).keep(dataclasses.replace(verdict, station=station, captured_at_ns=at_ns), one)
    assert name is not None
    assert [path.relative_to(folder).as_posix() for path in files(folder)] == [name]
    assert name.count("/") == 1
    again = store(folder, max_age_days=1e-9)  # it is known again as one of ours
    time.sleep(0.001)
    again.prune()
    assert files(folder) == []


def test_a_folder_that_cannot_be_written_is_told_and_inspection_is_not_disturbed(tmp_path: Path) -> None:
    kept = store(tmp_path)
    (tmp_path / "line").write_bytes(b"a file stands in the way")
    assert kept.keep(*anomalous()) is None
    assert (kept.fault, kept.lost) == ("evidence is not kept: File exists", 1)
    (tmp_path / "line").unlink()
    assert kept.keep(*anomalous()) is not None
    assert (kept.fault, kept.lost) == (None, 1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be used: File exists"):
        store(tmp_path / "file")


def test_a_disk_that_fails_at_the_start_is_waited_for_and_what_was_there_counts(tmp_path: Path) -> None:
    """The process may open no more files: what a disk's failure is to it, and no fault of the path."""
    first = store(tmp_path)
    earlier = [first.keep(*anomalous(frame_id)) for frame_id in range(3)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        kept = store(tmp_path, max_files=2)
        assert kept.fault == "evidence is not kept: Too many open files"
        assert kept.keep(*anomalous(3)) is None
        assert kept.lost == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    name = kept.keep(*anomalous(4))
    assert kept.fault is None
    assert [path.relative_to(tmp_path).as_posix() for path in files(tmp_path)] == [earlier[-1], name]
