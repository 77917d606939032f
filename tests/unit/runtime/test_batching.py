"""Frames of several stations in one inference: judged as if each were alone, and none waits longer than allowed."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_uad.inference.bank import PatchBank
from edge_uad.inference.inspector import BATCH_TOLERANCE, inspect_together
from edge_uad.records import Decision, Embedding, Float32, Frame, UnreadableFrame
from edge_uad.runtime.assemble import load_inspector
from edge_uad.runtime.backbones import load_backbone
from edge_uad.sources.decode import read_image
from tests.fakes import GREEN, RED, FakeBackbone, ScriptedSource, frame, green_inspector, inspector_of, until
from tests.lines import PATIENCE_S, Line
from tests.sources import EndlessSource

AN_HOUR_MS = 3_600_000.0
STATIONS = ("line", "line2", "line3")


class RoundingBackbone(FakeBackbone):
    """As a matrix product does, gives other last bits where there is more than one row; refuses what it is told to."""

    refused_mean: float | None = None

    def embed(self, pixels: Float32) -> list[Embedding]:
        if self.refused_mean is not None and any(np.isclose(one.mean(), self.refused_mean) for one in pixels):
            raise ZeroDivisionError("inside")
        embedded = super().embed(pixels)
        if len(pixels) == 1:
            return embedded
        return [dataclasses.replace(one, tokens=one.tokens * np.float32(1 - 1e-6)) for one in embedded]


def test_frames_of_waiting_stations_share_an_inference() -> None:
    backbone = FakeBackbone()
    sources = [ScriptedSource([frame(n, station=name) for n in range(4)], then_wait=True) for name in STATIONS]
    line = Line(*sources, backbone=backbone, max_batch=3, max_wait_ms=AN_HOUR_MS)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 12)
    assert backbone.batches == [1] * 3 + [3] * 4  # three warm-ups first
    for name in STATIONS:
        assert [(one.frame_id, one.decision) for one in line.sink.of(name)] == [(n, Decision.NORMAL) for n in range(4)]


def test_a_batch_is_no_larger_than_asked_and_stations_take_turns() -> None:
    backbone = FakeBackbone()
    sources = [ScriptedSource([frame(n, station=name) for n in range(6)], then_wait=True) for name in STATIONS]
    line = Line(*sources, backbone=backbone, max_batch=2, max_wait_ms=20)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 18)
    assert max(backbone.batches) == 2
    assert {name: len(line.sink.of(name)) for name in STATIONS} == dict.fromkeys(STATIONS, 6)


def test_a_frame_whose_neighbours_are_dead_waits_no_longer_than_allowed() -> None:
    backbone = FakeBackbone()
    dead = [ScriptedSource([], then_wait=True) for _ in STATIONS[1:]]
    line = Line(ScriptedSource([frame(0), frame(1)]), *dead, backbone=backbone, max_batch=3, max_wait_ms=30)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 2)
    assert backbone.batches[3:] == [1, 1]
    assert all(one.latency_ms >= 30 for one in line.sink.verdicts)


def test_a_flooding_station_does_not_starve_another_in_batches() -> None:
    line = Line(
        EndlessSource(every_s=0.0),
        ScriptedSource([frame(n, station="line2") for n in range(20)], then_wait=True),
        EndlessSource(station="line3", every_s=0.0),
        max_batch=2,
    )
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.of("line2")) == 20)
        until(lambda: all(len(line.sink.of(name)) >= 20 for name in STATIONS))
    for name in STATIONS:
        assert [one.frame_id for one in line.sink.of(name)] == list(range(len(line.sink.of(name))))


GREYS = dict(zip(STATIONS, (60, 120, 180), strict=True))


class NamingBackbone(FakeBackbone):
    """Notes whose frame each inference is of: every station's frames have a grey of their own."""

    def __init__(self, before_embed: Callable[[int], None]) -> None:
        super().__init__(before_embed)
        self.order: list[str] = []

    def embed(self, pixels: Float32) -> list[Embedding]:
        self.order += [name for one in pixels for name, grey in GREYS.items() if abs(one.mean() - grey / 255) < 0.01]
        return super().embed(pixels)


def test_a_slow_frame_of_one_station_makes_no_other_station_late_twice() -> None:
    """While the judge is busy with one frame, those of the others wait, and come next."""
    judging, going = threading.Event(), threading.Event()

    def slow(inference: int) -> None:
        if inference == 4:  # three warm-ups first
            judging.set()
            assert going.wait(PATIENCE_S)

    backbone = NamingBackbone(slow)
    frames = {name: [frame(n, (grey, grey, grey), station=name) for n in range(3)] for name, grey in GREYS.items()}
    line = Line(*(ScriptedSource(one, then_wait=True) for one in frames.values()), backbone=backbone)
    with line.running():
        assert judging.wait(PATIENCE_S)
        until(lambda: sum(station.waiting for station in line.stations) == 8)
        going.set()
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 9)
    assert len(backbone.order) == 9
    assert all(set(backbone.order[n : n + 3]) == set(STATIONS) for n in (0, 3, 6))


def test_decisions_on_the_threshold_are_those_of_the_frame_alone() -> None:
    """The threshold is the frame's own score: rounding up in a batch would make it anomalous."""
    backbone = RoundingBackbone()
    somewhat = (60, 150, 50)
    alone = inspector_of(GREEN, backbone=backbone).inspect(frame(0, somewhat))
    assert alone.score is not None
    known = inspector_of(GREEN).bank
    bank = PatchBank.sealed(
        patches=known.patches,
        patch_image=known.patch_image,
        calibration=known.calibration,
        manifest=dataclasses.replace(known.manifest, bank_id="", threshold=alone.score),
    )
    inspector = inspector_of(GREEN, backbone=backbone, bank=bank)
    batch = [frame(0, somewhat), frame(1, GREEN), frame(2, RED)]
    decisions = [one.decision for one in inspect_together([(inspector, one) for one in batch])]
    assert decisions == [inspector.inspect(one).decision for one in batch]
    assert decisions == [Decision.NORMAL, Decision.NORMAL, Decision.ANOMALOUS]
    assert backbone.batches.count(1) == 1 + 1 + 3  # the first look, the second look at one frame, and the comparison


def test_a_fault_of_one_frame_is_not_its_neighbours(caplog: pytest.LogCaptureFixture) -> None:
    backbone = RoundingBackbone()
    bad = frame(1, RED, station="line2")
    backbone.refused_mean = float(green_inspector().pixels(bad).mean())
    torn = UnreadableFrame(station="line3", frame_id=1, captured_at_ns=1, captured_mono_ns=1, reason="torn")
    frames = [frame(1), bad, torn]
    sources = [ScriptedSource([one], then_wait=True) for one in frames]
    line = Line(*sources, backbone=backbone, max_batch=3, max_wait_ms=AN_HOUR_MS)
    with line.running():
        line.sink.wait_for(lambda: len(line.sink.verdicts) == 3)
    told = {one.station: one.reason for one in line.sink.verdicts}
    assert told == {"line": None, "line2": "fault inside: ZeroDivisionError: inside", "line3": "torn"}
    assert "could not be judged together" in caplog.text


def test_with_a_real_backbone_a_batch_agrees_with_each_frame_alone(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> None:
    paths = [*sorted(good_parts.glob("*.png"))[:6], *sorted(scratched_parts.glob("*.png"))]
    frames: list[Frame] = [dataclasses.replace(frame(n), image=read_image(path)) for n, path in enumerate(paths)]
    alone = load_inspector(load_backbone(tiny_model, threads=1), tiny_bank)
    batched = load_inspector(load_backbone(tiny_model, threads=1, batched=True), tiny_bank)
    expected = [alone.inspect(one) for one in frames]
    for size in (2, 5, len(frames)):
        for start in range(0, len(frames), size):
            part = slice(start, start + size)
            found = inspect_together([(batched, one) for one in frames[part]])
            assert [one.decision for one in found] == [one.decision for one in expected[part]]
            for one, other in zip(found, expected[part], strict=True):
                assert one.score == pytest.approx(other.score, abs=BATCH_TOLERANCE)
                assert one.foreground_ratio == other.foreground_ratio
    # and without the option, to the last bit
    one_by_one = inspect_together([(alone, one) for one in frames])
    assert [one.score for one in one_by_one] == [one.score for one in expected]
