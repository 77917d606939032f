"""Do registered pictures help, or a search that looks only near a patch's own place?

    python -m benchmarks.registration ROOT [ROOT ...] [--simulate ,shift]

Each root is laid out as MVTec AD; the images drawn from it and the model are those of ``benchmarks.rotations``, every
patch of the good images is kept, and none is masked. *all*: the nearest patch of any place. *near r*: only patches
that lie at most r rows and columns away. *registered* (reg.): every picture is first moved and turned onto the mean of
the good ones (ECC of OpenCV, twice, the mean anew in between); the border is drawn out. *not* says how many pictures
could not be registered and stay as they are, *px* how far the middle one is moved. ``shift`` simulates parts that
shift: every picture is moved by up to a tenth of its sides, by an amount of its own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bank_tools.bank.recipe import recipe_for
from bank_tools.datasets import read_dataset
from bank_tools.metrics.image import image_auroc, recall_at_rate
from benchmarks.rotations import INPUT_PX, RATE, SEED, TOP_RATIO, Drawn, backbone_at_224, draw
from edge_uad.inference.inspector import Embedder
from edge_uad.inference.scoring import image_score
from edge_uad.inference.search import split_levels
from edge_uad.records import Bool, Float32, PatchDistances, UInt8
from edge_uad.runtime.assemble import make_embedder

NEAR = (None, 4, 2, 1)
"""Rows and columns; None for any place."""
SHIFT_RATIO = 0.1
ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--simulate", default="", help="shift, or ',shift' for both")
    parser.add_argument("--good", type=int, default=30, help="images to learn")
    parser.add_argument("--test", type=int, default=30, help="images of either label to score")
    options = parser.parse_args()
    backbone = backbone_at_224()
    recipe = recipe_for(backbone.card)
    embedder = make_embedder(
        backbone, geometry=recipe.geometry, roi=None, bpm_kernel=recipe.bpm_kernel, bpm_threshold=0
    )
    titles = ["all" if near is None else f"near {near}" for near in NEAR]
    columns = "".join(f"{title:>12}" for title in [*titles, *(f"reg. {title}" for title in titles)])
    print(f"AUROC/recall at {RATE:.0%}\n{'set':<13}{'simulated':>10}{columns}{'not':>5}{'px':>6}")
    for root in options.roots:
        for category in read_dataset(root, layout="auto", categories=None).categories:
            for simulated in options.simulate.split(","):
                drawn = draw(category, n_good=options.good, n_test=options.test)
                print_row(drawn, simulated, embedder, levels=recipe.levels)


def print_row(drawn: Drawn, simulated: str, embedder: Embedder, *, levels: int) -> None:
    """One set, as taken and registered."""
    pictures = [small(sample.image()) for sample in [*drawn.good, *drawn.test]]
    if simulated:
        shifts = np.random.default_rng(SEED).uniform(-SHIFT_RATIO, SHIFT_RATIO, (len(pictures), 2)) * INPUT_PX
        pictures = [
            moved(picture, np.asarray([[1, 0, x], [0, 1, y]], np.float32))
            for picture, (x, y) in zip(pictures, shifts.tolist(), strict=True)
        ]
    n_good = len(drawn.good)
    moves, n_failed = moves_of(pictures, n_good)
    registered = [moved(picture, move) for picture, move in zip(pictures, moves, strict=True)]
    anomalous = [sample.anomalous for sample in drawn.test]
    cells = [
        cell
        for some in (pictures, registered)
        for cell in cells_of(np.stack([tokens_of(one, embedder) for one in some]), n_good, anomalous, levels=levels)
    ]
    centre = np.asarray([INPUT_PX / 2, INPUT_PX / 2, 1], np.float32)
    far_px = float(np.median([np.hypot(*(move @ centre - centre[:2])) for move in moves]))
    print(f"{drawn.name:<13}{simulated:>10}" + "".join(f"{cell:>12}" for cell in cells), end="")
    print(f"{n_failed:5d}{far_px:6.1f}", flush=True)


def small(image: UInt8) -> UInt8:
    """The picture at the model's input size."""
    return np.asarray(cv2.resize(image, (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_AREA), np.uint8)


def moved(picture: UInt8, move: Float32) -> UInt8:
    """The picture moved by (2, 3), its border drawn out."""
    height, width = picture.shape[:2]
    return np.asarray(cv2.warpAffine(picture, move, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def moves_of(pictures: Sequence[UInt8], n_good: int) -> tuple[list[Float32], int]:
    """Of each picture the move (2, 3) onto the mean of the good ones, and how many have none and stay."""
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in pictures]
    moves = [np.eye(2, 3, dtype=np.float32) for _ in grey]
    failed = 0
    for _ in range(2):
        lying_alike = [moved(one, move) for one, move in zip(grey[:n_good], moves[:n_good], strict=True)]
        mean = np.asarray(np.mean(lying_alike, axis=0), np.float32)
        found = [move_onto(mean, one) for one in grey]
        failed = sum(move is None for move in found)
        moves = [np.eye(2, 3, dtype=np.float32) if move is None else move for move in found]
    return moves, failed


def move_onto(mean: Float32, grey: UInt8) -> Float32 | None:
    """The move (2, 3) of a grey picture onto the mean; None where there is none to be found."""
    try:
        _, back = cv2.findTransformECC(
            mean, grey.astype(np.float32), np.eye(2, 3, dtype=np.float32), cv2.MOTION_EUCLIDEAN, ITERATIONS
        )
    except cv2.error:
        return None
    return np.asarray(cv2.invertAffineTransform(back), np.float32)


def tokens_of(picture: UInt8, embedder: Embedder) -> Float32:
    """float32 (N, D)."""
    return embedder.embed(picture).embedding.tokens


def cells_of(tokens: Float32, n_good: int, anomalous: list[bool], *, levels: int) -> list[str]:
    """For each neighbourhood AUROC and recall.

    Args:
        tokens: (n, N, D), of the good pictures first.
        n_good: how many of them are learned.
        anomalous: of the others.
        levels: of the tokens.
    """
    side = round(tokens.shape[1] ** 0.5)
    places = np.stack(np.divmod(np.arange(side * side), side), axis=1)
    apart = np.abs(places[:, None] - places[None]).max(axis=2)
    bank = tokens[:n_good].reshape(-1, tokens.shape[2])
    allowed = [None if near is None else np.tile(apart <= near, n_good) for near in NEAR]
    scores: list[list[float]] = [[] for _ in NEAR]
    for one in tokens[n_good:]:
        for found, squared in zip(scores, nearest_of(one, bank, allowed, levels=levels), strict=True):
            distances = PatchDistances(squared=squared, nearest=np.full(len(squared), -1), grid_hw=(side, side))
            found.append(image_score(distances, top_ratio=TOP_RATIO))
    return [
        f"{image_auroc(anomalous, found) or 0:.3f}/{recall_at_rate(anomalous, found, RATE).recall or 0:.2f}"
        for found in scores
    ]


def nearest_of(tokens: Float32, bank: Float32, allowed: Sequence[Bool | None], *, levels: int) -> list[Float32]:
    """The squared distances (N,) to the nearest of those bank patches that are allowed, the mean over the levels."""
    cosines = [
        part @ others.T for part, others in zip(split_levels(tokens, levels), split_levels(bank, levels), strict=True)
    ]
    return [
        np.asarray(
            np.mean(
                [2 - 2 * (one if may is None else np.where(may, one, -1)).max(axis=1).clip(max=1) for one in cosines],
                axis=0,
            ),
            np.float32,
        )
        for may in allowed
    ]


if __name__ == "__main__":
    main()
