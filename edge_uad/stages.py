"""The names of a frame's stages, and their timing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

StageTimer = Callable[[str, float], None]
"""Called with a stage's name and its duration in seconds, by the thread that did the work."""
STAGES = ("preprocess", "backbone", "masking", "search", "scoring", "heatmap")
"""Of every frame judged, in their order."""
PUBLISHING_STAGES = ("publish", "overlay", "encode")
"""``publish`` is a verdict's, ``overlay`` and ``encode`` a heatmap's: drawn and encoded in a background thread."""


@contextmanager
def timed(on_stage: StageTimer | None, stage: str) -> Iterator[None]:
    """Call ``on_stage`` with the block's duration, unless it is None or the block raised."""
    started_s = time.perf_counter()
    yield
    if on_stage is not None:
        on_stage(stage, time.perf_counter() - started_s)
