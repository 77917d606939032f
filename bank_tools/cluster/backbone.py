"""A backbone whose inferences are done by the workers of a cluster."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from bank_tools.cluster.arithmetic import backbone_digest
from edge_uad.errors import ClusterError, ModelError
from edge_uad.inference.backbones.card import check_pixels
from edge_uad.inference.backbones.files import read_model_file
from edge_uad.interfaces import Backbone
from edge_uad.records import Embedding, Float32, ModelCard, Provider
from edge_uad.runtime.backbones import load_backbone


class RunEach(Protocol):
    """Work that is done on workers."""

    def each(self, items: Sequence[Float32]) -> list[Embedding]:
        """The results, when all of them are there."""


class ClusterBackbone:
    """Embeds on workers, each picture by an inference of its own on one core. Implements Backbone.

    May be used by several threads at once, each of which waits for its pictures.

    Args:
        card: of the model.
        run: the model, where it is run; see :class:`ShippedModel`.
    """

    def __init__(self, card: ModelCard, run: RunEach) -> None:
        self._card = card
        self._run = run

    @property
    def card(self) -> ModelCard:
        """The model's."""
        return self._card

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch, each picture where there is room. Each result depends on its own picture alone.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W of the card.

        Raises:
            ClusterError: the cluster is lost, or a worker cannot do it.
        """
        check_pixels(pixels, self._card)
        return self._run.each(list(pixels))


class ShippedModel:
    """A model file's bytes, opened where they are first needed. Call it with one picture, float32 (3, H, W).

    Args:
        content: of the file.
        path: as errors name it; its suffix names its kind.
        provider: what runs it.
        digest: what :func:`bank_tools.cluster.arithmetic.backbone_digest` gave on the machine that asks.
    """

    def __init__(self, content: bytes, path: Path, *, provider: Provider, digest: str) -> None:
        # an array is held once on each machine, by all of its workers; bytes would be copied into each of them
        self._content: np.ndarray | None = np.frombuffer(content, np.uint8)
        self._path = path
        self._provider: Provider = provider
        self._digest = digest
        self._backbone: Backbone | None = None

    def __call__(self, image: Float32) -> Embedding:
        """The picture's embedding.

        Raises:
            ClusterError: this machine's processor gives other bits for the model.
        """
        if self._backbone is None:
            self._backbone = self._opened()
            self._content = None
        [embedding] = self._backbone.embed(image[None])
        return embedding

    def _opened(self) -> Backbone:
        if self._content is None:
            raise RuntimeError("a model that was opened cannot be shipped on")
        with _in_memory(self._content.data) as opened:
            backbone = load_backbone(self._path, opened=opened, provider=self._provider, threads=1)
        if backbone_digest(backbone) != self._digest:
            raise ClusterError(
                f"its processor gives other last bits for model {self._path.name} than the machine that asks; leave it "
                "out of the cluster"
            )
        return backbone


def shipped(backbone: Backbone, path: Path, provider: Provider) -> ShippedModel:
    """The model's file, to be run elsewhere.

    Args:
        backbone: of this file.
        path: the file.
        provider: what runs it.

    Raises:
        ModelError: the file was replaced since.
    """
    content = read_model_file(path)
    if hashlib.sha256(content).hexdigest() != backbone.card.model_id:
        raise ModelError(f"model {path} was replaced while it was loaded; start again")
    return ShippedModel(content, path, provider=provider, digest=backbone_digest(backbone))


def on_cluster(
    backbone: Backbone, path: Path, provider: Provider, on_workers: Callable[[ShippedModel], RunEach]
) -> Backbone:
    """The same model, run by workers.

    Args:
        backbone: opened here.
        path: its file.
        provider: what runs it.
        on_workers: see :meth:`bank_tools.cluster.ray_cluster.RayCluster.on_workers`.
    """
    return ClusterBackbone(backbone.card, on_workers(shipped(backbone, path, provider)))


@contextmanager
def _in_memory(content: memoryview) -> Iterator[Path]:
    """A path that reads the content, of a file that lies on no disk."""
    descriptor = os.memfd_create("model")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield Path(f"/proc/self/fd/{descriptor}")
