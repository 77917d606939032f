"""The mask is decided by the good parts: left out is only a background that would raise false alarms."""

from dataclasses import replace

import numpy as np
import pytest

from bank_tools.bank.build import settle_mask
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.mask_rule import MASKED_FROM_RATIO, decide_mask, sentence_of
from bank_tools.bank.recipe import PAPER_BPM_THRESHOLD, Recipe
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.inference.masking import foreground
from edge_uad.progress import SilentProgress
from edge_uad.records import Embedding, Float32, PatchMask
from tests.banks import stored

GRID = (6, 6)
ON_PART = np.zeros(GRID, np.bool_)
ON_PART[1:5, 1:5] = True


def parts(*, part_spread: float, background_spread: float, n: int = 12, levels: int = 1) -> EmbeddingStore:
    """Parts whose patches stray by so much from one appearance, before a background that strays by so much."""
    rng = np.random.default_rng(0)
    spread = np.where(ON_PART, part_spread, background_spread).ravel()
    looks = rng.standard_normal((36, 16), np.float32)
    images = []
    for _ in range(n):
        tokens = [unit(looks + spread[:, None] * rng.standard_normal(looks.shape)) for _ in range(levels)]
        attention = np.where(ON_PART, 1.0, 0.01).ravel().astype(np.float32)
        embedding = Embedding(
            tokens=np.concatenate(tokens, axis=1) / np.sqrt(np.float32(levels)), attention=attention, grid_hw=GRID
        )
        images.append(ForegroundEmbedding(embedding, PatchMask(foreground=np.ones(36, np.bool_), grid_hw=GRID)))
    return stored(images)


def unit(rows: np.ndarray) -> Float32:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize(("background_spread", "masked"), [(0.0, False), (0.1, False), (0.5, True), (1.0, True)])
def test_a_background_is_left_out_where_it_strays_as_much_as_the_part(
    background_spread: float, masked: bool, levels: int
) -> None:
    images = parts(part_spread=0.3, background_spread=background_spread, levels=levels)
    decision = decide_mask(images, Recipe(bpm_kernel=1), levels=levels)
    assert decision.background_ratio is not None
    assert (decision.background_ratio >= MASKED_FROM_RATIO) == masked
    assert decision.bpm_threshold == (PAPER_BPM_THRESHOLD if masked else 0)


def test_more_background_can_only_call_for_the_mask() -> None:
    ratios = [
        decide_mask(parts(part_spread=0.3, background_spread=spread), Recipe(bpm_kernel=1), levels=1).background_ratio
        for spread in (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
    ]
    assert ratios == sorted(ratios, key=lambda ratio: ratio or 0)


def test_where_everything_is_attended_to_there_is_nothing_to_leave_out() -> None:
    images = parts(part_spread=0.3, background_spread=1.0)
    even = stored(replace(one, embedding=replace(one.embedding, attention=np.ones(36, np.float32))) for one in images)
    assert decide_mask(even, Recipe(bpm_kernel=1), levels=1).background_ratio is None
    assert decide_mask(images.only([0]), Recipe(bpm_kernel=1), levels=1).bpm_threshold == 0


def test_parts_that_do_not_vary_decide_on_nothing() -> None:
    """Equal pictures: what the ratio of two rounding errors comes to is no reason for a mask."""
    copies = parts(part_spread=0.0, background_spread=0.0)
    for seed in range(20):
        tokens = copies[0].embedding.tokens[np.random.default_rng(seed).permutation(36)]
        images = stored(replace(one, embedding=replace(one.embedding, tokens=tokens)) for one in copies)
        assert decide_mask(images, Recipe(bpm_kernel=1), levels=1).bpm_threshold == 0


def test_no_view_of_an_image_is_unseen_where_another_was_learned() -> None:
    """Views of one image are near each other: with them in both halves a background that strays would look calm."""
    looks = parts(part_spread=0.3, background_spread=1.0, n=8)
    views = stored(one for one in looks for _ in range(4))
    alone, together = (decide_mask(one, Recipe(bpm_kernel=1), levels=1, views=n) for one, n in ((looks, 1), (views, 4)))
    assert together.bpm_threshold == alone.bpm_threshold == PAPER_BPM_THRESHOLD
    assert decide_mask(views.only(range(4)), Recipe(bpm_kernel=1), levels=1, views=4).background_ratio is None


def test_the_same_parts_and_seed_decide_the_same() -> None:
    images = parts(part_spread=0.3, background_spread=0.3)
    first, again = (decide_mask(images, Recipe(bpm_kernel=1, seed=4), levels=1) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("background_spread", [0.0, 1.0])
def test_the_mask_that_was_decided_on_is_in_force(background_spread: float) -> None:
    images = parts(part_spread=0.3, background_spread=background_spread)
    settled = settle_mask(images, Recipe(bpm_kernel=1), SilentProgress(), levels=1)
    tau = settled.recipe.bpm_threshold
    assert tau is not None
    for before, after in zip(images, settled.embeddings, strict=True):
        np.testing.assert_array_equal(after.embedding.tokens, before.embedding.tokens)
        expected = foreground(before.embedding.attention, GRID, kernel=1, threshold=tau)
        np.testing.assert_array_equal(after.mask.foreground, expected.foreground)
    assert settled.embeddings.n_foreground.tolist() == [int(ON_PART.sum()) if tau else 36] * len(images)


@pytest.mark.parametrize("told", [0.0, 0.3])
def test_a_mask_that_was_told_is_not_decided(told: float) -> None:
    images = parts(part_spread=0.3, background_spread=1.0)
    settled = settle_mask(images, Recipe(bpm_kernel=1, bpm_threshold=told), SilentProgress(), levels=1)
    assert settled.embeddings is images
    assert (settled.recipe.bpm_threshold, settled.background_ratio) == (told, None)


def test_the_sentence_gives_the_reason() -> None:
    assert sentence_of(0.1, 1.014).startswith("background left out: the background of unseen good parts varies 1.01")
    assert sentence_of(0.0, 0.77).startswith("none: the background of unseen good parts varies 0.77")
    assert sentence_of(0.0, None) == "none: a mask would leave out nothing"
