"""Samples are embedded by the daemon's stages, each once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bank_tools.bank.recipe import Recipe
from bank_tools.datasets import Sample
from bank_tools.datasets.records import ImageFile
from bank_tools.evaluation.embedding import SampleEmbedder
from bank_tools.evaluation.embedding_cache import EmbeddingCache
from bank_tools.evaluation.variant import Variant, embedder_of
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder
from edge_uad.progress import SilentProgress
from edge_uad.records import Embedding, Geometry
from edge_uad.runtime.assemble import make_embedder
from tests.fakes import FakeBackbone


def sample(folder: Path, seed: int) -> Sample:
    path = folder / f"{seed}.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8)).save(path)
    return Sample(name=path.name, kind="good", anomalous=False, origin=ImageFile(path))


def make_sample_embedder(
    backbone: FakeBackbone, cache: EmbeddingCache | None, geometry: Geometry = Geometry.STRETCH
) -> SampleEmbedder:
    embedder: Embedder = make_embedder(backbone, geometry=geometry, roi=None, bpm_kernel=1, bpm_threshold=0.1)
    return SampleEmbedder(embedder, preprocessing=str(geometry), runtime="cpu", cache=cache)


def test_the_cache_gives_what_was_computed_before(tmp_path: Path) -> None:
    backbone, cache, one = FakeBackbone(), EmbeddingCache(tmp_path / "cache", max_bytes=10**6), sample(tmp_path, 1)
    first = make_sample_embedder(backbone, cache).embedding(one)
    second = make_sample_embedder(backbone, cache).embedding(one)
    assert backbone.inferences == 1
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.tokens, make_sample_embedder(backbone, None).embedding(one).tokens)


def test_other_preprocessing_another_image_and_another_rotation_are_computed_anew(tmp_path: Path) -> None:
    backbone, cache, one = FakeBackbone(), EmbeddingCache(tmp_path / "cache", max_bytes=10**6), sample(tmp_path, 1)
    make_sample_embedder(backbone, cache).embedding(one)
    make_sample_embedder(backbone, cache, Geometry.PAPER).embedding(one)
    make_sample_embedder(backbone, cache).embedding(one, quarter_turns=1)
    make_sample_embedder(backbone, cache).embedding(sample(tmp_path, 2))
    assert backbone.inferences == 4


def test_the_same_content_under_another_name_is_embedded_once(tmp_path: Path) -> None:
    backbone, cache, one = FakeBackbone(), EmbeddingCache(tmp_path / "cache", max_bytes=10**6), sample(tmp_path, 1)
    copy = tmp_path / "copy.png"
    copy.write_bytes((tmp_path / "1.png").read_bytes())
    make_sample_embedder(backbone, cache).embedding(one)
    make_sample_embedder(backbone, cache).embedding(
        Sample(name="copy", kind="good", anomalous=False, origin=ImageFile(copy))
    )
    assert backbone.inferences == 1


def test_a_rotated_image_is_the_picture_rotated(tmp_path: Path) -> None:
    sample_embedder, one = make_sample_embedder(FakeBackbone(), None), sample(tmp_path, 1)
    rotated = tmp_path / "rotated.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(one.image()))).save(rotated)
    expected = sample_embedder.embedding(Sample(name="r", kind="good", anomalous=False, origin=ImageFile(rotated)))
    found = sample_embedder.embedding(one, quarter_turns=1)
    np.testing.assert_allclose(found.tokens, expected.tokens, atol=1e-5)


def test_what_cannot_be_read_is_named_and_skipped(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    odd = Sample(name="broken", kind="good", anomalous=False, origin=ImageFile(broken))
    sample_embedder = make_sample_embedder(FakeBackbone(), None)
    embedded = sample_embedder.embed_all([sample(tmp_path, 1), odd], SilentProgress(), "embedding", views=4)
    assert len(embedded.embeddings) == 4
    assert [name for name, _ in embedded.skipped] == ["broken"]
    with pytest.raises(FrameError):
        sample_embedder.embed(odd)


def test_soft_masking_keeps_every_patch() -> None:
    """Attention 8, 0, 2: hard masking at 0.9 would keep the first alone."""
    soft = embedder_of(FakeBackbone(), Variant(recipe=Recipe(bpm_kernel=1, bpm_threshold=0.9), bpm_soft=True))
    hard = embedder_of(FakeBackbone(), Variant(recipe=Recipe(bpm_kernel=1, bpm_threshold=0.9)))
    embedding = Embedding(tokens=np.ones((3, 1), np.float32), attention=np.float32([8, 0, 2]), grid_hw=(1, 3))
    assert soft.mask(embedding).mask.foreground.tolist() == [True, True, True]
    assert hard.mask(embedding).mask.foreground.tolist() == [True, False, False]


def test_soft_masking_without_any_attention_is_refused() -> None:
    soft = embedder_of(FakeBackbone(), Variant(recipe=Recipe(bpm_kernel=1), bpm_soft=True))
    blind = Embedding(tokens=np.ones((3, 1), np.float32), attention=np.zeros(3, np.float32), grid_hw=(1, 3))
    with pytest.raises(FrameError, match="no usable attention"):
        soft.mask(blind)
