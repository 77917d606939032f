"""The paper geometry's resize is torch's antialiased bilinear one."""

import numpy as np
import pytest

from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Geometry

torch = pytest.importorskip("torch", reason="the [export] extra is not installed")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@pytest.mark.parametrize("image_hw", [(256, 256), (300, 700), (97, 61), (1000, 640), (60, 4000)])
def test_paper_geometry_equals_torch(image_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3), dtype=np.uint8)
    scale = 256 / min(image_hw)
    resized_hw = tuple(256 if side == min(image_hw) else int(side * scale) for side in image_hw)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(tensor, size=resized_hw, mode="bilinear", antialias=True)[0]
    top, left = (round((side - 224) / 2) for side in resized_hw)
    crop = resized[:, top : top + 224, left : left + 224] / 255
    expected = (crop - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    ours = Preprocessor(geometry=Geometry.PAPER, roi=None, input_hw=(224, 224), mean=MEAN, std=STD).pixels(image)
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-4)
