"""The good images of a bank: read, embedded, and what cannot be used of them."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.precision_trial import PrecisionTrial, RefusedPrecision, prepare_trial
from bank_tools.bank.recipe import Recipe
from bank_tools.bank.rotation import embed_views, n_views
from edge_uad.errors import FrameError
from edge_uad.inference.inspector import Embedder, ForegroundEmbedding
from edge_uad.progress import Progress
from edge_uad.records import Frame, LowerPrecision, UInt8, UnreadableFrame
from edge_uad.runtime.in_order import in_order


@dataclass(slots=True)
class GoodImages:
    """The images named for the bank: those embedded, and those that cannot be used."""

    embeddings: EmbeddingStore
    names: list[str] = field(default_factory=list)
    """Of the embedded images."""
    digests: list[str] = field(default_factory=list)
    """SHA-256 of each embedded image's pixels."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    empty: list[tuple[str, str]] = field(default_factory=list)
    """Readable, but without a patch to learn: name and reason."""
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of each embedded image."""
    trial: PrecisionTrial | None = None
    """Of lower precisions, where any is tried."""
    trial_numbers: list[int | None] = field(default_factory=list)
    """Of each embedded image the number by which the trial knows it; None where it is not one of those tried."""
    views: int = 1
    """Embeddings of each image, quarter turns of each other, one after the other; the one as it was taken first."""

    @property
    def n_copies(self) -> int:
        """Images that are pixel for pixel equal to another one."""
        return len(self.digests) - len(set(self.digests))

    def without(self, images: Collection[int]) -> "GoodImages":
        """All but these of the embedded images, numbered anew."""
        kept = [image for image in range(len(self.names)) if image not in images]
        return replace(
            self,
            embeddings=self.embeddings.only(
                [first + view for first in (image * self.views for image in kept) for view in range(self.views)]
            ),
            names=[self.names[image] for image in kept],
            digests=[self.digests[image] for image in kept],
            sizes_hw=[self.sizes_hw[image] for image in kept],
            trial_numbers=[self.trial_numbers[image] for image in kept],
        )


@dataclass(frozen=True, slots=True)
class _EmbeddedImage:
    """An image's embedding, or why it has none."""

    name: str
    embeddings: list[ForegroundEmbedding] | None
    """One for each view."""
    digest: str | None
    """None where it could not be read."""
    reason: str = ""
    hw: tuple[int, int] | None = None
    tried: list[ForegroundEmbedding] | None = None
    """In lower precisions; None where it is not one of those tried."""


def embed_all(
    frames: Iterable[Frame | UnreadableFrame],
    embedder: Embedder,
    total: int | None,
    progress: Progress,
    *,
    workers: int = 1,
    folder: Path | None = None,
    trial: PrecisionTrial | None = None,
    views: int = 1,
) -> GoodImages:
    """Embed every good image, so many at a time, while the next ones are read; list what cannot be used.

    Each has an inference of its own: in a batch its last bits would be other ones than in inspection.

    Args:
        frames: the good images.
        embedder: set as the recipe says.
        total: how many frames there are; None where that is unknown.
        progress: shows the step.
        workers: images at a time.
        folder: of the temporary file of embeddings; None for the system's.
        trial: of lower precisions, which embeds some of the images, too.
        views: quarter turns of each image, as the recipe's rotations need them.

    Raises:
        UsageError: the temporary file cannot be written.
    """
    images = GoodImages(EmbeddingStore(folder), trial=trial, views=views)
    with progress.step("embedding", total, "images") as done:
        for embedded in in_order(partial(_embed_one, embedder, trial, views), frames, workers=workers):
            _add(embedded, images)
            done(1)
    return images


def embed_for_bank(
    frames: Iterable[Frame | UnreadableFrame],
    embedder: Embedder,
    recipe: Recipe,
    progress: Progress,
    *,
    model: Path,
    precisions: Sequence[LowerPrecision],
    total: int | None,
    workers: int = 1,
    folder: Path | None = None,
    alone: tuple[Embedder, int] | None = None,
) -> tuple[GoodImages, tuple[RefusedPrecision, ...]]:
    """Embed every good image in the views that a recipe learns, and some of them in lower precisions, too.

    Args:
        frames: the good images.
        embedder: set as the recipe says.
        recipe: of the bank.
        progress: shows the steps.
        model: the embedder's file.
        precisions: those to try, which this processor can run.
        total: how many frames there are; None where that is unknown.
        workers: images at a time.
        folder: of the temporary files of embeddings; None for the system's.
        alone: an embedder of this machine and its images at a time, which lower precisions are tried beside; None for
            the embedder itself.

    Returns:
        The images, and the precisions that win no time here.

    Raises:
        EdgeUadError: a temporary file cannot be written, or the model cannot be opened in a precision.
    """
    reference, at_once = alone or (embedder, workers)
    trial, slow = prepare_trial(
        model, reference, recipe, precisions, total=total, workers=at_once, progress=progress, folder=folder
    )
    views = n_views(recipe.rotations)
    images = embed_all(frames, embedder, total, progress, workers=workers, folder=folder, trial=trial, views=views)
    return images, slow


def _embed_one(
    embedder: Embedder, trial: PrecisionTrial | None, views: int, frame: Frame | UnreadableFrame
) -> _EmbeddedImage:
    name = name_of(frame)
    if isinstance(frame, UnreadableFrame):
        return _EmbeddedImage(name, None, None, frame.reason)
    digest = pixel_digest(frame.image)
    try:
        embeddings = embed_views(embedder, embedder.pixels(frame.image), views=views)
    except FrameError as error:
        return _EmbeddedImage(name, None, digest, str(error))
    tried = None
    if trial is not None and trial.tries(frame.frame_id):
        tried = trial.embed(frame.image, frame.frame_id)
    return _EmbeddedImage(name, embeddings, digest, hw=frame.hw, tried=tried)


def _add(embedded: _EmbeddedImage, images: GoodImages) -> None:
    if embedded.digest is None:
        images.unreadable.append((embedded.name, embedded.reason))
    elif embedded.embeddings is None:
        images.empty.append((embedded.name, embedded.reason))
    else:
        for embedding in embedded.embeddings:
            images.embeddings.append(embedding)
        number = None
        if images.trial is not None and embedded.tried is not None:
            number = images.trial.append(embedded.tried)
        images.trial_numbers.append(number)
        images.names.append(embedded.name)
        images.digests.append(embedded.digest)
        if embedded.hw is not None:
            images.sizes_hw.append(embedded.hw)


def name_of(frame: Frame | UnreadableFrame) -> str:
    """What messages call a good image: its file, or its number in the recording."""
    return frame.part_id or f"frame {frame.frame_id}"


def pixel_digest(image: UInt8) -> str:
    """SHA-256 of a picture's size and pixels."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
