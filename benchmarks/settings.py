"""What each setting of bank, search and score is worth beside the default, on several sets, from few searches.

    python -m benchmarks.settings ROOT [ROOT ...] --good 254 --out FOLDER
    python -m benchmarks.gains FOLDER/results.json

A league of as many candidates would search the test once for each. Here one product of an image's patches with the bank
serves all candidates that differ in what is read off it: one search of both levels together, more neighbours, a smaller
and a larger coreset (the greedy coreset of a smaller size is the beginning of that of a larger one), other top ratios.
The other mask has a bank of its own. The scores of the default are those of ``edge-uad evaluate`` on the same images.

Writes every score to ``results.json``, as a league does, and prints the times of one picture's search by
``PatchSearch`` for the first set, the candidates in turns.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from bank_tools.bank.build import settle_mask
from bank_tools.bank.coreset import greedy_coreset
from bank_tools.bank.embeddings import EmbeddingStore, ForegroundPatches
from bank_tools.bank.recipe import PAPER_BPM_THRESHOLD
from bank_tools.datasets import Category, Sample
from bank_tools.evaluation.detection import EvaluationContext, draw_samples
from bank_tools.evaluation.distance_table import content_digest, distances_of
from bank_tools.evaluation.step_cache import digest_of, write_result
from benchmarks.real_sets import categories_of, default_context
from edge_uad.errors import FrameError
from edge_uad.inference.scoring import image_score
from edge_uad.inference.search import PatchSearch, split_levels
from edge_uad.records import Float32, Int

TOP_RATIOS = (0.005, 0.02, 0.03)
NEIGHBOURS = (3, 5)
SMALL_RATIO, LARGE_RATIO, LARGE_MOST = 0.01, 0.25, 20_000
BLOCK_ROWS, GROUP = 2048, 64
N_TIMED = 15
DEFAULT, JOINT, SMALL, LARGE = "default", "joint search", f"coreset {SMALL_RATIO:g}", "coreset 0.25, at most 20000"
MASK_ON, MASK_OFF = "mask on every set", "mask on no set"

Scores = dict[str, list[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Banks:
    """The patches of three coresets of the same images, each the beginning of the next."""

    patches: Float32
    """(M, D), the small coreset first, then what the default's has more, then what the large one has more."""
    n_small: int
    n_default: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished steps")
    parser.add_argument("--good", type=int, help="learn from so many good images of each set; all where not given")
    parser.add_argument("--no-large", action="store_true", help="leave out the largest coreset, half of the time")
    parser.add_argument("--cache-gib", type=float, default=20.0, help="of embeddings")
    options = parser.parse_args()

    context = default_context(options.out, calibrated=False, cache_gib=options.cache_gib)
    rows: list[dict[str, object]] = []
    categories = list(categories_of(options.roots))
    for category in categories:
        scores = measure(category, context, options)
        names, anomalous = zip(*((sample.name, sample.anomalous) for sample in category.test), strict=True)
        rows += [
            {
                "set": category.name,
                "candidate": candidate,
                "scores": {"names": names, "anomalous": anomalous, "test": its, "good": []},
            }
            for candidate, its in scores.items()
        ]
    write_result(options.out / "results.json", (json.dumps({"results": rows}, indent=1) + "\n").encode())
    print_times(categories[0], context, options.good)


def measure(category: Category, context: EvaluationContext, options: argparse.Namespace) -> Scores:
    """All candidates' scores on one set, or what an earlier run found."""
    good = draw_samples(category.good, options.good, seed=context.variant.recipe.seed)
    samples = [content_digest(one) for one in (*good, *category.test)]
    facts = ["settings 1", context.sample_embedder.identity, samples, not options.no_large, repr(context.variant)]
    key = digest_of(facts)
    kept = context.steps.get(key)
    if kept is None:
        scores, masked = scores_of_candidates(good, category.test, context, large=not options.no_large)
        text = json.dumps({"scores": scores, "masked": masked})
        kept = {"json": np.frombuffer(text.encode(), np.uint8)}
        context.steps.put(key, kept)
    found: Scores = json.loads(kept["json"].tobytes())["scores"]
    return found


def scores_of_candidates(
    good: Sequence[Sample], test: Sequence[Sample], context: EvaluationContext, *, large: bool
) -> tuple[Scores, bool]:
    """Every candidate's score of every test image, and whether the default masks."""
    embedder, recipe = context.sample_embedder, context.variant.recipe
    images = embedder.embed_all(good, context.progress, "embedding").embeddings
    settled = settle_mask(images, recipe, context.progress, levels=embedder.embedder.backbone.card.levels)
    masked = bool(settled.recipe.bpm_threshold)
    other = 0.0 if masked else PAPER_BPM_THRESHOLD
    others = images.masked(kernel=recipe.bpm_kernel, threshold=other)
    scores = _scores(test, settled.embeddings, context, threshold=settled.recipe.bpm_threshold or 0, large=large)
    of_other = _scores(test, others, context, threshold=other, large=False, alone=True)[DEFAULT]
    scores[MASK_ON], scores[MASK_OFF] = (scores[DEFAULT], of_other) if masked else (of_other, scores[DEFAULT])
    return scores, masked


def _scores(
    test: Sequence[Sample],
    images: EmbeddingStore,
    context: EvaluationContext,
    *,
    threshold: float,
    large: bool,
    alone: bool = False,
) -> Scores:
    """Of one mask: the default's scores alone, or those of all candidates that share its mask."""
    recipe, card = context.variant.recipe, context.sample_embedder.embedder.backbone.card
    masking = context.sample_embedder.masking(kernel=recipe.bpm_kernel, threshold=threshold)
    banks = banks_of(images, context, large=large, alone=alone)
    levels = split_levels(banks.patches, card.levels)
    found: list[dict[str, float] | None] = []
    with context.progress.step("scoring", len(test), "images") as done:
        for views in masking.views_of(test):
            done(1)
            if isinstance(views, FrameError):
                found.append(None)
                continue
            [image] = views
            foreground = image.mask.foreground
            queries = split_levels(image.embedding.tokens[foreground], card.levels)
            scores = {}
            for name, squared, ratio in candidates_from(queries, levels, banks, recipe.top_ratio, alone=alone):
                row = np.zeros(len(foreground), np.float32)
                row[foreground] = squared
                scores[name] = image_score(distances_of(row, card.grid_hw), top_ratio=ratio)
            found.append(scores)
    names = next((one for one in found if one is not None), {})
    return {name: [None if one is None else one[name] for one in found] for name in names}


def banks_of(images: EmbeddingStore, context: EvaluationContext, *, large: bool, alone: bool) -> Banks:
    """The coresets, made by the bank's own sampler.

    Raises:
        ValueError: a smaller coreset is not part of a larger one.
    """
    recipe, patches = context.variant.recipe, ForegroundPatches(images)

    def rows(ratio: float, most: int | None) -> Int:
        return greedy_coreset(patches, ratio=ratio, seed=recipe.seed, most=most, scratch=images.folder)

    chosen = rows(recipe.coreset_ratio, recipe.max_patches)
    small = chosen[:0] if alone else rows(SMALL_RATIO, recipe.max_patches)
    more = rows(LARGE_RATIO, LARGE_MOST) if large else chosen
    if len(np.setdiff1d(small, chosen)) or len(np.setdiff1d(chosen, more)):
        raise ValueError("a smaller coreset is not part of a larger one: compare them by edge-uad ablate")
    order = [small, np.setdiff1d(chosen, small), np.setdiff1d(more, chosen)]
    return Banks(patches=np.concatenate([patches[some] for some in order]), n_small=len(small), n_default=len(chosen))


def candidates_from(
    queries: list[Float32], levels: list[Float32], banks: Banks, top_ratio: float, *, alone: bool
) -> list[tuple[str, Float32, float]]:
    """Name, squared distances (n,) of the queries, and top ratio of each candidate.

    Args:
        queries: for each level float32 (n, d), unit norm.
        levels: for each level float32 (M, d), the banks' patches.
        banks: of the patches' order.
        top_ratio: the default's.
        alone: the default alone.
    """
    k = 1 if alone else max(NEIGHBOURS)
    n = len(queries[0])
    best = [np.full((n, k), -1, np.float32) for _ in levels]  # the highest cosines, those of the default's bank
    small, large = ([np.full(n, -1, np.float32) for _ in levels] for _ in range(2))
    joint = np.full(n, -1, np.float32)
    edges = [0, banks.n_small, banks.n_default, len(levels[0])]
    for part, (first, last) in enumerate(pairwise(edges)):
        for start in range(first, last, BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, last))
            cosines = [query @ level[rows].T for query, level in zip(queries, levels, strict=True)]
            for level, one in enumerate(cosines):
                if part == 2:
                    np.maximum(large[level], one.max(axis=1), out=large[level])
                    continue
                if part == 0:
                    np.maximum(small[level], one.max(axis=1), out=small[level])
                best[level] = highest(np.concatenate([best[level], highest(one, k)], axis=1), k)
            if part < 2 and not alone:
                np.maximum(joint, np.mean(cosines, axis=0, dtype=np.float32).max(axis=1), out=joint)
    ordered = [np.sort(one, axis=1)[:, ::-1] for one in best]
    default = squared_of([one[:, 0] for one in ordered])
    found = [(DEFAULT, default, top_ratio)]
    if alone:
        return found
    found += [(f"top ratio {ratio:g}", default, ratio) for ratio in TOP_RATIOS]
    found += [(JOINT, squared_of([joint]), top_ratio), (SMALL, squared_of(small), top_ratio)]
    found += [
        (f"{some} neighbours", squared_of([one[:, :some].mean(axis=1) for one in ordered]), top_ratio)
        for some in NEIGHBOURS
    ]
    if len(levels[0]) > banks.n_default:
        both = [np.maximum(one[:, 0], more) for one, more in zip(ordered, large, strict=True)]
        found.append((LARGE, squared_of(both), top_ratio))
    return found


def highest(values: Float32, k: int) -> Float32:
    """(n, k): the k highest of each row, in any order; those of k groups of columns that hold them are looked at."""
    n, width = values.shape
    if width <= k:
        return values
    if k == 1:
        top: Float32 = values.max(axis=1, keepdims=True)
        return top
    n_groups = width // GROUP
    if n_groups <= k:
        return np.partition(values, width - k, axis=1)[:, width - k :]
    grouped = values[:, : n_groups * GROUP].reshape(n, n_groups, GROUP)
    groups = np.argpartition(grouped.max(axis=2), n_groups - k, axis=1)[:, n_groups - k :]
    inside = np.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(n, k * GROUP)
    some = np.concatenate([inside, values[:, n_groups * GROUP :]], axis=1)
    return np.partition(some, some.shape[1] - k, axis=1)[:, some.shape[1] - k :]


def squared_of(cosines: list[Float32]) -> Float32:
    """(n,): the mean squared distance over the levels."""
    found: Float32 = np.mean([np.clip(2 - 2 * one, 0, 4) for one in cosines], axis=0, dtype=np.float32)
    return found


def print_times(category: Category, context: EvaluationContext, n_good: int | None) -> None:
    """Least and median time of one picture's search, the candidates in turns."""
    recipe, embedder = context.variant.recipe, context.sample_embedder
    images = embedder.embed_all(draw_samples(category.good, n_good, seed=0), context.progress, "embedding").embeddings
    patches = ForegroundPatches(images)
    most = recipe.max_patches or len(patches)
    sizes = {DEFAULT: min(most, round(recipe.coreset_ratio * len(patches))), SMALL: round(SMALL_RATIO * len(patches))}
    sizes[LARGE] = min(LARGE_MOST, round(LARGE_RATIO * len(patches)))
    rows = np.random.default_rng(0).permutation(len(patches))[: max(sizes.values())]  # any are as fast to search
    bank = patches[np.sort(rows)]
    image = images[0]

    def search(size: int, levels: int, neighbours: int) -> Callable[[], object]:
        one = PatchSearch(bank[:size], levels=levels)
        return lambda: one.distances(image.embedding, image.mask, neighbours=neighbours)

    levels = recipe.levels
    searches = {name: search(size, levels, recipe.neighbours) for name, size in sizes.items()}
    searches[JOINT] = search(sizes[DEFAULT], 1, recipe.neighbours)
    searches |= {f"{some} neighbours": search(sizes[DEFAULT], levels, some) for some in NEIGHBOURS}
    times_ms: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(N_TIMED + 1):
        for name, run in searches.items():
            started_s = time.perf_counter()
            run()
            times_ms[name].append(1000 * (time.perf_counter() - started_s))
    width = max(map(len, searches))
    print(f"\n{'one search':<{width}}  patches  least ms  median ms")
    for name, its in times_ms.items():
        n_patches = sizes.get(name, sizes[DEFAULT])
        print(f"{name:<{width}}  {n_patches:7}{min(its[1:]):10.0f}{median(its[1:]):11.0f}")


if __name__ == "__main__":
    main()
