"""Small datasets of drawn parts, laid out as MVTec AD."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.parts import draw_part

SIDE_PX = 64


def write_tree(root: Path, categories: dict[str, int], *, n_good: int = 6, n_test: int = 3) -> Path:
    """A category for each name and seed: good ones, scratched ones and dark ones with masks."""
    for name, seed in categories.items():
        rng = np.random.default_rng(seed)
        for index in range(n_good):
            _save(root / name / "train" / "good" / f"{index}.png", draw_part(rng, side_px=SIDE_PX))
        for index in range(n_test):
            _save(root / name / "test" / "good" / f"{index}.png", draw_part(rng, side_px=SIDE_PX))
            scratched = draw_part(rng, scratched=True, side_px=SIDE_PX)
            _save(root / name / "test" / "scratch" / f"{index}.png", scratched)
            mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
            mask[20:44, 20:44] = 255
            _save(root / name / "ground_truth" / "scratch" / f"{index}_mask.png", mask)
            dark = draw_part(rng, side_px=SIDE_PX)
            dark[mask > 0] //= 8
            _save(root / name / "test" / "dark" / f"{index}.png", dark)
            _save(root / name / "ground_truth" / "dark" / f"{index}_mask.png", mask)
    return root


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
