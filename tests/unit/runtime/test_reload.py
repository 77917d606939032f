"""A new bank while the line runs: between two frames, by the whole of one bank, and a bad one changes nothing."""

import dataclasses
import itertools
import threading
from pathlib import Path

import pytest

from edge_uad.errors import BankError, ModelError
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.inspector import Inspector
from edge_uad.interfaces import Backbone
from edge_uad.records import Decision
from edge_uad.runtime.reload import BankReloader, FileMark, NewBank, file_mark
from tests.fakes import GREEN, RED, FakeBackbone, inspector_of, until
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource

POLL_EVERY_S = 0.01


def save(path: Path, colour: tuple[int, int, int], **changed: object) -> str:
    """A bank that knows this colour as good; gives its id."""
    bank = inspector_of(colour).bank
    sealed = PatchBank.sealed(
        patches=bank.patches,
        patch_image=bank.patch_image,
        calibration=bank.calibration,
        manifest=dataclasses.replace(bank.manifest, bank_id="", **changed),  # type: ignore[arg-type]
    )
    sealed.save(path)
    return sealed.manifest.bank_id


def load(path: Path, backbone: Backbone | None = None) -> Inspector:
    bank = PatchBank.load(path)
    if bank.manifest.model_id != "f" * 64:
        raise ModelError("it was built with another model")
    return inspector_of(GREEN, backbone=backbone, bank=bank)


def reloader(path: Path) -> BankReloader:
    return BankReloader([path], load=load, poll_every_s=POLL_EVERY_S)


def next_of(banks: BankReloader) -> NewBank:
    found: list[NewBank] = []

    def came() -> bool:
        banks.poll()
        new = banks.result()
        found.extend([] if new is None else [new])
        return bool(found)

    until(came)
    return found[0]


def test_a_file_that_stays_as_it_is_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    save(path, GREEN)
    read: list[Path] = []

    def load_and_note(path: Path) -> Inspector:
        read.append(path)
        return load(path)

    banks = BankReloader([path], load=load_and_note)
    for _ in range(20):
        banks.poll()
    assert banks.result() is None
    assert read == []
    banks.request()
    banks.poll()
    assert read == [path]  # so it would have been noticed


@pytest.mark.parametrize("how", ["replaced", "written in place", "gone and back"])
def test_a_file_that_changed_is_loaded(tmp_path: Path, how: str) -> None:
    path, other = tmp_path / "bank.safetensors", tmp_path / "other.safetensors"
    save(path, GREEN)
    banks = reloader(path)
    bank_id = save(other, RED)
    if how == "replaced":
        other.replace(path)
    elif how == "written in place":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        for _ in range(3):
            banks.poll()
        other.rename(path)
    new = next_of(banks)
    assert new.inspector is not None
    assert (new.path, new.inspector.bank_id, new.refused) == (path, bank_id, None)


def test_a_request_reads_a_file_that_did_not_change(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank_id = save(path, GREEN)
    banks = reloader(path)
    banks.request()
    new = next_of(banks)
    assert new.inspector is not None
    assert new.inspector.bank_id == bank_id


@pytest.mark.parametrize("fault", ["gone", "torn", "empty", "of another model"])
def test_a_bad_bank_is_refused_with_the_reason_and_the_next_good_one_is_taken(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "bank.safetensors"
    save(path, GREEN)
    banks = reloader(path)
    if fault == "gone":
        path.unlink()
        banks.request()
    elif fault == "of another model":
        save(path, GREEN, model_id="0" * 64)
    else:
        path.write_bytes(path.read_bytes()[:300] if fault == "torn" else b"")
    new = next_of(banks)
    assert new.inspector is None
    told = {"gone": "there is no bank at", "of another model": "another model"}.get(fault, "cannot be read as a bank")
    assert told in str(new.refused)
    save(path, RED)
    assert next_of(banks).inspector is not None


def test_a_fault_while_reading_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"

    def broken(path: Path) -> Inspector:
        raise ZeroDivisionError(f"while {path.name} was read")

    banks = BankReloader([path], load=broken)
    banks.request()
    assert next_of(banks).refused == "fault inside: ZeroDivisionError: while bank.safetensors was read"


def test_under_load_no_frame_is_lost_or_judged_by_a_mixture(tmp_path: Path) -> None:
    """Two banks of which each calls the other's parts anomalous change places again and again."""
    path = tmp_path / "bank.safetensors"
    good_of = {save(path, RED): RED, save(path, GREEN): GREEN}
    backbone = FakeBackbone()
    source = EndlessSource(lambda number: (GREEN, RED)[number % 2])
    line = Line(
        source,
        inspector=load(path, backbone),
        bank=path,
        banks=BankReloader([path], load=lambda path: load(path, backbone), poll_every_s=POLL_EVERY_S),
    )
    with line.running():
        for change in range(6):
            seen = len(line.sink.verdicts)
            line.sink.wait_for(lambda seen=seen: len(line.sink.verdicts) > seen + 20)  # type: ignore[misc]
            bank_id = save(path, (RED, GREEN)[change % 2])
            line.sink.wait_for(lambda bank_id=bank_id: line.sink.statuses[-1].bank_id == bank_id)  # type: ignore[misc]
    verdicts = line.sink.verdicts
    assert [one.frame_id for one in verdicts] == list(range(source.given))
    changes = sum(one.bank_id != before.bank_id for before, one in itertools.pairwise(verdicts))
    assert 5 <= changes <= 6
    for one in verdicts:
        shown = (GREEN, RED)[one.frame_id % 2]
        expected = Decision.NORMAL if good_of[one.bank_id] == shown else Decision.ANOMALOUS
        assert one.decision is expected


def test_a_refusal_is_told_on_status_and_the_old_bank_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank_id = save(path, GREEN)
    line = Line(EndlessSource(), inspector=load(path), bank=path, banks=reloader(path))
    with line.running():
        path.write_bytes(b"no bank")
        line.sink.wait_for(lambda: any(one.refused_bank is not None for one in line.sink.statuses))
        refused = line.sink.statuses[-1]
        assert refused.bank_id == bank_id
        assert "cannot be read as a bank" in str(refused.refused_bank)
        seen = len(line.sink.verdicts)
        line.sink.wait_for(lambda: len(line.sink.verdicts) > seen + 5)
        save(path, RED)
        line.sink.wait_for(lambda: line.sink.statuses[-1].bank_id != bank_id)
        assert line.sink.statuses[-1].refused_bank is None
    assert {one.decision for one in line.sink.verdicts[: seen + 5]} == {Decision.NORMAL}


def test_a_hanging_load_holds_up_neither_frames_nor_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    save(path, GREEN)
    loading, going = threading.Event(), threading.Event()

    def hang(path: Path) -> Inspector:
        loading.set()
        assert going.wait(PATIENCE_S)
        raise BankError(f"{path} came too late")

    banks = BankReloader([path], load=hang, poll_every_s=POLL_EVERY_S)
    line = Line(EndlessSource(), inspector=load(path), bank=path, banks=banks)
    with line.running():
        banks.request()
        assert loading.wait(PATIENCE_S)
        seen = len(line.sink.verdicts)
        line.sink.wait_for(lambda: len(line.sink.verdicts) > seen + 5)
    going.set()


def test_a_file_system_that_does_not_answer_holds_up_neither_frames_nor_heartbeats_nor_the_watchdog_nor_the_stop(
    tmp_path: Path,
) -> None:
    """A dead network mount: ``os.stat`` never returns."""
    path = tmp_path / "bank.safetensors"
    save(path, GREEN)
    asked, going = threading.Event(), threading.Event()

    def mark_of(path: Path) -> FileMark | None:
        if threading.current_thread() is not threading.main_thread() and not going.is_set():
            asked.set()
            going.wait(PATIENCE_S)
        return file_mark(path)

    banks = BankReloader([path], load=load, poll_every_s=POLL_EVERY_S, mark_of=mark_of)
    line = Line(EndlessSource(), inspector=load(path), bank=path, banks=banks)
    with line.running():
        assert asked.wait(PATIENCE_S)
        frames, heartbeats = len(line.sink.verdicts), len(line.sink.statuses)
        line.sink.wait_for(lambda: len(line.sink.verdicts) > frames + 5)
        line.sink.wait_for(lambda: len(line.sink.statuses) > heartbeats + 1)
    assert not going.is_set()  # it never answered, and the line stopped all the same
    assert line.daemon.stuck_threads == []
    going.set()
