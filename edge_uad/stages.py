"""The stages of a frame's way by name, and how long each took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

StageTimer = Callable[[str, float], None]
"""Told a stage's name and the seconds it took, by the thread that did the work."""
STAGES = ("preprocess", "backbone", "masking", "search", "scoring", "heatmap")
"""Of every frame judged, in their order."""
PUBLISHING_STAGES = ("publish", "overlay", "encode")
"""``publish`` is a verdict's, ``overlay`` and ``encode`` a picture's: drawn and made a JPEG in a background thread."""


@contextmanager
def timed(on_stage: StageTimer | None, stage: str) -> Iterator[None]:
    """Tell how long the block took, where somebody wants to know and it did not fail."""
    started_s = time.perf_counter()
    yield
    if on_stage is not None:
        on_stage(stage, time.perf_counter() - started_s)
