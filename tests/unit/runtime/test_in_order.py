"""Work done several at a time gives the same results in the same order, and leaves nothing behind."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bank_tools.bank.good_images import embed_all
from edge_uad.progress import SilentProgress
from edge_uad.records import Frame, Geometry, UnreadableFrame
from edge_uad.runtime.assemble import make_embedder
from edge_uad.runtime.backbones import load_backbone
from edge_uad.runtime.in_order import in_order
from edge_uad.sources import recorded_source
from edge_uad.sources.recorded import frames_of
from tests.fakes import until


class Shelf:
    """Items that tell how many were taken, and when the shelf was closed."""

    def __init__(self, n: int, *, fails_at: int | None = None) -> None:
        self.taken = 0
        self.closed = False
        self._n, self._fails_at = n, fails_at

    def items(self) -> Iterator[int]:
        try:
            for item in range(self._n):
                if item == self._fails_at:
                    raise RuntimeError("the shelf broke")
                self.taken += 1
                yield item
        finally:
            self.closed = True


def workers_alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("in-order")]


def halved(item: int) -> float:
    return item / 2


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
def test_all_results_come_in_the_order_of_the_items(n: int, workers: int) -> None:
    shelf = Shelf(n)
    assert list(in_order(halved, shelf.items(), workers=workers)) == [item / 2 for item in range(n)]
    assert shelf.closed
    assert not workers_alive()


def test_a_quick_one_waits_for_a_slow_one_before_it() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(20)
        else:
            second_done.set()
        return item

    assert list(in_order(work, range(2), workers=2)) == [0, 1]


def test_so_many_are_worked_on_at_a_time_and_one_more_is_made() -> None:
    shelf, all_at_work, going = Shelf(50), threading.Barrier(4, timeout=20), threading.Event()

    def work(item: int) -> int:
        if item < 3:
            all_at_work.wait()
            assert going.wait(20)
        return item

    results = in_order(work, shelf.items(), workers=3)
    first: list[int] = []
    asking = threading.Thread(target=lambda: first.append(next(results)))
    asking.start()
    all_at_work.wait()
    until(lambda: shelf.taken == 4)
    going.set()
    asking.join(20)
    assert first == [0]
    assert shelf.taken == 4
    results.close()  # type: ignore[attr-defined]  # a generator
    assert shelf.closed
    assert not workers_alive()


def test_what_the_making_of_an_item_raises_comes_out_in_its_place() -> None:
    shelf = Shelf(9, fails_at=4)
    results = in_order(halved, shelf.items(), workers=2)
    assert [next(results) for _ in range(4)] == [0, 0.5, 1, 1.5]
    with pytest.raises(RuntimeError, match="the shelf broke"):
        next(results)
    assert shelf.closed
    assert not workers_alive()


def test_what_the_work_raises_comes_out_in_its_place() -> None:
    shelf = Shelf(50)
    results = in_order(lambda item: 12 // (item - 3), shelf.items(), workers=2)
    assert [next(results) for _ in range(3)] == [-4, -6, -12]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert shelf.closed
    assert not workers_alive()


def test_a_consumer_that_fails_ends_the_workers() -> None:
    shelf = Shelf(50)

    def divide_all() -> list[float]:
        return [12 / (item - 3) for item in in_order(halved, shelf.items(), workers=2)]

    with pytest.raises(ZeroDivisionError):
        divide_all()
    until(lambda: shelf.closed and not workers_alive())


@pytest.mark.parametrize("workers", [1, 3])
def test_images_looked_at_several_at_a_time_have_the_bits_of_each_alone(
    tiny_model: Path, good_parts: Path, workers: int
) -> None:
    embedder = make_embedder(
        load_backbone(tiny_model), geometry=Geometry.STRETCH, roi=None, bpm_kernel=3, bpm_threshold=0.1
    )

    on_one_core = embedder.run_by(load_backbone(tiny_model, threads=1))

    def frames() -> Iterator[Frame | UnreadableFrame]:
        return frames_of(recorded_source(str(good_parts))[0])

    alone = [embedder.embed(frame.image) for frame in frames() if isinstance(frame, Frame)]
    together = embed_all(frames(), on_one_core, None, SilentProgress(), workers=workers).embeddings
    assert len(together) == len(alone) > 2
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.embedding.tokens, other.embedding.tokens)
        np.testing.assert_array_equal(one.embedding.attention, other.embedding.attention)
        np.testing.assert_array_equal(one.mask.foreground, other.mask.foreground)
