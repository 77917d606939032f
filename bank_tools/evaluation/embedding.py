"""Samples → what the model sees in them: the same stages as the daemon's, with a cache before the ViT."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime

from bank_tools.bank.build import embedder_for
from bank_tools.datasets import Sample
from bank_tools.evaluation.embedding_cache import EmbeddingCache
from bank_tools.evaluation.variant import Variant
from edge_uad import __version__
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.inference.masking import smoothed_attention
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import Embedding, Float32, UInt8
from edge_uad.runtime.in_order import in_order

QUARTER_TURNS = 4


@dataclass(frozen=True, slots=True)
class WeightedEmbedding(ForegroundEmbedding):
    """An embedding whose patches are all foreground, each with a weight: soft masking, which only ablations use."""

    weight: Float32
    """(N,), 0..1, by which the patch distances are multiplied."""


class SoftMaskingEmbedder(Embedder):
    """Keeps every patch and weights it by its smoothed attention, the value that hard masking compares (ALGORITHM §3).

    Args:
        backbone: the frozen ViT.
        preprocessor: as the recipe demands.
        bpm_kernel: odd.
    """

    def __init__(self, *, backbone: Backbone, preprocessor: Preprocessor, bpm_kernel: int) -> None:
        super().__init__(backbone=backbone, preprocessor=preprocessor, bpm_kernel=bpm_kernel, bpm_threshold=0)
        self._kernel = bpm_kernel

    def mask(self, embedding: Embedding) -> WeightedEmbedding:
        """Check one image's embedding and weight its patches.

        Raises:
            FrameError: the embedding holds NaN or infinity, or the attention is zero everywhere.
        """
        checked = super().mask(embedding)
        return WeightedEmbedding(embedding, checked.mask, smoothed_attention(embedding, kernel=self._kernel))


def embedder_of(backbone: Backbone, variant: Variant) -> Embedder:
    """The stages up to the mask, set as the variant says."""
    embedder = embedder_for(backbone, variant.recipe)
    if not variant.bpm_soft:
        return embedder
    return SoftMaskingEmbedder(
        backbone=backbone, preprocessor=embedder.preprocessor, bpm_kernel=variant.recipe.bpm_kernel
    )


@dataclass(frozen=True, slots=True)
class EmbeddedSamples:
    """What became of some samples."""

    seen: tuple[ForegroundEmbedding, ...]
    """Where images are turned, the four views of each stand side by side."""
    skipped: tuple[tuple[str, str], ...]
    """Name and reason of those that hold nothing to learn from."""


class SampleEmbedder:
    """Embeds samples, each at most once per model and preprocessing.

    Args:
        embedder: the stages up to the mask.
        preprocessing: what, beside the model's card, decides the pixels: geometry and region of interest.
        runtime: what runs the model; its last digits may depend on it.
        cache: where embeddings are kept; None to keep none.
        workers: samples at a time, where there are many; the backbone is used by so many threads.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        preprocessing: str,
        runtime: str,
        cache: EmbeddingCache | None,
        workers: int = 1,
    ) -> None:
        self.embedder = embedder
        self._cache = cache
        self._workers = workers
        self._same = [
            __version__,
            onnxruntime.__version__,
            runtime,
            preprocessing,
            embedder.backbone.card.model_id,
        ]

    @property
    def identity(self) -> list[str]:
        """All that decides an embedding beside the image."""
        return list(self._same)

    def embedding(self, sample: Sample, *, quarter_turns: int = 0) -> Embedding:
        """What the backbone gives for a sample, turned counter-clockwise by quarters.

        Raises:
            FrameError: it cannot be read or embedded.
        """
        key = hashlib.sha256("\n".join([*self._same, sample.digest(), str(quarter_turns)]).encode()).hexdigest()
        kept = self._cache.get(key) if self._cache else None
        if kept is not None:
            return kept
        embedding = self._embed(np.ascontiguousarray(np.rot90(sample.image(), quarter_turns)))
        if self._cache:
            self._cache.put(key, embedding)
        return embedding

    def look(self, sample: Sample, *, quarter_turns: int = 0) -> ForegroundEmbedding:
        """The embedding and its mask.

        Raises:
            FrameError: it cannot be read, embedded or masked: a verdict would be *invalid*.
        """
        return self.embedder.mask(self.embedding(sample, quarter_turns=quarter_turns))

    def embed_all(
        self, samples: Sequence[Sample], progress: Progress, label: str, *, turned: bool = False
    ) -> EmbeddedSamples:
        """All good samples; those that cannot be used are named.

        Args:
            samples: in order.
            progress: told of each.
            label: of the step.
            turned: each in all four orientations, side by side.
        """
        seen: list[ForegroundEmbedding] = []
        skipped: list[tuple[str, str]] = []
        with progress.step(label, len(samples), "images") as done:
            for sample, views in zip(samples, self.views_of(samples, turned=turned), strict=True):
                if isinstance(views, FrameError):
                    skipped.append((sample.name, str(views)))
                else:
                    seen += views
                done(1)
        return EmbeddedSamples(tuple(seen), tuple(skipped))

    def views_of(
        self, samples: Iterable[Sample], *, turned: bool = False
    ) -> Iterator[list[ForegroundEmbedding] | FrameError]:
        """Of each sample, in order, what is seen in it, in all four orientations or one; or why nothing is."""
        return in_order(partial(self._views, n=QUARTER_TURNS if turned else 1), samples, workers=self._workers)

    def _views(self, sample: Sample, *, n: int) -> list[ForegroundEmbedding] | FrameError:
        try:
            return [self.look(sample, quarter_turns=turn) for turn in range(n)]
        except FrameError as error:
            return error

    def _embed(self, image: UInt8) -> Embedding:
        return self.embedder.backbone.embed(self.embedder.pixels(image)[None])[0]
