"""Do turned views of the good parts help, and can good parts alone tell where?

    python -m benchmarks.rotations ROOT [ROOT ...] [--simulate quarter,any]

Each root is laid out as MVTec AD. From each, some good images are learned and as many good and anomalous ones scored,
by the default model exported for 224 px. *none* learns the images as they were taken, *flips* adds both mirror images
and the half turn, *quarter* the quarter turns, *eight* quarter turns and their mirror images. A simulation turns every
image, learned or scored, by an angle of its own: *quarter* by a multiple of 90 degrees, *any* by any angle, the border
drawn out. It stands for parts that lie anyhow.

*ratio* is what good parts alone say: how high unseen ones score against turned views of the others, over how high
against these as they were taken (``build-bank --rotations auto``).
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from bank_tools.bank.build import settle_mask
from bank_tools.bank.calibrate import choose_coreset
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.recipe import Recipe, embedder_for, recipe_for
from bank_tools.bank.rotation import turned_ratio
from bank_tools.datasets import Category, Sample, read_dataset
from bank_tools.datasets.records import ImageOrigin
from bank_tools.metrics.image import image_auroc, recall_at_rate
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.scoring import image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.interfaces import Backbone
from edge_uad.progress import SilentProgress
from edge_uad.records import UInt8
from edge_uad.runtime.backbones import load_backbone
from export.default import provide_default_model
from export.variants import provide_variant

INPUT_PX = 224
TOP_RATIO = 0.02
RATE = 0.05
SEED = 0
VIEWS = tuple((mirrored, angle) for mirrored in (False, True) for angle in (0.0, 90.0, 180.0, 270.0))
"""Mirrored left to right or not, then turned counter-clockwise by so many degrees."""
LEARNED = {
    "none": (0,),
    "flips": (0, 2, 4, 6),
    "quarter": (0, 1, 2, 3),
    "eight": tuple(range(8)),
}
"""The views of each good image that a bank learns."""


@dataclass(frozen=True, slots=True)
class TurnedImage:
    """An image mirrored and turned."""

    origin: ImageOrigin
    mirrored: bool
    angle: float
    """In degrees, counter-clockwise."""

    def image(self) -> UInt8:
        """uint8 (H, W, 3), RGB; of another shape only where a quarter turn makes it one."""
        return turned(self.origin.image(), self.angle, mirrored=self.mirrored)

    def digest(self) -> str:
        """SHA-256 of the origin's content and of what was done to it."""
        return hashlib.sha256(f"{self.origin.digest()} {self.mirrored} {self.angle}".encode()).hexdigest()


def turned(image: UInt8, angle: float, *, mirrored: bool = False) -> UInt8:
    """The image mirrored left to right where asked, then turned about its centre with its border drawn out.

    Args:
        image: (H, W, 3).
        angle: in degrees, counter-clockwise; multiples of 90 move pixels and change none.
        mirrored: whether it is mirrored first.
    """
    if mirrored:
        image = image[:, ::-1]
    if angle % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, int(angle // 90)))
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    return np.asarray(
        cv2.warpAffine(np.ascontiguousarray(image), turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def lying_anyhow(samples: Sequence[Sample], simulated: str, *, seed: int) -> list[Sample]:
    """The samples, each turned by an angle of its own.

    Args:
        samples: as taken.
        simulated: ``quarter`` or ``any``; empty to leave them.
        seed: of the angles.
    """
    if not simulated:
        return list(samples)
    rng = np.random.default_rng(seed)
    angles = 90.0 * rng.integers(0, 4, len(samples)) if simulated == "quarter" else rng.uniform(0, 360, len(samples))
    return [
        replace(sample, origin=TurnedImage(sample.origin, False, float(angle)), mask_path=None)
        for sample, angle in zip(samples, angles, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The images of one set that take part."""

    name: str
    good: list[Sample]
    test: list[Sample]


def draw(category: Category, *, n_good: int, n_test: int, simulated: str = "") -> Drawn:
    """So many good images to learn, and at most so many of the test's good and of its anomalous ones, by the seed."""
    rng = np.random.default_rng(SEED)

    def some(samples: Sequence[Sample], n: int) -> list[Sample]:
        return [samples[index] for index in sorted(rng.permutation(len(samples))[:n].tolist())]

    good = some(category.good, n_good)
    test = [
        sample
        for anomalous in (False, True)
        for sample in some([sample for sample in category.test if sample.anomalous is anomalous], n_test)
    ]
    turned_good = lying_anyhow(good, simulated, seed=SEED + 1)
    return Drawn(category.name, turned_good, lying_anyhow(test, simulated, seed=SEED + 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--simulate", default="", help="quarter, any, or both by a comma; none when left out")
    parser.add_argument("--good", type=int, default=30, help="images to learn")
    parser.add_argument("--test", type=int, default=30, help="images of either label to score")
    parser.add_argument("--learn", default=",".join(LEARNED), help="of these, by commas; default: all")
    options = parser.parse_args()
    ways = options.learn.split(",")
    backbone = backbone_at_224()
    columns = "".join(f"{way:>21}" for way in ways)
    print(f"AUROC/recall at {RATE:.0%}, patches learned\n{'set':<13}{'simulated':>10}{'ratio':>8}{columns}")
    for root in options.roots:
        for category in read_dataset(root, layout="auto", categories=None).categories:
            for simulated in options.simulate.split(","):
                drawn = draw(category, n_good=options.good, n_test=options.test, simulated=simulated)
                ratio, found = measure(drawn, backbone, ways)
                cells = "".join(f"{auroc:9.3f}/{recall:.2f} {n:6d}" for auroc, recall, n in found)
                print(f"{drawn.name:<13}{simulated:>10}{ratio:8.2f}{cells}", flush=True)


def backbone_at_224() -> Backbone:
    """The default model, exported for 224 px."""
    default = load_backbone(provide_default_model(), threads=1)
    return load_backbone(provide_variant(default.card, input_px=INPUT_PX, console=Console(stderr=True)), threads=1)


def measure(drawn: Drawn, backbone: Backbone, ways: Sequence[str]) -> tuple[float, list[tuple[float, float, int]]]:
    """The ratio of the good images, and for each way to learn them AUROC, recall and the bank's patches."""
    asked = recipe_for(backbone.card, top_ratio=TOP_RATIO)
    embedder = embedder_for(backbone, asked)
    every = EmbeddingStore()
    n_views = 1 + max(view for way in (*ways, "quarter") for view in LEARNED[way])
    for sample in drawn.good:
        for mirrored, angle in VIEWS[:n_views]:
            every.append(embedder.embed(turned(sample.image(), angle, mirrored=mirrored)))
    tested = [embedder.embed(sample.image()) for sample in drawn.test]
    anomalous = [sample.anomalous for sample in drawn.test]
    ratio = turned_ratio(views_of(every, LEARNED["quarter"], n_views), asked)
    found = []
    for views in map(LEARNED.__getitem__, ways):
        masked = settle_mask(
            views_of(every, views, n_views), asked, SilentProgress(), levels=backbone.card.levels, views=len(views)
        )
        scores, n_patches = scores_against(masked.embeddings, tested, masked.recipe, embedder)
        recall = recall_at_rate(anomalous, scores, RATE).recall
        found.append((image_auroc(anomalous, scores) or 0.0, recall or 0.0, n_patches))
    return ratio or 0.0, found


def views_of(every: EmbeddingStore, views: Sequence[int], n_views: int) -> EmbeddingStore:
    """These of the ``n_views`` views of each image, one after the other."""
    return every.only([first + view for first in range(0, len(every), n_views) for view in views])


def scores_against(
    good: EmbeddingStore, tested: Sequence[ForegroundEmbedding], recipe: Recipe, embedder: Embedder
) -> tuple[list[float], int]:
    """Each tested image's score against a bank of the good ones, and how many patches that has."""
    coreset = choose_coreset(good, ratio=recipe.coreset_ratio, seed=recipe.seed, most=recipe.max_patches)
    search = PatchSearch(coreset.patches, threads=1, levels=recipe.levels)
    masker = Embedder(
        backbone=embedder.backbone,
        preprocessor=embedder.preprocessor,
        bpm_kernel=recipe.bpm_kernel,
        bpm_threshold=recipe.bpm_threshold or 0,
    )
    masked = [masker.mask(one.embedding) for one in tested]
    scores = [
        image_score(search.distances(one.embedding, one.mask, neighbours=1), top_ratio=recipe.top_ratio)
        for one in masked
    ]
    return scores, len(coreset.patches)


if __name__ == "__main__":
    main()
