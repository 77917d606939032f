"""Drawn parts: a bright disc on grey with a camera's noise; good ones and scratched ones."""

from pathlib import Path

import numpy as np
from PIL import Image

from edge_uad.records import UInt8

SIDE_PX = 128


def draw_part(rng: np.random.Generator, *, scratched: bool = False, side_px: int = SIDE_PX) -> UInt8:
    """uint8 (side, side, 3), RGB."""
    y, x = np.mgrid[:side_px, :side_px] / side_px
    centre_x, centre_y = 0.5 + rng.normal(0, 0.01, 2)
    disc = np.hypot(x - centre_x, y - centre_y) < 0.35
    picture = np.where(disc[:, :, None], (205, 190, 160), (60, 62, 66)).astype(np.float64)
    if scratched:
        scratch = (np.abs(x - y) < 0.04) & disc & (np.abs(x - 0.5) < 0.2)
        picture[scratch] = (20, 20, 120)
    return np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)


def write_parts(folder: Path, n: int, *, seed: int, scratched: bool = False) -> Path:
    """Write ``n`` parts as PNG files 0.png, 1.png, …; gives the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(n):
        Image.fromarray(draw_part(rng, scratched=scratched)).save(folder / f"{index}.png")
    return folder
