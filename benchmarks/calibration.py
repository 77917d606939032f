"""How often are unseen good parts called anomalous? Two ways to calibrate, on the same images.

    python benchmarks/calibration.py LEARNED_FOLDER UNSEEN_FOLDER

*cross-fitted*: what build-bank does. *own patches left out*: each image scored against the finished coreset less its
own patches; cheaper and simpler. For each requested false-alarm rate the rate realised on the unseen good parts.
"""

import argparse
from itertools import islice

import numpy as np

from bank_tools.bank.build import embed_all
from bank_tools.bank.calibrate import Coreset, choose_coreset, cross_scores
from bank_tools.bank.embeddings import EmbeddingStore
from edge_uad.cli.console import TerminalProgress
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.masking import default_kernel
from edge_uad.inference.scoring import conformal_threshold, image_score
from edge_uad.inference.search import PatchSearch
from edge_uad.interfaces import Backbone
from edge_uad.records import Float32, Geometry
from edge_uad.runtime.assemble import load_backbone, make_embedder
from edge_uad.sources import recorded_source
from edge_uad.sources.recorded import frames_of
from export.default import provide_default_model

RATES = (0.01, 0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("learned")
    parser.add_argument("unseen")
    parser.add_argument("--every", type=int, default=1, help="learn every n-th image only")
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--bpm-threshold", type=float, default=0.1)
    parser.add_argument("--top-ratio", type=float, default=None, help="default: the model's")
    options = parser.parse_args()

    backbone = load_backbone(provide_default_model())
    top_ratio = backbone.card.top_ratio if options.top_ratio is None else options.top_ratio
    learned = embedded_in(backbone, options.learned, options.bpm_threshold, every=options.every)
    unseen = embedded_in(backbone, options.unseen, options.bpm_threshold)
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


def embedded_in(backbone: Backbone, folder: str, bpm_threshold: float, *, every: int = 1) -> EmbeddingStore:
    kernel = default_kernel(backbone.card.grid_hw)
    embedder = make_embedder(
        backbone, geometry=Geometry.STRETCH, roi=None, bpm_kernel=kernel, bpm_threshold=bpm_threshold
    )
    source, total = recorded_source(folder)
    chosen = None if total is None else -(-total // every)
    return embed_all(islice(frames_of(source), 0, None, every), embedder, chosen, TerminalProgress()).embeddings


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
