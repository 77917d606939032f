"""How often are unseen good parts called anomalous? Two ways to calibrate, on the same images.

    python benchmarks/calibration.py LEARNED_FOLDER UNSEEN_FOLDER
    python benchmarks/calibration.py LEARNED_FOLDER UNSEEN_FOLDER --few 10,20,31 --anomalous ANOMALOUS_FOLDER

*cross-fitted*: what build-bank does. *own patches left out*: each image scored against the finished coreset less its
own patches; cheaper and simpler. For each requested false-alarm rate the rate realised on the unseen good parts.

With ``--few``, banks of so many images, drawn again and again from both folders: the rate that each way to a threshold
realises on the others, and what it finds of anomalous ones. *highest*: the highest score. *fitted*: what build-bank
does.
*augmented*: the rank among the scores of each image and four views of it, darker, brighter, turned and moved a little.
*patches*: the rank among images put together of patches, each from the same place of a good image drawn for it.
"""

import argparse
from collections.abc import Sequence
from itertools import islice

import cv2
import numpy as np
from scipy.stats import binom

from bank_tools.bank.calibrate import Coreset, choose_coreset, cross_scores
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.tail import tail_threshold
from edge_uad.cli.console import TerminalProgress
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.masking import default_kernel
from edge_uad.inference.scoring import calibration_images_needed, conformal_threshold, image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.interfaces import Backbone
from edge_uad.records import Float32, Frame, Geometry, UInt8
from edge_uad.runtime.assemble import make_embedder
from edge_uad.runtime.backbones import load_backbone
from edge_uad.sources import recorded_source
from edge_uad.sources.recorded import frames_of
from export.default import provide_default_model

RATES = (0.01, 0.05, 0.1, 0.2)
N_PUT_TOGETHER = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learned")
    parser.add_argument("unseen")
    parser.add_argument("--every", type=int, default=1, help="learn every n-th image only")
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--bpm-threshold", type=float, default=0.1)
    parser.add_argument("--top-ratio", type=float, default=None, help="default: the model's")
    parser.add_argument("--few", help="numbers of images by commas, such as 10,20,31")
    parser.add_argument("--draws", type=int, default=20, help="banks of each number")
    parser.add_argument("--anomalous", help="folder of defects, with --few")
    options = parser.parse_args()

    backbone = load_backbone(provide_default_model())
    top_ratio = backbone.card.top_ratio if options.top_ratio is None else options.top_ratio
    learned = embedded_in(backbone, options.learned, options.bpm_threshold, every=options.every)
    unseen = embedded_in(backbone, options.unseen, options.bpm_threshold)
    if options.few:
        kept = [*learned, *unseen]
        views = [*views_in(backbone, options.learned, options), *views_in(backbone, options.unseen, options)]
        anomalous = list(embedded_in(backbone, options.anomalous, options.bpm_threshold)) if options.anomalous else []
        for n in map(int, options.few.split(",")):
            measure_few(kept, views, anomalous, n, options=options, top_ratio=top_ratio)
        return
    coreset = choose_coreset(learned, ratio=options.coreset, seed=0)
    search = PatchSearch(coreset.patches)
    new = np.asarray([score(one, search, top_ratio) for one in unseen])
    ways = {
        "cross-fitted": cross_scores(learned, coreset_ratio=options.coreset, seed=0, top_ratio=top_ratio, neighbours=1),
        "own patches left out": own_patches_left_out(learned, coreset, top_ratio),
    }
    print(f"{len(learned)} learned, {len(unseen)} unseen good images, median score of the unseen {np.median(new):.4f}")
    print(f"{'calibration':<22}{'median':>8}" + "".join(f"{f'rate {rate:g}':>12}" for rate in RATES))
    for name, scores in ways.items():
        realised = [np.mean(new > conformal_threshold(np.sort(scores), rate)) for rate in RATES]
        print(f"{name:<22}{np.median(scores):8.4f}" + "".join(f"{rate:12.3f}" for rate in realised))


def measure_few(
    good: Sequence[ForegroundEmbedding],
    views: Sequence[Sequence[ForegroundEmbedding]],
    anomalous: Sequence[ForegroundEmbedding],
    n: int,
    *,
    options: argparse.Namespace,
    top_ratio: float,
) -> None:
    """Print what the thresholds of banks of ``n`` images realise on the other good ones."""
    rng = np.random.default_rng(0)
    found: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for draw in range(options.draws):
        order = rng.permutation(len(good)).tolist()
        chosen = order[:n]
        store = stored([good[index] for index in chosen])
        search = PatchSearch(choose_coreset(store, ratio=options.coreset, seed=draw).patches)
        others = np.asarray([score(good[index], search, top_ratio) for index in order[n:]])
        defects = np.asarray([score(one, search, top_ratio) for one in anomalous])
        scores, squared = left_out(store, [views[index] for index in chosen], options.coreset, draw, top_ratio)
        for rate in (rate for rate in RATES if calibration_images_needed(rate) > n):
            for way, threshold in thresholds_of(scores, squared, rate, seed=draw, top_ratio=top_ratio).items():
                recall = float(np.mean(defects > threshold)) if len(defects) else float("nan")
                found.setdefault((rate, way), []).append((float(np.mean(others > threshold)), recall))
    for (rate, way), pairs in found.items():
        realised, recall = np.mean(pairs, axis=0)
        allowed = binom.ppf(0.975, len(good), rate) / len(good)
        print(
            f"{n:4} of {len(good)} good  asked {rate:g}  {way:<10} realised {realised:.3f} "
            f"(interval up to {allowed:.3f})  recall {recall:.3f}",
            flush=True,
        )


def left_out(
    images: EmbeddingStore, views: Sequence[Sequence[ForegroundEmbedding]], ratio: float, seed: int, top_ratio: float
) -> tuple[Float32, Float32]:
    """Each image against a bank of the others: scores (n, 1 + views) of it and its views, and its distances (n, N)."""
    scores, squared = [], []
    for image in range(len(images)):
        others = images.only([other for other in range(len(images)) if other != image])
        search = PatchSearch(choose_coreset(others, ratio=ratio, seed=seed).patches)
        one = images[image]
        squared.append(search.distances(one.embedding, one.mask, neighbours=1).squared)
        scores.append([score(view, search, top_ratio) for view in (one, *views[image])])
    return np.asarray(scores, np.float32), np.asarray(squared, np.float32)


def thresholds_of(scores: Float32, squared: Float32, rate: float, *, seed: int, top_ratio: float) -> dict[str, float]:
    n, n_patches = squared.shape
    drawn = np.random.default_rng(seed).integers(0, n, (N_PUT_TOGETHER, n_patches))
    hottest = np.sort(squared[drawn, np.arange(n_patches)], axis=1)[:, -max(1, round(top_ratio * n_patches)) :]
    return {
        "highest": float(scores[:, 0].max()),
        "fitted": tail_threshold(np.sort(scores[:, 0]), rate, seed=seed),
        "augmented": conformal_threshold(np.sort(scores, axis=None), rate),
        "patches": float(np.quantile(hottest.mean(axis=1), 1 - rate)),
    }


def views_in(backbone: Backbone, folder: str, options: argparse.Namespace) -> list[list[ForegroundEmbedding]]:
    """Of each image four that a good part could have given, too."""
    embedder = embedder_of(backbone, options.bpm_threshold)
    source, _ = recorded_source(folder)
    step = options.every if folder == options.learned else 1
    return [
        [embedder.embed(view) for view in views_of(frame.image)]
        for frame in islice(frames_of(source), 0, None, step)
        if isinstance(frame, Frame)
    ]


def views_of(image: UInt8) -> list[UInt8]:
    height, width = image.shape[:2]
    turned = cv2.getRotationMatrix2D((width / 2, height / 2), 2.0, 1.0)
    moved = np.asarray([[1, 0, 0.02 * width], [0, 1, 0.02 * height]])
    warped = [
        cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT) for matrix in (turned, moved)
    ]
    return [np.clip(image * light, 0, 255).astype(np.uint8) for light in (0.92, 1.08)] + [
        np.asarray(one, np.uint8) for one in warped
    ]


def embedder_of(backbone: Backbone, bpm_threshold: float) -> Embedder:
    kernel = default_kernel(backbone.card.grid_hw)
    return make_embedder(backbone, geometry=Geometry.STRETCH, roi=None, bpm_kernel=kernel, bpm_threshold=bpm_threshold)


def embedded_in(backbone: Backbone, folder: str, bpm_threshold: float, *, every: int = 1) -> EmbeddingStore:
    embedder = embedder_of(backbone, bpm_threshold)
    source, total = recorded_source(folder)
    chosen = None if total is None else -(-total // every)
    return embed_all(islice(frames_of(source), 0, None, every), embedder, chosen, TerminalProgress()).embeddings


def stored(images: Sequence[ForegroundEmbedding]) -> EmbeddingStore:
    store = EmbeddingStore()
    for image in images:
        store.append(image)
    return store


def score(one: ForegroundEmbedding, search: PatchSearch, top_ratio: float) -> float:
    return image_score(search.distances(one.embedding, one.mask, neighbours=1), top_ratio=top_ratio)


def own_patches_left_out(learned: EmbeddingStore, coreset: Coreset, top_ratio: float) -> Float32:
    return np.asarray(
        [
            score(one, PatchSearch(coreset.patches[coreset.patch_image != image]), top_ratio)
            for image, one in enumerate(learned)
        ],
        np.float32,
    )


if __name__ == "__main__":
    main()
