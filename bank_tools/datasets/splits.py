"""Seeded splits for sets that were published without one."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def seeded_split(items: Sequence[T], *, share: float, seed: int) -> tuple[list[T], list[T]]:
    """A part of the items, drawn by the seed, and the rest; each in the order given.

    Args:
        items: in an order that does not depend on the machine.
        share: of the first part, 0..1; its size is rounded down.
        seed: of the draw.
    """
    drawn = set(np.random.default_rng(seed).permutation(len(items))[: int(share * len(items))].tolist())
    return (
        [item for index, item in enumerate(items) if index in drawn],
        [item for index, item in enumerate(items) if index not in drawn],
    )
