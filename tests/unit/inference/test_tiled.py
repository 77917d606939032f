"""Tiles: every patch of the picture once, from the tile that sees most of its surroundings."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.bank.build import build_bank
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.recipe import embedder_for, recipe_for
from edge_uad.errors import BankError, UsageError
from edge_uad.inference.backbones.tiled import TiledBackbone, tiled
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.inspector import Inspector, inspect_together
from edge_uad.progress import SilentProgress
from edge_uad.records import Decision, Float32, Frame, Tiling
from edge_uad.runtime.assemble import bank_embedder
from tests.banks import random_bank
from tests.fakes import FakeBackbone

PATCH_PX = FakeBackbone().card.patch_px
SIDE = FakeBackbone().card.grid_hw[0]


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    sides = st.tuples(st.integers(1, 4), st.integers(1, 4))
    return Tiling(tiles_hw=draw(sides), overlap_hw=draw(st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))))


def picture(hw: tuple[int, int], seed: int = 0) -> Float32:
    return np.random.default_rng(seed).random((3, *hw), np.float32)


@given(tiling=tilings())
def test_a_patch_is_what_its_own_pixels_say(tiling: Tiling) -> None:
    """The fake backbone embeds a patch by its own pixels: whatever tile it is seen in, it must come out the same."""
    backbone = FakeBackbone()
    whole = TiledBackbone(backbone, tiling)
    card = whole.card
    assert card.grid_hw == tiling.grid_hw((SIDE, SIDE))
    assert card.input_hw == (card.grid_hw[0] * PATCH_PX, card.grid_hw[1] * PATCH_PX)
    pixels = picture(card.input_hw)
    [seen] = whole.embed(pixels[None])
    assert seen.tokens.shape == (math.prod(card.grid_hw), card.dim)
    for row in range(card.grid_hw[0]):
        for column in range(card.grid_hw[1]):
            patch = pixels[:, row * PATCH_PX : (row + 1) * PATCH_PX, column * PATCH_PX : (column + 1) * PATCH_PX]
            [alone] = backbone.embed(np.tile(patch, (1, SIDE, SIDE))[None])
            np.testing.assert_allclose(seen.tokens[row * card.grid_hw[1] + column], alone.tokens[0], atol=1e-6)


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_where_tiles_overlap_a_patch_is_the_one_farther_from_an_edge(overlap: int) -> None:
    tiling = Tiling(tiles_hw=(1, 3), overlap_hw=(0, overlap))
    seen_at = TiledBackbone(FakeBackbone(), tiling)._source % SIDE
    starts = [tile * (SIDE - overlap) for tile in range(3)]
    for column, place in enumerate(seen_at[: seen_at.size // SIDE].tolist()):
        places = [column - start for start in starts if 0 <= column - start < SIDE]
        assert min(place, SIDE - 1 - place) == max(min(one, SIDE - 1 - one) for one in places)


def test_all_tiles_of_all_pictures_are_one_batch() -> None:
    backbone = FakeBackbone()
    whole = TiledBackbone(backbone, Tiling(tiles_hw=(2, 3), overlap_hw=(1, 2)))
    both = np.stack([picture(whole.card.input_hw, seed) for seed in (1, 2)])
    together = whole.embed(both)
    assert backbone.batches == [12]
    for image, seen in zip(both, together, strict=True):
        np.testing.assert_array_equal(seen.tokens, whole.embed(image[None])[0].tokens)
    assert whole.embed(both[:0]) == []


def test_without_a_tiling_the_backbone_is_itself() -> None:
    backbone = FakeBackbone()
    assert tiled(backbone, None) is backbone


def test_a_backbone_that_is_tiled_already_is_tiled_anew_and_not_twice() -> None:
    backbone, tiling = FakeBackbone(), Tiling(tiles_hw=(2, 3), overlap_hw=(1, 2))
    once = tiled(backbone, tiling)
    assert tiled(once, None) is backbone
    pixels = picture(once.card.input_hw)[None]
    [again] = tiled(tiled(backbone, Tiling(tiles_hw=(1, 2), overlap_hw=(0, 0))), tiling).embed(pixels)
    np.testing.assert_array_equal(again.tokens, once.embed(pixels)[0].tokens)


def test_tiles_that_cannot_be_are_refused() -> None:
    card = FakeBackbone().card
    for tiles_hw, overlap_hw in (((0, 1), (0, 0)), ((2, 1), (SIDE, 0)), ((9, 9), (0, 0)), ((2, 2), (1, -1))):
        with pytest.raises(UsageError, match="cannot be"):
            recipe_for(card, tiling=Tiling(tiles_hw=tiles_hw, overlap_hw=overlap_hw))


def test_a_bank_of_tiles_that_cannot_be_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    random_bank(tiling=Tiling(tiles_hw=(0, 3), overlap_hw=(1, 1))).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="damaged manifest"):
        PatchBank.load(tmp_path / "b.safetensors")


def frame(image: np.ndarray) -> Frame:
    return Frame(station="a", frame_id=0, captured_at_ns=0, captured_mono_ns=0, image=image)


def test_a_bank_says_its_tiling_and_a_spot_is_found_where_it_is(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Built, saved, read and inspected: score, peak, heat and overlay are of the whole tall picture."""
    backbone = FakeBackbone()
    tiling = Tiling(tiles_hw=(3, 1), overlap_hw=(1, 0))
    rng = np.random.default_rng(0)
    good = [rng.integers(90, 110, (120, 48, 3), np.uint8) for _ in range(8)]
    recipe = replace(recipe_for(backbone.card, bpm_kernel=1, tiling=tiling), coreset_ratio=1.0)
    embedder = embedder_for(backbone, recipe)
    images = embed_all(map(frame, good), embedder, len(good), SilentProgress())
    build_bank(images, recipe=recipe, embedder=embedder, progress=SilentProgress()).bank.save(tmp_path / "b")
    bank = PatchBank.load(tmp_path / "b")
    assert bank.manifest.tiling == tiling
    assert bank.manifest.grid_hw == (3 * SIDE - 2, SIDE)
    inspector = Inspector(embedder=bank_embedder(backbone, bank.manifest), bank=bank)
    spoilt = good[0].copy()
    spoilt[70:84, 24:40] = (250, 0, 0)
    verdict = inspector.inspect(frame(spoilt))
    assert verdict.decision == Decision.ANOMALOUS
    assert verdict.peak is not None
    assert 20 <= verdict.peak[0] <= 44
    assert 66 <= verdict.peak[1] <= 88
    assert verdict.heatmap is not None
    assert verdict.heatmap.shape == (4 * (3 * SIDE - 2), 4 * SIDE)
    assert inspector.overlay(frame(spoilt), verdict).shape == spoilt.shape
    plain = Inspector(embedder=bank_embedder(backbone, replace(bank.manifest, tiling=None)), bank=bank)
    # frames of both kinds of bank in one batch are judged as alone
    first, second = inspect_together([(inspector, frame(spoilt)), (inspector, frame(good[1]))])
    assert (first.score, second.decision) == (verdict.score, Decision.NORMAL)
    assert plain.backbone is backbone
