"""Heat against masks, at the size of each image."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from bank_tools.datasets import Category, Sample
from bank_tools.evaluation.distance_table import DistanceTable, content_digest, distances_of
from bank_tools.evaluation.step_cache import StepCache, digest_of
from bank_tools.metrics.pixel import GoodHeat, PixelMetrics, PixelResult
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder
from edge_uad.inference.overlay import heat_on_image
from edge_uad.inference.scoring import heatmap
from edge_uad.progress import Progress
from edge_uad.records import Float32, UInt8

_MASKS_READ = "masks 1"
"""Changed when masks are compared differently, so that an older step is not taken for this one."""


def pixel_result(
    category: Category, table: DistanceTable, embedder: Embedder, steps: StepCache, progress: Progress
) -> tuple[PixelResult, list[str]]:
    """Pixel metrics of one category, and what was odd; or what an earlier run found.

    Good images and outlined ones count; an image without a mask, and one that could not be judged, do not.
    """
    key = digest_of([_MASKS_READ, table.key, category.name, [_mask_digest(sample) for sample in category.test]])
    kept = steps.get(key)
    if kept is not None:
        found = json.loads(kept["json"].tobytes())
        return PixelResult(**found["result"]), found["odd"]
    metrics = PixelMetrics()
    odd: list[str] = []
    with progress.step("localising", len(category.test), "images") as done:
        for sample, row, reason in zip(category.test, table.test, table.reasons, strict=True):
            if not reason:
                try:
                    _add(metrics, sample, row, embedder)
                except FrameError as error:
                    odd.append(f"{category.name}: {sample.name} stays out of the pixel metrics: {error}")
            done(1)
    result = metrics.result(_heat_threshold(table, embedder))
    text = json.dumps({"result": asdict(result), "odd": odd})
    steps.put(key, {"json": np.array(list(text.encode()), np.uint8)})
    return result, odd


def heat_of(row: Float32, image: UInt8, embedder: Embedder) -> Float32:
    """The heat of one table row, (H, W), as the daemon would lay it over the image."""
    return heat_on_image(_heat(row, embedder), image.shape[:2], embedder.preprocessor.placement(image.shape[:2]))


def _add(metrics: PixelMetrics, sample: Sample, row: Float32, embedder: Embedder) -> None:
    image = sample.image()
    mask = sample.mask((image.shape[0], image.shape[1]))
    if mask is not None:
        metrics.add(heat_of(row, image, embedder), mask)


def _heat(row: Float32, embedder: Embedder) -> Float32:
    card = embedder.backbone.card
    return heatmap(distances_of(row, card.grid_hw), card.input_hw)


def _heat_threshold(table: DistanceTable, embedder: Embedder) -> float | None:
    """SegF1's, from good images alone, each against a bank of others."""
    good = GoodHeat()
    for heat in _good_heats(table, embedder):
        good.add(heat)
    return good.threshold() if len(table.calibration) else None


def _good_heats(table: DistanceTable, embedder: Embedder) -> Iterator[Float32]:
    return (_heat(row, embedder) for row in table.calibration)


def _mask_digest(sample: Sample) -> str:
    if sample.mask_path is None:
        return content_digest(sample)
    try:
        return digest_of([content_digest(sample), hashlib.sha256(sample.mask_path.read_bytes()).hexdigest()])
    except OSError as error:
        return str(error)
