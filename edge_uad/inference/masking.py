"""Attention → PatchMask: Back Patch Masking (UniFormaly §3.2, ALGORITHM §3)."""

import cv2
import numpy as np

from edge_uad.errors import FrameError, UsageError
from edge_uad.records import MAX_BPM_KERNEL, Float32, PatchMask

PAPER_GRID = 28
PAPER_KERNEL = 7


def default_kernel(grid_hw: tuple[int, int]) -> int:
    """The odd kernel that covers the part of the grid that the paper's 7 covers of 28, rounded down."""
    share = min(grid_hw) * PAPER_KERNEL // PAPER_GRID
    return max(1, share - 1 + share % 2)


def check_kernel(kernel: int) -> None:
    """Raise UsageError unless the kernel is odd and positive, since an even one has no centre, and not absurd."""
    if not 1 <= kernel <= MAX_BPM_KERNEL or kernel % 2 == 0:
        raise UsageError(f"the BPM kernel is {kernel}; use an odd number up to {MAX_BPM_KERNEL}, 1 for no smoothing")


def foreground(attention: Float32, grid_hw: tuple[int, int], *, kernel: int, threshold: float) -> PatchMask:
    """The patches to which the CLS token attends.

    Attention is averaged over ``kernel`` × ``kernel`` patches (zeros beyond the grid counted in the mean), divided
    by the maximum of this image, and compared: foreground is strictly above ``threshold``.

    Args:
        attention: float32 (N,), not negative.
        grid_hw: of the patches.
        kernel: odd; 1 smooths nothing.
        threshold: 0 to below 1; 0 keeps every patch.

    Raises:
        FrameError: the attention is not finite, or zero everywhere.
    """
    if threshold == 0:
        return PatchMask(foreground=np.ones(len(attention), np.bool_), grid_hw=grid_hw)
    return PatchMask(foreground=smoothed_attention(attention, grid_hw, kernel=kernel) > threshold, grid_hw=grid_hw)


def smoothed_attention(attention: Float32, grid_hw: tuple[int, int], *, kernel: int) -> Float32:
    """The attention, average-pooled over ``kernel`` × ``kernel`` patches and divided by this image's maximum.

    Args:
        attention: float32 (N,), not negative.
        grid_hw: of the patches.
        kernel: odd; 1 smooths nothing.

    Returns:
        float32 (N,), 0..1.

    Raises:
        FrameError: the attention is not finite, or zero everywhere.
    """
    grid = np.ascontiguousarray(attention.reshape(grid_hw), np.float32)
    smoothed = cv2.blur(grid, (kernel, kernel), borderType=cv2.BORDER_CONSTANT)
    highest = float(smoothed.max())
    if not np.isfinite(highest) or highest <= 0:
        raise FrameError(f"the attention's maximum is {highest}; the backbone gave no usable attention")
    return np.asarray(smoothed / highest, np.float32).ravel()
