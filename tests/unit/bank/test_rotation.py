"""Good parts are learned in all orientations where they lie anyhow: told, or decided by themselves."""

from dataclasses import replace

import numpy as np
import pytest

from bank_tools.bank.build import build_bank
from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.recipe import Recipe, embedder_for
from bank_tools.bank.rotation import (
    QUARTER_TURNS,
    TURNED_UP_TO_RATIO,
    embed_views,
    n_views,
    sentence_of,
    settle_rotations,
    turned_ratio,
)
from edge_uad.errors import UsageError
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.progress import SilentProgress
from edge_uad.records import Embedding, Float32, Frame, PatchMask, Rotations, Tiling, UInt8
from tests.banks import stored, unit_rows
from tests.fakes import FakeBackbone, frame

N = 16
GRID = (4, 4)
DIM = 24
AUTO = Recipe(bpm_kernel=1, rotations=Rotations.AUTO)


def parts(turns: list[int], *, levels: int = 1, seed: int = 0) -> EmbeddingStore:
    """Four views of each part, which lies turned by so many quarter turns; each orientation has a look of its own."""
    rng = np.random.default_rng(seed)
    looks = [[unit_rows(rng, N, DIM) for _ in range(QUARTER_TURNS)] for _ in range(levels)]
    images = []
    for lies in turns:
        for view in range(QUARTER_TURNS):
            seen = [look[(lies + view) % QUARTER_TURNS] + 0.1 * rng.standard_normal((N, DIM)) for look in looks]
            tokens = np.concatenate([one / np.linalg.norm(one, axis=1, keepdims=True) for one in seen], axis=1)
            embedding = Embedding(
                tokens=(tokens / np.sqrt(levels)).astype(np.float32), attention=np.ones(N, np.float32), grid_hw=GRID
            )
            images.append(ForegroundEmbedding(embedding, PatchMask(foreground=np.ones(N, np.bool_), grid_hw=GRID)))
    return stored(images)


@pytest.mark.parametrize("levels", [1, 2])
def test_parts_that_lie_anyhow_are_learned_in_all_orientations(levels: int) -> None:
    images = parts([0, 1, 2, 3, 1, 0, 2, 3], levels=levels)
    settled = settle_rotations(images, replace(AUTO, levels=levels), SilentProgress())
    assert settled.turned_ratio is not None
    assert settled.turned_ratio <= TURNED_UP_TO_RATIO
    assert (settled.recipe.rotations, settled.views) == (Rotations.QUARTER, QUARTER_TURNS)
    assert settled.embeddings is images


@pytest.mark.parametrize("lies", [0, 3])
def test_parts_that_lie_alike_are_learned_as_they_were_taken(lies: int) -> None:
    images = parts([lies] * 8)
    settled = settle_rotations(images, AUTO, SilentProgress())
    assert settled.turned_ratio is not None
    assert settled.turned_ratio > 2
    assert (settled.recipe.rotations, settled.views) == (Rotations.NONE, 1)
    for image, first in zip(settled.embeddings, range(0, len(images), QUARTER_TURNS), strict=True):
        np.testing.assert_array_equal(image.embedding.tokens, images[first].embedding.tokens)


@pytest.mark.parametrize("told", [Rotations.NONE, Rotations.QUARTER])
def test_rotations_that_were_told_are_not_decided(told: Rotations) -> None:
    images = parts([0, 1, 2, 3])
    settled = settle_rotations(images, replace(AUTO, rotations=told), SilentProgress())
    assert (settled.recipe.rotations, settled.views, settled.turned_ratio) == (told, n_views(told), None)
    assert settled.embeddings is images


def test_of_one_part_nothing_can_be_known() -> None:
    settled = settle_rotations(parts([2]), AUTO, SilentProgress())
    assert (settled.turned_ratio, settled.recipe.rotations, settled.views) == (None, Rotations.NONE, 1)


def test_copies_of_one_part_lie_alike() -> None:
    one = parts([1])
    settled = settle_rotations(stored([*one, *one]), AUTO, SilentProgress())
    assert settled.recipe.rotations is Rotations.NONE


def test_the_same_parts_and_seed_decide_the_same() -> None:
    images = parts([0, 1, 2, 3, 0, 2])
    assert turned_ratio(images, AUTO) == turned_ratio(images, AUTO)


def patchwork(rng: np.random.Generator) -> UInt8:
    """A picture of coloured squares, the same in all but for noise: no orientation looks like another."""
    colours = np.random.default_rng(7).integers(30, 220, (*GRID, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return np.clip(colours + rng.normal(0, 3, colours.shape), 0, 255).astype(np.uint8)


def test_the_region_of_interest_is_turned_and_not_the_picture_around_it() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 60, 3), np.uint8)
    x, y, side = 30, 5, 24
    cut = embedder_for(FakeBackbone(), Recipe(bpm_kernel=1, bpm_threshold=0, roi=(x, y, side, side)))
    whole = embedder_for(FakeBackbone(), Recipe(bpm_kernel=1, bpm_threshold=0))
    views = embed_views(cut, cut.pixels(image), views=QUARTER_TURNS)
    for turn, view in enumerate(views):
        by_hand = np.ascontiguousarray(np.rot90(image[y : y + side, x : x + side], turn))
        np.testing.assert_allclose(view.embedding.tokens, whole.embed(by_hand).embedding.tokens, atol=1e-5)


class PlaceBackbone(FakeBackbone):
    """Embeds each patch by its mean colour and its place, as position embeddings make a transformer do."""

    def embed(self, pixels: Float32) -> list[Embedding]:
        places = 0.5 * unit_rows(np.random.default_rng(5), N, DIM)
        found = super().embed(pixels)
        tokens = [one.tokens + places for one in found]
        return [
            replace(one, tokens=rows / np.linalg.norm(rows, axis=1, keepdims=True))
            for one, rows in zip(found, tokens, strict=True)
        ]


def good_frames(n: int, *, turned: bool) -> list[Frame]:
    rng = np.random.default_rng(0)
    turns = rng.permutation(n) % QUARTER_TURNS if turned else np.zeros(n, int)
    pictures = [np.ascontiguousarray(np.rot90(patchwork(rng), turn)) for turn in turns.tolist()]
    return [replace(frame(number), image=picture) for number, picture in enumerate(pictures)]


@pytest.mark.parametrize("turned", [True, False])
def test_a_bank_says_what_was_decided_and_counts_images_not_views(turned: bool) -> None:
    embedder = embedder_for(PlaceBackbone(), AUTO)
    images = embed_all(good_frames(8, turned=turned), embedder, 8, SilentProgress(), views=QUARTER_TURNS)
    assert len(images.embeddings) == 8 * QUARTER_TURNS
    recipe = replace(AUTO, coreset_ratio=1.0, max_patches=None, false_alarm_rate=0.1)
    built = build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress())
    manifest = built.bank.manifest
    assert manifest.rotations == (Rotations.QUARTER if turned else Rotations.NONE)
    assert manifest.turned_ratio is not None
    assert (manifest.turned_ratio <= TURNED_UP_TO_RATIO) == turned
    assert (manifest.n_images, manifest.calibration_folds, len(built.bank.calibration)) == (8, 8, 8)
    views = QUARTER_TURNS if turned else 1
    assert manifest.n_patches == 8 * N * views
    assert np.bincount(built.bank.patch_image).tolist() == [N * views] * 8


def test_no_view_of_a_part_vouches_for_the_part_itself() -> None:
    """One part of its own look: with its turned views learned beside it, symmetric as it is, it would score 0."""
    odd = np.full((32, 32, 3), (250, 20, 20), np.uint8)
    frames = [*good_frames(9, turned=False), replace(frame(9), image=odd)]
    recipe = replace(AUTO, rotations=Rotations.QUARTER, coreset_ratio=1.0, false_alarm_rate=0.2)
    embedder = embedder_for(FakeBackbone(), recipe)
    images = embed_all(frames, embedder, 10, SilentProgress(), views=QUARTER_TURNS)
    built = build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress())
    assert int(built.scores.argmax()) == 9
    assert built.scores[9] > 10 * np.median(built.scores)
    without = build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress(), exclude_outliers=True)
    manifest = without.bank.manifest
    kept = 10 - len(built.outliers)
    assert built.outliers[0].name == "frame 9"
    assert (manifest.n_images, manifest.n_excluded) == (kept, 10 - kept)
    assert int(without.bank.patch_image.max()) == kept - 1
    assert without.bank.calibration.max() < built.scores[9]


def test_pictures_that_are_not_square_have_no_quarter_turns() -> None:
    tall = Tiling(tiles_hw=(2, 1), overlap_hw=(1, 1))
    with pytest.raises(UsageError, match=r"28×16 px, which the model sees, have no quarter turns"):
        embedder_for(FakeBackbone(), replace(AUTO, tiling=tall))
    embedder_for(FakeBackbone(), replace(AUTO, tiling=tall, rotations=Rotations.NONE))
    embedder_for(FakeBackbone(), replace(AUTO, tiling=Tiling(tiles_hw=(2, 2), overlap_hw=(1, 1))))


def test_the_sentence_gives_the_reason() -> None:
    assert sentence_of(Rotations.QUARTER, None) == "all four orientations learned"
    assert sentence_of(Rotations.QUARTER, 1.023).startswith(
        "all four orientations learned: unseen good parts score 1.02 times as high against turned ones"
    )
    assert sentence_of(Rotations.NONE, 3.4).startswith("none: unseen good parts score 3.40 times as high")
