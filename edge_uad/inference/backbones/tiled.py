"""One picture as several overlapping tiles: a backbone that sees each at its full input size, and one patch grid."""

from dataclasses import replace

import numpy as np

from edge_uad.inference.backbones.card import check_pixels
from edge_uad.interfaces import Backbone
from edge_uad.records import Embedding, Float32, Int, ModelCard, Tiling


def tiled(backbone: Backbone, tiling: Tiling | None) -> Backbone:
    """The backbone, seeing tiles of its pictures; itself where there is no tiling.

    One that sees tiles already is tiled anew, not twice: what is tiled is always the model.
    """
    model = backbone.model if isinstance(backbone, TiledBackbone) else backbone
    return model if tiling is None else TiledBackbone(model, tiling)


class TiledBackbone:
    """Cuts each picture into tiles, embeds them in one batch, and lays their patches side by side. Implements Backbone.

    Where tiles overlap, a patch is that of the tile in which it lies farther from the edge: near an edge a tile's patch
    lacks the surroundings that the backbone attends to, and the heat has no seam.

    Args:
        backbone: sees one tile at a time.
        tiling: how many tiles, and how far they overlap; by less than a tile.
    """

    def __init__(self, backbone: Backbone, tiling: Tiling) -> None:
        card = backbone.card
        self.model = backbone
        """What sees one tile at a time."""
        self._card = replace(card, grid_hw=tiling.grid_hw(card.grid_hw), input_hw=tiling.input_hw(card))
        self._corners_px = [
            (row * card.patch_px, column * card.patch_px)
            for row in _starts(tiling.tiles_hw[0], card.grid_hw[0], tiling.overlap_hw[0])
            for column in _starts(tiling.tiles_hw[1], card.grid_hw[1], tiling.overlap_hw[1])
        ]
        self._source = _sources(tiling, card.grid_hw)

    @property
    def card(self) -> ModelCard:
        """The model's, but with the input and the grid of the whole picture."""
        return self._card

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed whole pictures. Each result depends on its own picture alone.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W of the card.
        """
        check_pixels(pixels, self._card)
        height, width = self.model.card.input_hw
        tiles = [image[:, y : y + height, x : x + width] for image in pixels for y, x in self._corners_px]
        found = self.model.embed(np.stack(tiles)) if tiles else []
        n = len(self._corners_px)
        return [self._joined(found[first : first + n]) for first in range(0, len(found), n)]

    def _joined(self, tiles: list[Embedding]) -> Embedding:
        tokens = np.concatenate([tile.tokens for tile in tiles])[self._source]
        attention = np.concatenate([tile.attention for tile in tiles])[self._source]
        return Embedding(tokens=tokens, attention=attention, grid_hw=self._card.grid_hw)


def _starts(n_tiles: int, side: int, overlap: int) -> range:
    """The first patch of each tile along one axis."""
    return range(0, n_tiles * (side - overlap), side - overlap)


def _sources(tiling: Tiling, tile_hw: tuple[int, int]) -> Int:
    """int64 (N,): for each patch of the whole grid its place among the patches of all tiles, tile after tile."""
    (rows, place_rows), (columns, place_columns) = (
        _nearest_tiles(n, side, overlap)
        for n, side, overlap in zip(tiling.tiles_hw, tile_hw, tiling.overlap_hw, strict=True)
    )
    tile = rows[:, None] * tiling.tiles_hw[1] + columns[None, :]
    place = place_rows[:, None] * tile_hw[1] + place_columns[None, :]
    return np.asarray(tile * (tile_hw[0] * tile_hw[1]) + place, np.int64).ravel()


def _nearest_tiles(n_tiles: int, side: int, overlap: int) -> tuple[Int, Int]:
    """For each patch along one axis the tile in which it lies farthest from an edge, and its place there."""
    starts = np.array(_starts(n_tiles, side, overlap))
    places = np.arange(starts[-1] + side)[:, None] - starts[None, :]
    from_edge = np.minimum(places, side - 1 - places)
    chosen = from_edge.argmax(axis=1)
    return chosen, np.take_along_axis(places, chosen[:, None], axis=1)[:, 0]
