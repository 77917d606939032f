"""One answer for each trigger, never a frame from before it, and a frame never answers another part's trigger."""

import dataclasses
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_uad.records import NO_FRAME_ID, Trigger, TriggerFailure, UnreadableFrame
from edge_uad.sources.triggers.pairing import MAX_COUNTED_GAP, Answer, HardwarePairing, Pairing, SoftwarePairing

DEADLINE_NS = 100


def trigger(number: int, at_ns: int) -> Trigger:
    return Trigger(number, f"SN-{number}", at_ns)


def frame(frame_id: int, at_ns: int, *, dropped_before: int = 0) -> UnreadableFrame:
    """A frame; what it shows does not matter here."""
    return UnreadableFrame(
        station="line",
        frame_id=frame_id,
        captured_at_ns=at_ns,
        captured_mono_ns=at_ns,
        dropped_before=dropped_before,
        reason="no pixels needed",
    )


def told(answers: list[Answer]) -> list[tuple[int, int | TriggerFailure]]:
    """Each answer's trigger, and its frame or the reason."""
    return [
        (one.trigger.trigger_id, one.frame.frame_id if one.frame is not None else one.failure or -1) for one in answers
    ]


class _Line(RuleBasedStateMachine):
    """What every line keeps: one answer each, none from before its trigger, all answered at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 1000
        self.pairing: Pairing
        self.sent: dict[int, Trigger] = {}
        self.answers: dict[int, Answer] = {}
        self.part_on: dict[int, int] = {}
        """By the frame's id: the trigger whose part it shows."""

    def take(self, answers: list[Answer]) -> None:
        for one in answers:
            number = one.trigger.trigger_id
            assert number in self.sent, "a trigger that nobody sent was answered"
            assert number not in self.answers, "a second answer"
            assert (one.frame is None) != (one.failure is None)
            if one.frame is not None:
                assert one.frame.captured_mono_ns >= one.trigger.received_mono_ns, "a frame from before its trigger"
            self.answers[number] = one

    def send(self) -> Trigger:
        self.now_ns += 1
        new = trigger(len(self.sent) + 1, self.now_ns)
        self.sent[new.trigger_id] = new
        self.take(self.pairing.add_trigger(new))
        return new

    @rule(by_ns=st.integers(1, 3 * DEADLINE_NS))
    def time_passes(self, by_ns: int) -> None:
        self.now_ns += by_ns
        self.take(self.pairing.expire(self.now_ns - DEADLINE_NS))
        for one in self.pairing.pending:
            assert one.received_mono_ns > self.now_ns - DEADLINE_NS, "one is pending beyond its deadline"

    @invariant()
    def every_trigger_waits_or_is_answered(self) -> None:
        if self.sent:
            pending = [one.trigger_id for one in self.pairing.pending]
            assert pending == sorted(pending)
            assert not set(pending) & set(self.answers)
            assert set(pending) | set(self.answers) == set(self.sent)

    def teardown(self) -> None:
        if self.sent:
            self.take(self.pairing.fail(TriggerFailure.STOPPING, self.now_ns))
            assert set(self.answers) == set(self.sent)
            assert self.pairing.pending == ()


class SoftwareLine(_Line):
    """Triggers, and a camera that gives frames whenever it likes, some of them late."""

    @initialize(delay_ns=st.integers(0, DEADLINE_NS // 2))
    def start(self, delay_ns: int) -> None:
        self.delay_ns = delay_ns
        self.pairing = SoftwarePairing(delay_ns=delay_ns)
        self.frame_id = 0
        self.used: set[int] = set()

    @rule()
    def a_trigger(self) -> None:
        self.send()

    @rule(age_ns=st.integers(0, 2 * DEADLINE_NS), skipped=st.integers(0, 3))
    def a_frame(self, age_ns: int, skipped: int) -> None:
        self.now_ns += 1
        self.frame_id += 1 + skipped
        pending = self.pairing.pending
        captured_ns = self.now_ns - age_ns
        answers = self.pairing.add_frame(frame(self.frame_id, captured_ns, dropped_before=skipped))
        fits = bool(pending) and captured_ns >= pending[0].received_mono_ns + self.delay_ns
        assert told(answers) == ([(pending[0].trigger_id, self.frame_id)] if fits else [])
        self.take(answers)

    @rule()
    def the_camera_goes(self) -> None:
        self.take(self.pairing.fail(TriggerFailure.CAMERA_GONE, self.now_ns))


class HardwareLine(_Line):
    """Parts that are announced, get their pulse within the deadline, and are photographed; frames may be lost or late.

    A count alone cannot know of a pulse that the camera missed, nor of one too many, while several parts are under way:
    these happen where the line waits for each answer, as the handshake demands. And where frames are stamped at their
    arrival, one that is late after the count began anew passes for a new one.
    """

    @initialize(kind=st.sampled_from(["waits for answers", "many under way", "stamped at arrival"]))
    def start(self, kind: str) -> None:
        self.waits = kind == "waits for answers"
        self.at_arrival = kind == "stamped at arrival"
        self.pairing = HardwarePairing(settle_ns=DEADLINE_NS)
        self.unpulsed: deque[Trigger] = deque()
        self.in_transit: deque[UnreadableFrame] = deque()
        self.next_id = 0
        self.counting = False
        """A frame has come since the count began."""
        self.missed: int | None = None
        """The trigger whose pulse the camera missed last."""
        if self.at_arrival:  # it begins in step: one part alone
            self.announce(1)
            self.pulse(1)
            self.a_frame_arrives()

    def settled(self) -> bool:
        return not self.unpulsed and set(self.answers) == set(self.sent)

    @precondition(lambda self: not self.waits or self.settled())
    @rule(parts=st.integers(1, 3))
    def announce(self, parts: int) -> None:
        for _ in range(1 if self.waits else parts):
            self.unpulsed.append(self.send())

    def expose(self, part: int) -> None:
        self.now_ns += 1
        self.in_transit.append(frame(self.next_id, self.now_ns))
        self.part_on[self.next_id] = part
        self.next_id += 1

    @precondition(lambda self: self.unpulsed)
    @rule(parts=st.integers(1, 3))
    def pulse(self, parts: int) -> None:
        for _ in range(min(parts, len(self.unpulsed))):
            self.expose(self.unpulsed.popleft().trigger_id)

    @rule(by_ns=st.integers(1, 3 * DEADLINE_NS))
    def time_passes(self, by_ns: int) -> None:
        # within the deadline of its announcement, and in time for a line that waits for the answer
        while self.unpulsed and (self.waits or self.unpulsed[0].received_mono_ns + DEADLINE_NS <= self.now_ns + by_ns):
            self.expose(self.unpulsed.popleft().trigger_id)
        super().time_passes(by_ns)

    @precondition(lambda self: self.waits and self.unpulsed)
    @rule()
    def the_camera_misses_a_pulse(self) -> None:
        self.missed = self.unpulsed.popleft().trigger_id

    def may_pulse_too_often(self) -> bool:
        """Not in place of a frame of whose loss the count cannot know: of a missed pulse, or before the count began."""
        known = self.missed is None or self.missed in self.answers
        return self.waits and known and (self.counting or set(self.answers) == set(self.sent))

    @precondition(may_pulse_too_often)
    @rule()
    def a_pulse_too_many(self) -> None:
        if self.unpulsed:  # within one part's time nobody could tell which of the two
            self.pulse(1)
        self.expose(0)

    @precondition(lambda self: self.in_transit)
    @rule()
    def a_frame_arrives(self) -> None:
        self.now_ns += 1
        arriving = self.in_transit.popleft()
        if self.at_arrival:
            arriving = dataclasses.replace(arriving, captured_mono_ns=self.now_ns)
        self.counting = True
        self.take(self.pairing.add_frame(arriving))

    @precondition(lambda self: self.in_transit)
    @rule()
    def a_frame_is_lost_on_the_way(self) -> None:
        self.in_transit.popleft()

    @precondition(lambda self: self.in_transit)
    @rule()
    def a_frame_is_lost_and_counted(self) -> None:
        lost = self.in_transit.popleft()
        if self.in_transit:
            following = self.in_transit.popleft()
            self.in_transit.appendleft(dataclasses.replace(following, dropped_before=lost.dropped_before + 1))

    @precondition(lambda self: not self.in_transit and not self.at_arrival)
    @rule(jump=st.sampled_from([-10 * MAX_COUNTED_GAP, 2 * MAX_COUNTED_GAP]))
    def the_camera_counts_anew(self, jump: int) -> None:
        self.next_id += jump

    @precondition(lambda self: not self.at_arrival)
    @rule()
    def the_camera_goes(self) -> None:
        self.in_transit.clear()
        self.counting = False
        self.take(self.pairing.fail(TriggerFailure.CAMERA_GONE, self.now_ns))

    @precondition(lambda self: not self.at_arrival)
    @rule()
    def resynchronised(self) -> None:
        """At any moment: whatever is under way must not be given to another trigger."""
        self.counting = False
        self.take(self.pairing.fail(TriggerFailure.ABORTED, self.now_ns))

    @invariant()
    def every_frame_answers_the_trigger_of_its_own_part(self) -> None:
        for number, one in self.answers.items():
            if one.frame is not None:
                assert self.part_on[one.frame.frame_id] == number, "the ids slipped"


TestSoftwareLine = SoftwareLine.TestCase
SoftwareLine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestHardwareLine = HardwareLine.TestCase
HardwareLine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_a_line_in_step_is_judged_frame_by_frame() -> None:
    """The machine above would be content with failures alone."""
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    for number in range(1, 50):
        assert pairing.add_trigger(trigger(number, number * 10)) == []
        if number == 1:  # the count begins
            assert told(pairing.add_frame(frame(4, 15))) == [(1, 4)]
        if number > 4:  # three parts under way
            assert told(pairing.add_frame(frame(number, number * 10 + 5))) == [(number - 3, number)]


@pytest.mark.parametrize("counted", [False, True])
def test_each_missing_frame_fails_its_own_trigger_and_the_next_one_has_its_frame(counted: bool) -> None:
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    pairing.add_trigger(trigger(1, 1))
    assert told(pairing.add_frame(frame(7, 1))) == [(1, 7)]
    for number in range(2, 5):
        pairing.add_trigger(trigger(number, number))
    answers = pairing.add_frame(frame(8, 11, dropped_before=2) if counted else frame(10, 11))
    assert told(answers) == [(2, TriggerFailure.ID_GAP), (3, TriggerFailure.ID_GAP), (4, 8 if counted else 10)]
    assert [one.frame_id for one in answers[:2]] == ([NO_FRAME_ID] * 2 if counted else [8, 9])


def test_a_first_frame_that_may_be_the_second_triggers_is_nobodys() -> None:
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    pairing.add_trigger(trigger(1, 1))
    pairing.add_trigger(trigger(2, 5))
    assert told(pairing.add_frame(frame(8, 6))) == [(1, TriggerFailure.ID_GAP), (2, TriggerFailure.ID_GAP)]


def test_a_late_frame_is_nobody_elses_and_the_count_goes_on() -> None:
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    pairing.add_trigger(trigger(1, 0))
    assert told(pairing.expire(0)) == [(1, TriggerFailure.NO_IMAGE)]
    assert "resynchronise" in (pairing.remark(0) or "")
    pairing.add_trigger(trigger(2, 500))
    assert pairing.add_frame(frame(0, 501)) == []
    assert told(pairing.add_frame(frame(1, 502))) == [(2, 1)]
    assert pairing.remark(502) is None


def test_a_missed_pulse_fails_every_later_trigger_until_the_count_is_resynchronised() -> None:
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    now = 0
    for number in range(1, 6):
        now += 1000
        pairing.add_trigger(trigger(number, now))
        if number > 1:
            assert pairing.add_frame(frame(number, now + 1)) == []
        assert told(pairing.expire(now)) == [(number, TriggerFailure.NO_IMAGE)]
    assert pairing.fail(TriggerFailure.ABORTED, now) == []
    pairing.add_trigger(trigger(9, now + DEADLINE_NS + 1))
    assert told(pairing.add_frame(frame(6, now + DEADLINE_NS + 2))) == [(9, 6)]


def test_an_unannounced_frame_fails_what_follows_at_once_until_the_line_has_stood_for_a_moment() -> None:
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    assert pairing.add_frame(frame(0, 1000)) == []
    assert told(pairing.add_trigger(trigger(1, 1000 + DEADLINE_NS))) == [(1, TriggerFailure.ID_GAP)]
    assert pairing.add_frame(frame(1, 1000 + 2 * DEADLINE_NS)) == []
    assert pairing.in_doubt(1000 + 3 * DEADLINE_NS)
    assert "in doubt" in (pairing.remark(1000 + 3 * DEADLINE_NS) or "")
    pairing.add_trigger(trigger(2, 1001 + 3 * DEADLINE_NS))
    assert told(pairing.add_frame(frame(2, 1002 + 3 * DEADLINE_NS))) == [(2, 2)]


def test_a_trigger_that_failed_in_doubt_casts_doubt_itself_because_its_frame_may_still_come() -> None:
    pairing = HardwarePairing(settle_ns=DEADLINE_NS)
    pairing.add_frame(frame(0, 1000))
    assert told(pairing.add_trigger(trigger(1, 1090))) == [(1, TriggerFailure.ID_GAP)]
    assert told(pairing.add_trigger(trigger(2, 1150))) == [
        (2, TriggerFailure.ID_GAP)
    ]  # not in doubt by the frame alone
    assert pairing.add_frame(frame(1, 1180)) == []  # the first trigger's
