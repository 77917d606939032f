"""The inspector's promises: no judgement is never normal, and a verdict depends on its own frame alone."""

import dataclasses
import time

import numpy as np
import pytest

from edge_uad.inference.inspector import Embedder, Inspector
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Decision, Embedding, Float32, Frame, Geometry, UInt8, UnreadableFrame
from tests.banks import DIM, random_bank
from tests.fakes import GREEN, RED, FakeBackbone, frame, green_inspector, picture


class BrokenBackbone(FakeBackbone):
    """Gives values of our choosing in place of tokens or attention."""

    def __init__(self, *, token: float | None = None, attention: float | None = None) -> None:
        super().__init__()
        self._token = token
        self._attention = attention

    def embed(self, pixels: Float32) -> list[Embedding]:
        return [self._broken(one) for one in super().embed(pixels)]

    def _broken(self, one: Embedding) -> Embedding:
        if self._token is not None:
            one.tokens[3, 2] = self._token
        if self._attention is not None:
            one.attention[:] = self._attention
        return one


def inspector_with(
    backbone: FakeBackbone, roi: tuple[int, int, int, int] | None = None, image_hw: tuple[int, int] | None = None
) -> Inspector:
    card = backbone.card
    preprocessor = Preprocessor(
        geometry=Geometry.STRETCH, roi=roi, input_hw=card.input_hw, mean=card.mean, std=card.std
    )
    embedder = Embedder(backbone=backbone, preprocessor=preprocessor, bpm_kernel=1, bpm_threshold=0.1)
    return Inspector(embedder=embedder, bank=random_bank(roi=roi, image_hw=image_hw))


def test_a_good_frame_is_normal_and_another_anomalous() -> None:
    inspector = green_inspector()
    assert inspector.inspect(frame(0, GREEN)).decision is Decision.NORMAL
    assert inspector.inspect(frame(1, RED)).decision is Decision.ANOMALOUS


def test_a_verdict_repeats_its_frame_and_names_what_judged_it() -> None:
    inspector = green_inspector()
    asked = dataclasses.replace(frame(17, RED, dropped_before=4), part_id="SN-1")
    verdict = inspector.inspect(asked)
    assert (verdict.station, verdict.frame_id, verdict.part_id) == (asked.station, 17, "SN-1")
    assert (verdict.captured_at_ns, verdict.dropped_before) == (asked.captured_at_ns, 4)
    assert (verdict.model_id, verdict.bank_id) == (inspector.model_id, inspector.bank_id)
    assert verdict.threshold == inspector.threshold


def test_latency_counts_from_capture() -> None:
    captured = dataclasses.replace(frame(), captured_mono_ns=time.monotonic_ns() - 3_000_000_000)
    assert green_inspector().inspect(captured).latency_ms > 3000


def test_the_peak_is_where_the_defect_is() -> None:
    image = picture(GREEN, (120, 160))
    image[90:, 120:] = RED
    asked = dataclasses.replace(frame(), image=image)
    verdict = green_inspector().inspect(asked)
    assert verdict.peak is not None
    x, y = verdict.peak
    assert x >= 110
    assert y >= 80


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [
        (BrokenBackbone(token=np.nan), "not finite"),
        (BrokenBackbone(token=np.inf), "not finite"),
        (BrokenBackbone(attention=np.nan), "not finite"),
        (BrokenBackbone(attention=0.0), "no usable attention"),
    ],
    ids=["NaN token", "infinite token", "NaN attention", "no attention"],
)
def test_what_the_backbone_cannot_see_is_invalid(backbone: FakeBackbone, reason: str) -> None:
    verdict = inspector_with(backbone).inspect(frame())
    assert verdict.decision is Decision.INVALID
    assert verdict.reason is not None
    assert reason in verdict.reason


@pytest.mark.parametrize(
    "image", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_a_frame_that_is_no_picture_is_invalid(image: UInt8) -> None:
    verdict = green_inspector().inspect(dataclasses.replace(frame(), image=image))
    assert verdict.decision is Decision.INVALID
    assert verdict.score is None


def test_a_frame_smaller_than_the_region_of_interest_is_invalid() -> None:
    verdict = inspector_with(FakeBackbone(), roi=(0, 0, 500, 500)).inspect(frame())
    assert verdict.decision is Decision.INVALID
    assert verdict.reason is not None
    assert "region of interest" in verdict.reason


def test_a_region_of_interest_judges_pictures_of_the_learned_size_alone() -> None:
    """In another size it would show another part, though it lies inside."""
    inspector = inspector_with(FakeBackbone(), roi=(4, 4, 16, 16), image_hw=(24, 32))
    assert inspector.inspect(frame()).decision is not Decision.INVALID
    larger = dataclasses.replace(frame(), image=picture(hw=(48, 64)))
    verdict = inspector.inspect(larger)
    assert verdict.decision is Decision.INVALID
    assert "the picture has 64×48 pixels, the bank's region of interest is one of 32×24" in str(verdict.reason)
    prepared = inspector_with(FakeBackbone(), roi=(4, 4, 16, 16), image_hw=(24, 32)).preprocessed(larger)
    assert inspector.inspect(prepared).decision is Decision.INVALID


def test_without_a_region_of_interest_every_size_is_judged_in_its_own_pixels() -> None:
    inspector = inspector_with(FakeBackbone(), image_hw=(24, 32))
    verdict = inspector.inspect(dataclasses.replace(frame(), image=picture(hw=(48, 64))))
    assert verdict.decision is not Decision.INVALID
    assert verdict.peak is not None
    assert verdict.peak[0] < 64


def test_an_unreadable_frame_is_invalid_with_its_own_reason() -> None:
    asked = UnreadableFrame(
        station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=time.monotonic_ns(), reason="the image is empty"
    )
    verdict = green_inspector().inspect(asked)
    assert (verdict.decision, verdict.reason, verdict.frame_id) == (Decision.INVALID, "the image is empty", 3)
    assert verdict.score is verdict.p_value is verdict.peak is verdict.heatmap is verdict.foreground_ratio is None


def split_picture() -> UInt8:
    """Green, and a red corner that a region of interest may leave out."""
    image = picture(GREEN, (120, 160))
    image[:30, :40] = RED
    return image


def test_a_frame_made_ready_beforehand_gets_the_very_same_verdict() -> None:
    inspector = inspector_with(FakeBackbone())
    asked = dataclasses.replace(frame(), image=split_picture())
    ready = inspector.preprocessed(asked)
    assert isinstance(ready, Frame)
    assert ready.preprocessed is not None
    plain, fast = inspector.inspect(asked), inspector.inspect(ready)
    assert (fast.score, fast.decision, fast.peak) == (plain.score, plain.decision, plain.peak)
    assert fast.heatmap is not None
    assert plain.heatmap is not None
    np.testing.assert_array_equal(fast.heatmap, plain.heatmap)


def test_what_one_bank_made_ready_another_does_not_judge_by() -> None:
    whole, corner = inspector_with(FakeBackbone()), inspector_with(FakeBackbone(), roi=(0, 0, 40, 30))
    asked = dataclasses.replace(frame(), image=split_picture())
    ready_for_another = whole.preprocessed(asked)
    assert isinstance(ready_for_another, Frame)
    np.testing.assert_array_equal(corner.pixels(ready_for_another), corner.pixels(asked))
    assert (corner.pixels(asked) != whole.pixels(asked)).any()


def test_what_cannot_be_made_ready_goes_on_as_it_is_and_is_judged_invalid() -> None:
    inspector = inspector_with(FakeBackbone(), roi=(0, 0, 1000, 1000))
    small = inspector.preprocessed(frame())
    assert isinstance(small, Frame)
    assert small.preprocessed is None
    assert inspector.inspect(small).decision is Decision.INVALID
    unreadable = UnreadableFrame(station="line", frame_id=0, captured_at_ns=0, captured_mono_ns=0, reason="torn")
    assert inspector.preprocessed(unreadable) is unreadable


def test_a_verdict_does_not_depend_on_the_frames_before_it() -> None:
    first = green_inspector().inspect(frame(0, RED))
    inspector = green_inspector()
    for number in range(5):
        inspector.inspect(frame(number, GREEN))
    again = inspector.inspect(frame(0, RED))
    assert (again.score, again.peak, again.p_value) == (first.score, first.peak, first.p_value)


def test_the_overlay_has_the_frames_size_and_an_invalid_one_shows_the_frame() -> None:
    inspector = green_inspector()
    asked: Frame = frame(0, RED)
    assert inspector.overlay(asked, inspector.inspect(asked)).shape == asked.image.shape
    np.testing.assert_array_equal(inspector.overlay(asked, inspector.invalid(asked, "because")), asked.image)


def test_the_bank_and_the_fake_agree_on_their_dimension() -> None:
    assert FakeBackbone().card.dim == DIM == random_bank().patches.shape[1]
