"""Heat against masks, at the size of each image."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bank_tools.datasets import Category, Sample
from bank_tools.datasets.masks import MaskError, MaskOddities
from bank_tools.datasets.wording import counted, listed
from bank_tools.evaluation.distance_table import DistanceTable, content_digest, distances_of
from bank_tools.evaluation.step_cache import StepCache, digest_of
from bank_tools.metrics.pixel import PixelMetrics, PixelResult
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder
from edge_uad.inference.overlay import heat_on_image
from edge_uad.inference.scoring import heatmap, hot_area_heat, pixel_threshold
from edge_uad.progress import Progress
from edge_uad.records import Float32, UInt8

_MASKS_READ = "masks 3"
"""Changed when masks or thresholds are compared differently, so that an older step is not taken for this one."""
NOT_READ_AGAIN = "that could be scored and not be read again, left out of the pixel metrics"


@dataclass(frozen=True, slots=True)
class Localisation:
    """One category's pixel metrics, and the images that are not in them."""

    result: PixelResult
    warnings: tuple[str, ...]
    odd_masks: Mapping[str, Sequence[str]]
    """Images whose mask is odd or could not be compared, by the reason."""


def localise(
    category: Category,
    table: DistanceTable,
    embedder: Embedder,
    steps: StepCache,
    progress: Progress,
    *,
    threshold: float | None,
) -> Localisation:
    """Compare heat with masks, or read what an earlier run found.

    Good images and outlined ones count; an image without a mask, and one that could not be judged, do not.

    Args:
        category: with test images and masks.
        table: of the test images.
        embedder: that it was made with.
        steps: where finished comparisons are kept.
        progress: shows the step.
        threshold: of the same table, see :func:`pixel_threshold_of`.
    """
    key = digest_of([_MASKS_READ, table.key, category.name, [_mask_digest(sample) for sample in category.test]])
    kept = steps.get(key)
    if kept is None:
        found = _localise(category, table, embedder, progress, threshold)
        text = json.dumps(asdict(found))
        steps.put(key, {"json": np.frombuffer(text.encode(), np.uint8)})
        return found
    fields = json.loads(kept["json"].tobytes())
    return Localisation(PixelResult(**fields["result"]), tuple(fields["warnings"]), fields["odd_masks"])


def _localise(
    category: Category, table: DistanceTable, embedder: Embedder, progress: Progress, threshold: float | None
) -> Localisation:
    metrics = PixelMetrics()
    masks = MaskOddities()
    unread: list[str] = []
    with progress.step("localising", len(category.test), "images") as done:
        for sample, row, reason in zip(category.test, table.test, table.reasons, strict=True):
            if not reason:
                try:
                    _add(metrics, sample, row, embedder, masks)
                except MaskError as error:
                    masks.refuse(sample.name, error)
                except FrameError as error:
                    unread.append(f"{sample.name} ({error})")
            done(1)
    odd: dict[str, Sequence[str]] = {str(oddity): names for oddity, names in masks.names.items()}
    warnings = masks.sentences(category.name)
    if unread:
        odd[NOT_READ_AGAIN] = unread
        warnings.append(f"{category.name}: {counted(unread, 'image')} {NOT_READ_AGAIN}: {listed(unread)}")
    return Localisation(metrics.result(threshold), tuple(warnings), odd)


def heat_of(row: Float32, image: UInt8, embedder: Embedder) -> Float32:
    """The heat of one table row, (H, W), as the daemon would lay it over the image."""
    return heat_on_image(_heat(row, embedder), image.shape[:2], embedder.preprocessor.placement(image.shape[:2]))


def pixel_threshold_of(table: DistanceTable, embedder: Embedder) -> float | None:
    """From good images alone, each against a bank of others, as in a bank's manifest; None where there are too few."""
    if not len(table.calibration):
        return None
    return pixel_threshold(np.asarray([hot_area_heat(_heat(row, embedder)) for row in table.calibration], np.float32))


def _add(metrics: PixelMetrics, sample: Sample, row: Float32, embedder: Embedder, masks: MaskOddities) -> None:
    image = sample.image()
    mask = sample.mask((image.shape[0], image.shape[1]))
    if mask is not None:
        masks.add(sample.name, mask)
        metrics.add(heat_of(row, image, embedder), mask.defect)


def _heat(row: Float32, embedder: Embedder) -> Float32:
    card = embedder.backbone.card
    return heatmap(distances_of(row, card.grid_hw), card.input_hw)


def _mask_digest(sample: Sample) -> str:
    if sample.mask_path is None:
        return content_digest(sample)
    try:
        return digest_of([content_digest(sample), hashlib.sha256(sample.mask_path.read_bytes()).hexdigest()])
    except OSError as error:
        return str(error)
