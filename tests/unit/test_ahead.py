"""Items made ahead are the same items, and nothing is left behind."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bank_tools.ahead import ahead
from bank_tools.build import look_at
from bank_tools.frames import frames_of
from bank_tools.progress import SilentProgress
from edge_uad.assemble import load_backbone, make_embedder
from edge_uad.records import Frame, Geometry, UnreadableFrame
from edge_uad.sources import recorded_source
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


def makers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
def test_all_items_come_in_order(n: int) -> None:
    shelf = Shelf(n)
    assert list(ahead(shelf.items())) == list(range(n))
    assert shelf.closed
    assert not makers()


def test_the_next_are_made_while_one_is_worked_on_but_not_more() -> None:
    shelf = Shelf(50)
    items = ahead(shelf.items(), depth=3)
    assert next(items) == 0
    until(lambda: shelf.taken == 4)
    assert next(items) == 1
    until(lambda: shelf.taken == 5)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert shelf.taken == 5
    assert shelf.closed
    assert not makers()


def test_what_the_making_raises_comes_out_in_its_place() -> None:
    shelf = Shelf(9, fails_at=4)
    items = ahead(shelf.items())
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="the shelf broke"):
        next(items)
    assert shelf.closed
    assert not makers()


def test_a_consumer_that_fails_ends_the_maker() -> None:
    shelf = Shelf(50)

    def divide_all() -> list[int]:
        return [12 // (item - 3) for item in ahead(shelf.items())]

    with pytest.raises(ZeroDivisionError):
        divide_all()
    until(lambda: shelf.closed and not makers())


def test_images_looked_at_ahead_have_the_bits_of_each_alone(tiny_model: Path, good_parts: Path) -> None:
    embedder = make_embedder(
        load_backbone(tiny_model), geometry=Geometry.STRETCH, roi=None, bpm_kernel=3, bpm_threshold=0.1
    )

    def frames() -> Iterator[Frame | UnreadableFrame]:
        return frames_of(recorded_source(str(good_parts))[0])

    alone = [embedder.embed(frame.image) for frame in frames() if isinstance(frame, Frame)]
    together = look_at(frames(), embedder, None, SilentProgress()).seen
    assert len(together) == len(alone) > 2
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.embedding.tokens, other.embedding.tokens)
        np.testing.assert_array_equal(one.embedding.attention, other.embedding.attention)
        np.testing.assert_array_equal(one.mask.foreground, other.mask.foreground)
