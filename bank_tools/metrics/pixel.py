"""How well heatmaps find the anomalous pixels, in bounded memory however many images there are.

Heat is not kept but counted in bins that are the leading bits of its float32: 1/2048 of an octave's start apart,
so a bin is at most 0.049 % of its heat wide whatever the scale is, and exact zeros (masked patches) have a bin of
their own. Counts are exact; two pixels are confused only where their heat shares a bin, and then count as ties.
Three histograms of 2^19 bins are all that is kept (12 MB).

Error against the exact value: AUROC lies within half the share of (anomalous, normal) pairs that share a bin, which
is reported with it. The other metrics are the exact metrics of the heat rounded down to its bin.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bank_tools.metrics.image import f1_of
from edge_uad.records import Bool, Float32, Int

KEPT_MANTISSA_BITS = 11
_DROPPED_BITS = 23 - KEPT_MANTISSA_BITS
N_BINS = 1 << (31 - _DROPPED_BITS)
"""Every float32 that is not negative falls into one."""
LIMIT_03, LIMIT_005 = 0.3, 0.05
"""False-positive rates up to which AUPRO integrates: MVTec AD's and MVTec AD 2's."""

Counts = NDArray[np.int64]
Curve = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelResult:
    """Metrics over all pixels of all images that were added; None where they cannot be computed."""

    auroc: float | None
    auroc_error: float | None
    """How far the exact AUROC can be from it, at most."""
    ap: float | None
    """Average precision."""
    f1_max: float | None
    """The best F1 of any threshold, chosen on the test images: a bound and not a promise."""
    f1_max_threshold: float | None
    """That threshold, in heat; a pixel is called anomalous at it or above."""
    aupro_03: float | None
    """Area under the mean per-region overlap up to a false-positive rate of 0.3, divided by 0.3."""
    aupro_005: float | None
    """The same up to 0.05, as in MVTec AD 2."""
    segf1: float | None
    """F1 at a threshold chosen on good parts alone; None where no threshold was given."""
    n_images: int
    n_regions: int
    """Connected anomalous regions, 8-connected."""


class PixelMetrics:
    """Counts pixels, image by image.

    AUPRO follows Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021, §5.1: for each threshold
    the share of each connected region that is found, averaged over the regions of all images, against the share
    of normal pixels that are called anomalous.
    """

    def __init__(self) -> None:
        self._normal: Counts = np.zeros(N_BINS, np.int64)
        self._anomalous: Counts = np.zeros(N_BINS, np.int64)
        self._overlap: Curve = np.zeros(N_BINS, np.float64)
        self._n_images = 0
        self._n_regions = 0

    def add(self, heat: Float32, mask: Bool) -> None:
        """Count one image.

        Args:
            heat: float32 (H, W), finite and not negative; higher is more anomalous.
            mask: bool (H, W), True where the image is anomalous; all False for a good image.

        Raises:
            ValueError: the two differ in size, or heat is negative, infinite or not a number.
        """
        if heat.shape != mask.shape:
            raise ValueError(f"the heat is {heat.shape[1]}×{heat.shape[0]}, the mask {mask.shape[1]}×{mask.shape[0]}")
        bins = _bins_of(heat)
        self._normal += np.bincount(bins[~mask], minlength=N_BINS)
        self._n_images += 1
        if not mask.any():
            return
        n_labels, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside, region = bins[mask], labels[mask]
        self._anomalous += np.bincount(inside, minlength=N_BINS)
        area = np.bincount(region, minlength=n_labels)
        self._overlap += np.bincount(inside, weights=1 / area[region], minlength=N_BINS)
        self._n_regions += n_labels - 1

    def result(self, threshold: float | None = None) -> PixelResult:
        """The metrics of what was added so far.

        Args:
            threshold: for SegF1, in heat: chosen on good parts alone, see ``pixel_threshold``.
        """
        n_normal, n_anomalous = int(self._normal.sum()), int(self._anomalous.sum())
        segf1 = None if threshold is None or not n_anomalous else self._f1_at(threshold)
        if not n_normal or not n_anomalous:
            return PixelResult(
                auroc=None, auroc_error=None, ap=None, f1_max=None, f1_max_threshold=None, aupro_03=None,
                aupro_005=None, segf1=segf1, n_images=self._n_images, n_regions=self._n_regions,
            )  # fmt: skip
        used = np.flatnonzero(self._normal + self._anomalous)[::-1]  # from the hottest down
        false, true = self._normal[used], self._anomalous[used]
        false_rate, recall = _rates(false), _rates(true)
        overlap = np.concatenate([[0.0], np.cumsum(self._overlap[used])]) / self._n_regions
        precision = np.cumsum(true) / (np.cumsum(true) + np.cumsum(false))
        f1 = f1_of(precision, recall[1:])
        best = int(np.argmax(f1))
        return PixelResult(
            auroc=float(np.trapezoid(recall, false_rate)),
            auroc_error=float(np.dot(false / n_normal, true / n_anomalous) / 2),
            ap=float(np.dot(np.diff(recall), precision)),
            f1_max=float(f1[best]),
            f1_max_threshold=_lower_edge(int(used[best])),
            aupro_03=area_up_to(false_rate, overlap, LIMIT_03),
            aupro_005=area_up_to(false_rate, overlap, LIMIT_005),
            segf1=segf1,
            n_images=self._n_images,
            n_regions=self._n_regions,
        )

    def _f1_at(self, threshold: float) -> float:
        at = 0 if threshold <= 0 else int(_bins_of(np.array([threshold], np.float32))[0])
        found, wrong = int(self._anomalous[at:].sum()), int(self._normal[at:].sum())
        return 2 * found / (found + wrong + int(self._anomalous.sum()))


def area_up_to(x: Curve, y: Curve, limit: float) -> float:
    """Area under a curve from x = 0 to the limit by trapezes, divided by the limit.

    Args:
        x: (n,), not falling, from 0 to 1.
        y: (n,).
        limit: above 0, at most 1.
    """
    inside = x < limit
    last = int(inside.sum())  # x[last] is at the limit or beyond
    share = (limit - x[last - 1]) / (x[last] - x[last - 1])
    at_limit = y[last - 1] + share * (y[last] - y[last - 1])
    area = np.trapezoid(np.append(y[inside], at_limit), np.append(x[inside], limit))
    return float(area / limit)


def _bins_of(heat: Float32) -> Int:
    heat = np.ascontiguousarray(heat, np.float32)
    if not bool((heat >= 0).all()) or not bool(np.isfinite(heat).all()):
        raise ValueError("heat must be finite and not negative")
    return (np.abs(heat).view(np.uint32) >> _DROPPED_BITS).astype(np.int64)


def _lower_edge(bin_index: int) -> float:
    return float(np.array([bin_index << _DROPPED_BITS], np.uint32).view(np.float32)[0])


def _rates(counts: Counts) -> Curve:
    cumulative: Curve = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    cumulative /= cumulative[-1]
    return cumulative
