"""Samples → embeddings and masks, by the daemon's own stages, with a cache in front of the ViT."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime

from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.rotation import turned
from bank_tools.datasets import Sample
from bank_tools.evaluation.embedding_cache import EmbeddingCache
from edge_uad import __version__
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.progress import Progress
from edge_uad.records import Embedding
from edge_uad.runtime.in_order import in_order


@dataclass(frozen=True, slots=True)
class EmbeddedSamples:
    """The embeddings of some samples, and the samples that have none."""

    embeddings: EmbeddingStore
    """The views of each follow one another."""
    skipped: tuple[tuple[str, str], ...]
    """Name and reason of those without a patch to learn."""


class SampleEmbedder:
    """Embeds samples, each at most once per model and preprocessing.

    Args:
        embedder: the stages up to the mask.
        preprocessing: what decides the pixels in addition to the model's card: geometry and region of interest.
        runtime: what runs the model; its last digits may depend on it.
        cache: where embeddings are kept; None to keep none.
        workers: samples at a time, where there are many; the backbone is used by so many threads.
        scratch: folder of the temporary file of embeddings; None for the system's.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        preprocessing: str,
        runtime: str,
        cache: EmbeddingCache | None,
        workers: int = 1,
        scratch: Path | None = None,
    ) -> None:
        self.embedder = embedder
        self._cache = cache
        self._workers = workers
        self._scratch = scratch
        self._same = [
            __version__,
            onnxruntime.__version__,
            runtime,
            preprocessing,
            embedder.backbone.card.model_id,
        ]

    def masking(self, *, kernel: int, threshold: float) -> "SampleEmbedder":
        """The same, from the same cache, with this mask."""
        other = copy(self)
        other.embedder = Embedder(
            backbone=self.embedder.backbone,
            preprocessor=self.embedder.preprocessor,
            bpm_kernel=kernel,
            bpm_threshold=threshold,
        )
        return other

    @property
    def identity(self) -> list[str]:
        """All that decides an embedding in addition to the image."""
        return list(self._same)

    def embedding(self, sample: Sample, *, quarter_turns: int = 0) -> Embedding:
        """The embedding of a sample, the picture that the model sees rotated counter-clockwise by quarter turns.

        Raises:
            FrameError: it cannot be read or embedded.
        """
        seen = f"turned {quarter_turns}" if quarter_turns else "0"
        key = hashlib.sha256("\n".join([*self._same, sample.digest(), seen]).encode()).hexdigest()
        kept = self._cache.get(key) if self._cache else None
        if kept is not None:
            return kept
        pixels = self.embedder.pixels(sample.image())
        embedding = self.embedder.backbone.embed(turned(pixels, quarter_turns)[None])[0]
        if self._cache:
            self._cache.put(key, embedding)
        return embedding

    def embed(self, sample: Sample, *, quarter_turns: int = 0) -> ForegroundEmbedding:
        """The embedding and its mask.

        Raises:
            FrameError: it cannot be read, embedded or masked: a verdict would be *invalid*.
        """
        return self.embedder.mask(self.embedding(sample, quarter_turns=quarter_turns))

    def embed_all(
        self, samples: Sequence[Sample], progress: Progress, label: str, *, views: int = 1
    ) -> EmbeddedSamples:
        """Embed all good samples; those that cannot be used are listed.

        Args:
            samples: in order.
            progress: shows the step.
            label: of the step.
            views: quarter turns of each, one after the other.

        Raises:
            UsageError: the temporary file of embeddings cannot be written.
        """
        embeddings = EmbeddingStore(self._scratch)
        skipped: list[tuple[str, str]] = []
        with progress.step(label, len(samples), "images") as done:
            for sample, found in zip(samples, self.views_of(samples, views=views), strict=True):
                if isinstance(found, FrameError):
                    skipped.append((sample.name, str(found)))
                else:
                    for view in found:
                        embeddings.append(view)
                done(1)
        return EmbeddedSamples(embeddings, tuple(skipped))

    def views_of(
        self, samples: Iterable[Sample], *, views: int = 1
    ) -> Iterator[list[ForegroundEmbedding] | FrameError]:
        """Of each sample, in order, the embeddings of so many quarter turns of it; or why it has none."""
        return in_order(partial(self._views, n=views), samples, workers=self._workers)

    def _views(self, sample: Sample, *, n: int) -> list[ForegroundEmbedding] | FrameError:
        try:
            return [self.embed(sample, quarter_turns=turn) for turn in range(n)]
        except FrameError as error:
            return error
