"""A live source that repeats one picture is noticed after a while, and not before."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame
from edge_uad.sources.frozen import MIN_REPEATS, FrozenPictureCheck

RATE_HZ = 10
AFTER_S = 2.0


def noisy(seed: int) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)


def taken(number: int, image: UInt8, *, rate_hz: float = RATE_HZ) -> Frame:
    at_ns = round(number / rate_hz * 1e9)
    return Frame(station="line", frame_id=number, captured_at_ns=at_ns, captured_mono_ns=at_ns, image=image)


def checked(images: Sequence[UInt8], *, rate_hz: float = RATE_HZ) -> list[AnyFrame]:
    check = FrozenPictureCheck("line", after_s=AFTER_S)
    return [check.check(taken(number, image, rate_hz=rate_hz)) for number, image in enumerate(images)]


def refused(frames: Sequence[AnyFrame]) -> list[int]:
    return [frame.frame_id for frame in frames if isinstance(frame, UnreadableFrame)]


def test_a_repeated_picture_is_refused_from_the_limit_on_until_it_changes() -> None:
    frames = checked([noisy(0)] + [noisy(1).copy() for _ in range(40)] + [noisy(2)])
    assert refused(frames) == list(range(1 + int(AFTER_S * RATE_HZ), 41))
    reasons = {frame.reason for frame in frames if isinstance(frame, UnreadableFrame)}
    assert reasons == {"the picture has not changed for 2 s"}


@given(st.integers(0, 59), st.integers(0, 79), st.integers(0, 2))
def test_one_changed_value_anywhere_is_a_change(row: int, column: int, channel: int) -> None:
    still = noisy(1)
    other = still.copy()
    other[row, column, channel] ^= 1
    assert refused(checked([still, other] * 40)) == []


def test_a_slow_camera_may_repeat_itself_for_longer() -> None:
    frames = checked([noisy(1)] * 30, rate_hz=1)
    assert refused(frames) == list(range(MIN_REPEATS, 30))


def test_a_damaged_frame_between_does_not_set_the_clock_back() -> None:
    check = FrozenPictureCheck("line", after_s=AFTER_S)
    broken = UnreadableFrame(station="line", frame_id=5, captured_at_ns=0, captured_mono_ns=0, reason="damaged")
    frames = [check.check(taken(n, noisy(1)) if n % 2 else broken) for n in range(60)]
    assert sum(isinstance(frame, UnreadableFrame) and frame.reason != "damaged" for frame in frames) > 10


def test_what_is_refused_keeps_its_identity_and_its_count_of_drops() -> None:
    check = FrozenPictureCheck("line", after_s=AFTER_S)
    frames = [
        check.check(
            Frame(
                station="line",
                frame_id=n,
                captured_at_ns=n,
                captured_mono_ns=n * 10**9,
                part_id=f"part {n}",
                dropped_before=n,
                image=noisy(1),
            )
        )
        for n in range(20)
    ]
    last = frames[-1]
    assert isinstance(last, UnreadableFrame)
    assert (last.frame_id, last.captured_at_ns, last.part_id, last.dropped_before) == (19, 19, "part 19", 19)
