"""What one frame alone costs under a candidate: embedding and search, measured."""

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median

import numpy as np

from bank_tools.bank.rotation import n_views, settle_rotations
from bank_tools.bench.clock import seconds_of
from bank_tools.bench.machine import OtherPrograms
from bank_tools.datasets import Category, Sample
from bank_tools.evaluation.detection import EvaluationContext
from bank_tools.evaluation.distance_table import content_digest
from bank_tools.evaluation.search import ReferenceSearch
from bank_tools.evaluation.step_cache import digest_of
from bank_tools.evaluation.variant import embedder_of
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder
from edge_uad.interfaces import Backbone
from edge_uad.records import UInt8

N_FRAMES = 15
N_WARM_UP = 2
DISTURBED_RATIO = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTime:
    """Of pictures that are decoded already, one after the other."""

    median_ms: float
    n_frames: int
    n_patches: int
    """In the bank searched: as large as the candidate's, within an image's patches."""
    processor: str
    busy_ratio: float | None
    """Part of the machine that other programs took meanwhile; None where the system does not tell."""

    @property
    def disturbed(self) -> bool:
        """Whether other programs took so much that the time is no property of the candidate."""
        return self.busy_ratio is not None and self.busy_ratio > DISTURBED_RATIO


def frame_time(
    category: Category, context: EvaluationContext, backbone: Backbone, *, processor: str, n_good: int
) -> FrameTime | None:
    """Time one frame alone on test images, or read what an earlier run measured on this processor undisturbed.

    The search is exact and costs the same for any bank of one size, so it is timed against all the patches of as many
    good images as the coreset is a part of: no coreset has to be chosen anew.

    Args:
        category: with good and test images.
        context: the candidate's.
        backbone: the candidate's model, opened with all the threads that a frame alone may have.
        processor: where it runs, and on how many threads.
        n_good: how many good images the candidate's bank learned from.

    Returns:
        None where no image can be timed.
    """
    frames = _spread_out(category.test)
    good = category.good[: _images_of_a_bank(context, n_good)]
    facts = [context.sample_embedder.identity, asdict(context.variant), processor]
    key = digest_of(["frame time 1", *facts, *(content_digest(one) for one in (*good, *frames))])
    kept = context.steps.get(key)
    if kept is not None:
        fields = json.loads(kept["json"].tobytes())
        return FrameTime(**fields) if fields else None
    found = _measured(good, frames, context, embedder_of(backbone, context.variant), processor)
    if found is None or not found.disturbed:
        text = json.dumps(asdict(found) if found else None)
        context.steps.put(key, {"json": np.frombuffer(text.encode(), np.uint8)})
    return found


def _measured(
    good: tuple[Sample, ...],
    frames: list[Sample],
    context: EvaluationContext,
    embedder: Embedder,
    processor: str,
) -> FrameTime | None:
    everything = replace(context.variant, recipe=replace(context.variant.recipe, coreset_ratio=1, max_patches=None))
    views = n_views(context.variant.recipe.rotations)
    embedded = context.sample_embedder.embed_all(good, context.progress, "timing: bank", views=views).embeddings
    if not len(embedded):
        return None
    embedded = settle_rotations(embedded, context.variant.recipe, context.progress).embeddings
    search = ReferenceSearch(embedded, everything)
    times_ms: list[float] = []
    others = OtherPrograms()
    with context.progress.step("timing", len(frames), "frames") as done:
        for sample in frames:
            try:
                image = sample.image()
                for _ in range(0 if times_ms else N_WARM_UP):
                    _judge(image, embedder, search)
                times_ms.append(1000 * seconds_of(partial(_judge, image, embedder, search)))
            except FrameError:
                continue  # it is invalid in the table as well
            finally:
                done(1)
    if not times_ms:
        return None
    return FrameTime(
        median_ms=median(times_ms),
        n_frames=len(times_ms),
        n_patches=search.n_patches,
        processor=processor,
        busy_ratio=others.share(),
    )


def _judge(image: UInt8, embedder: Embedder, search: ReferenceSearch) -> None:
    search(embedder.embed(image))


def _images_of_a_bank(context: EvaluationContext, n_good: int) -> int:
    """How many good images, in all their views, have as many patches as the coreset of ``n_good`` of them."""
    recipe = context.variant.recipe
    n_images = max(1, math.ceil(recipe.coreset_ratio * n_good))
    if recipe.max_patches is None:
        return n_images
    return min(n_images, math.ceil(recipe.max_patches / (n_views(recipe.rotations) * math.prod(context.grid_hw))))


def _spread_out(test: tuple[Sample, ...]) -> list[Sample]:
    """Up to ``N_FRAMES`` of them, from all over the test."""
    places = np.unique(np.linspace(0, len(test) - 1, N_FRAMES).round().astype(int))
    return [test[place] for place in places.tolist()]
