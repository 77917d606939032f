"""Between capture and inspection: what is skipped is counted, what is queued keeps its order."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.sources.queues import BoundedFrameQueue, FrameQueue, LatestFrameQueue
from tests.fakes import frame


def nothing() -> None:
    pass


def test_in_the_slot_the_newest_frame_wins_and_tells_what_it_skipped() -> None:
    slot = LatestFrameQueue(nothing)
    for frame_id in range(4):
        assert slot.put(frame(frame_id))
    taken = slot.take()
    assert taken is not None
    assert (taken.frame_id, taken.dropped_before) == (3, 3)
    assert slot.take() is None
    counts = slot.stats()
    assert (counts.taken, counts.dropped, counts.waiting) == (1, 3, 0)


def test_what_the_source_itself_dropped_is_added() -> None:
    slot = LatestFrameQueue(nothing)
    slot.put(frame(2, dropped_before=2))
    slot.put(frame(7, dropped_before=4))
    taken = slot.take()
    assert taken is not None
    assert taken.dropped_before == 2 + 1 + 4
    assert slot.stats().dropped == 7


@given(st.lists(st.none() | st.integers(0, 3), max_size=60))
def test_every_frame_is_taken_or_counted(moves: list[int | None]) -> None:
    """None takes; a number puts a frame before which the source dropped so many."""
    slot = LatestFrameQueue(nothing)
    told = put = 0
    for move in moves:
        if move is None:
            taken = slot.take()
            told += 0 if taken is None else taken.dropped_before
        else:
            slot.put(frame(put, dropped_before=move))
            put += 1 + move
    last = slot.take()
    told += 0 if last is None else last.dropped_before
    counts = slot.stats()
    assert counts.taken + counts.dropped == put
    assert told == counts.dropped


def test_the_queue_keeps_order() -> None:
    queue = BoundedFrameQueue(nothing, capacity=3)
    for frame_id in range(3):
        queue.put(frame(frame_id))
    assert [taken.frame_id for taken in (queue.take(), queue.take(), queue.take()) if taken] == [0, 1, 2]
    assert queue.take() is None


def test_a_full_queue_holds_the_source_back_until_there_is_room() -> None:
    queue = BoundedFrameQueue(nothing, capacity=1)
    queue.put(frame(0))
    put: list[bool] = []
    thread = threading.Thread(target=lambda: put.append(queue.put(frame(1))))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert queue.stats().waiting == 1
    assert queue.take() is not None
    thread.join(20)
    assert put == [True]
    taken = queue.take()
    assert taken is not None
    assert taken.frame_id == 1
    assert queue.stats().dropped == 0


def test_closing_lets_go_of_a_waiting_source_and_counts_what_is_left() -> None:
    queue = BoundedFrameQueue(nothing, capacity=1)
    queue.put(frame(0))
    put: list[bool] = []
    thread = threading.Thread(target=lambda: put.append(queue.put(frame(1))))
    thread.start()
    queue.close()
    thread.join(20)
    assert put == [False]
    assert queue.take() is None
    assert queue.stats().dropped == 2


@pytest.mark.parametrize(
    "make", [LatestFrameQueue, lambda wake: BoundedFrameQueue(wake, capacity=2)], ids=["slot", "queue"]
)
def test_each_frame_wakes_the_loop_and_none_does_after_the_close(make: type[LatestFrameQueue]) -> None:
    woken: list[int] = []
    queue: FrameQueue = make(lambda: woken.append(1))
    queue.put(frame(0))
    queue.take()
    queue.put(frame(1))
    assert len(woken) == 2
    queue.close()
    assert not queue.put(frame(2))
    assert len(woken) == 2
    assert queue.stats().dropped == 2
    assert queue.stats().last_frame_mono_ns is not None


def test_a_queue_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        BoundedFrameQueue(nothing, capacity=0)
