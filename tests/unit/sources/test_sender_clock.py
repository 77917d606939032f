"""The age of a frame that another machine's clock dates."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.sources.sender_clock import DISTRUST_AFTER_STEP_S, WINDOW_FRAMES, WINDOW_S, SenderClock

S = 10**9
WALL, MONO = 1_800_000_000 * S, 5_000 * S
"""This machine's two clocks at the beginning."""
offsets_ns = st.integers(-(10**18), 10**18)


class Machine:
    """This machine's clocks, and a sender whose clock differs by ``offset_ns``.

    Args:
        trusted: as of the clock under test.
    """

    def __init__(self, *, trusted: bool, offset_ns: int = 0) -> None:
        self.clock = SenderClock("line", trusted=trusted)
        self.wall, self.mono, self.sender = WALL, MONO, WALL + offset_ns

    def pass_s(self, seconds: float) -> None:
        for name in ("wall", "mono", "sender"):
            setattr(self, name, getattr(self, name) + round(seconds * S))

    def frame_age_s(self, delay_s: float = 0.01) -> float:
        """Of a frame captured now that arrives after ``delay_s``."""
        captured_at_ns = self.sender
        self.pass_s(delay_s)
        captured = self.clock.captured_mono_ns(captured_at_ns, now_ns=self.wall, now_mono_ns=self.mono)
        return (self.mono - captured) / S

    @property
    def offset_s(self) -> float | None:
        return self.clock.offset_s(now_ns=self.wall, now_mono_ns=self.mono)


@given(offsets_ns, st.floats(0, 100))
def test_a_frame_counts_from_its_arrival_whatever_its_senders_clock_says(offset_ns: int, delay_s: float) -> None:
    machine = Machine(trusted=False, offset_ns=offset_ns)
    assert machine.frame_age_s(delay_s) == 0


@given(st.floats(0, 10_000))
def test_a_frame_of_a_trusted_sender_is_as_old_as_it_says_however_old(delay_s: float) -> None:
    assert Machine(trusted=True).frame_age_s(delay_s) == pytest.approx(delay_s, abs=1e-6)


@given(st.integers(0, 10**18))
def test_a_trusted_sender_whose_clock_is_ahead_has_no_frames_from_the_future(ahead_ns: int) -> None:
    assert Machine(trusted=True, offset_ns=ahead_ns).frame_age_s() >= 0


@given(st.integers(-(10**15), 10**15), st.lists(st.floats(0.001, 3), min_size=1, max_size=20))
def test_the_offset_is_that_of_the_frame_that_came_quickest(offset_ns: int, delays_s: list[float]) -> None:
    machine = Machine(trusted=False, offset_ns=offset_ns)
    assert machine.offset_s is None
    for delay_s in delays_s:
        machine.frame_age_s(delay_s)
    assert machine.offset_s == pytest.approx(offset_ns / S - min(delays_s), abs=1e-5)


def test_the_offset_is_of_the_last_minute_and_of_so_many_frames() -> None:
    machine = Machine(trusted=False)
    machine.frame_age_s(0.01)
    machine.sender -= 5 * S  # the sender's clock is set back
    machine.frame_age_s(0.01)
    assert machine.offset_s == pytest.approx(-0.01)
    machine.pass_s(WINDOW_S)
    machine.frame_age_s(0.01)
    assert machine.offset_s == pytest.approx(-5.01)
    machine.sender -= 5 * S
    for _ in range(WINDOW_FRAMES):
        machine.frame_age_s(0.01)
    assert machine.offset_s == pytest.approx(-10.01)


@pytest.mark.parametrize("step_s", [-3600.0, -0.2, 0.2, 3600.0])
@pytest.mark.parametrize("sender_too", [False, True], ids=["remote", "same machine"])
def test_a_step_of_this_machines_clock_makes_no_frame_old(
    step_s: float, sender_too: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A trusted sender counts again from capture once both clocks had the time to agree."""
    machine = Machine(trusted=True)
    assert machine.frame_age_s(0.05) == pytest.approx(0.05)
    machine.wall += round(step_s * S)
    machine.sender += round(step_s * S) * sender_too
    with caplog.at_level(logging.WARNING):
        assert machine.frame_age_s(0.05) == 0
    assert f"set {'forward' if step_s > 0 else 'back'} by {abs(step_s):.3f} s" in caplog.text
    assert machine.offset_s == pytest.approx((0 if sender_too else -step_s) - 0.05, abs=1e-5)
    machine.sender = machine.wall  # NTP mends the sender
    machine.pass_s(DISTRUST_AFTER_STEP_S - 1)
    assert machine.frame_age_s(0.05) == 0
    machine.pass_s(1)
    assert machine.frame_age_s(0.05) == pytest.approx(0.05)


def test_a_step_is_in_the_offset_at_once_without_another_frame() -> None:
    machine = Machine(trusted=False)
    machine.frame_age_s(0.01)
    machine.wall += 30 * S
    assert machine.offset_s == pytest.approx(-30.01)


@given(st.lists(st.tuples(st.floats(0, 86_400), st.floats(-5e-4, 5e-4)), max_size=20))
def test_a_clock_that_ntp_steers_is_no_step(drifts: list[tuple[float, float]]) -> None:
    machine = Machine(trusted=True)
    machine.frame_age_s(0.01)
    for passed_s, drift_ratio in drifts:
        machine.pass_s(passed_s)
        machine.wall += round(passed_s * drift_ratio * S)
        machine.sender = machine.wall
        assert machine.frame_age_s(0.01) == pytest.approx(0.01)
