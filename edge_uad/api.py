"""The public Python API beside the Subscriber: judge images, read a bank, build one."""

import itertools
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import numpy as np

from edge_uad._packages import own_packages
from edge_uad.errors import FrameError, ModelError, SourceEndedError
from edge_uad.inference.bank import PatchBank, check_writable
from edge_uad.inference.inspector import Inspector as FrameInspector
from edge_uad.interfaces import FrameSource
from edge_uad.paths import expand_user
from edge_uad.progress import Progress, SilentProgress
from edge_uad.records import (
    AnyFrame,
    BankManifest,
    Box,
    Frame,
    Geometry,
    IndexChoice,
    Provider,
    Rotations,
    SearchDevice,
    Tiling,
    UInt8,
    Verdict,
    WantedPrecision,
)
from edge_uad.runtime.assemble import load_backbone_for_many, load_inspector, model_of_bank
from edge_uad.runtime.backbones import Backbones
from edge_uad.runtime.cache import DEFAULT_BACKBONE, default_model_path
from edge_uad.sources import recorded_source, reduce_decoding
from edge_uad.sources.folder import FolderSource
from edge_uad.sources.recorded import frames_of

StrPath = str | os.PathLike[str]
Image = UInt8 | StrPath
"""uint8 (H, W, 3) RGB or (H, W) grey, or the path of an image file."""

STATION = "python"
"""Station of verdicts that no daemon gave."""

log = logging.getLogger("edge_uad.api")


class Inspector:
    """Judges images by one memory bank, in this process; made by :meth:`open`. A context manager.

    Several threads may use it at once where model and search run on the CPU.
    """

    def __init__(self, inspector: FrameInspector) -> None:
        self._open: FrameInspector | None = inspector
        self._frame_ids = itertools.count()

    @classmethod
    def open(
        cls,
        bank: StrPath,
        *,
        model: StrPath | None = None,
        provider: Provider = "cpu",
        threads: int = 0,
        search_device: SearchDevice = "cpu",
        precision: WantedPrecision = "auto",
    ) -> Self:
        """Load a bank and its model.

        Args:
            bank: file of ``build_bank`` or ``edge-uad build-bank``.
            model: file of ``edge-uad export``; None: the bank's own model in the cache. Nothing is fetched.
            provider: cpu, cuda, tensorrt or openvino.
            threads: of the CPU; 0: all cores.
            search_device: cpu or gpu.
            precision: fp32, bf16 or int8; auto takes the fastest that the bank is certified for, where this processor
                has what it needs.

        Raises:
            ArtefactError: the bank or the model is missing, damaged, or the bank was built with another model, or is
                not certified for the precision.
            ProviderError: the accelerator is not active.
            MissingExtraError: what runs the model is not installed.
        """
        backbones = Backbones(_model_path(model, _path(bank)), provider=provider, threads=threads, precision=precision)
        return cls(load_inspector(backbones, _path(bank), search_device=search_device, search_threads=threads))

    def inspect(self, image: Image, *, part_id: str | None = None) -> Verdict:
        """Judge one image, as the daemon would.

        Args:
            image: an array, uint8 (H, W, 3) RGB or (H, W) grey, or a path. A file is decoded strictly.
            part_id: the line's name for the part; None: of a file its path.

        Returns:
            The verdict with its heatmap. A file that is missing, damaged or no image is *invalid*, with the reason;
            ``sequence`` is None.

        Raises:
            TypeError: neither an array nor a path.
            ValueError: an array of another dtype or shape, or the Inspector is closed.
        """
        frame = self._frame(image)
        if part_id is not None:
            frame = replace(frame, part_id=part_id)
        return self._inspector.inspect(frame)

    def overlay(self, image: Image, verdict: Verdict, *, longest_side_px: int | None = None) -> UInt8:
        """The image with the verdict's heat drawn over it; the image itself where the verdict has no heatmap.

        Args:
            image: the one that was inspected.
            verdict: its verdict.
            longest_side_px: a larger image is scaled down first.

        Returns:
            uint8 (H, W, 3), RGB.

        Raises:
            FrameError: the file cannot be read.
            TypeError, ValueError: as ``inspect``.
        """
        frame = self._frame(image)
        if not isinstance(frame, Frame):
            raise FrameError(f"{frame.part_id}: {frame.reason}")
        return self._inspector.overlay(frame, verdict, longest_side_px=longest_side_px)

    @property
    def manifest(self) -> BankManifest:
        """How the bank was made."""
        return self._inspector.manifest

    @property
    def threshold(self) -> float:
        """The score above which an image is anomalous."""
        return self.manifest.threshold

    def close(self) -> None:
        """Let model and bank go."""
        self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _inspector(self) -> FrameInspector:
        if self._open is None:
            raise ValueError("the Inspector is closed")
        return self._open

    def _frame(self, image: Image) -> AnyFrame:
        return _frame_of(image, next(self._frame_ids), least_side_px=self._inspector.least_side_px)


def open_bank(path: StrPath) -> BankManifest:
    """Read and verify a bank file: how the bank was made, and its threshold.

    Raises:
        BankError: missing, not a bank, of another schema, or changed since it was built.
    """
    return PatchBank.load(_path(path)).manifest


class BankRecipe(TypedDict, total=False):
    """What ``build_bank`` may be asked for; defaults are those of ``edge-uad build-bank``."""

    geometry: Geometry | str
    roi: Box | None
    tiling: Tiling | None
    rotations: Rotations | str
    bpm_kernel: int | None
    bpm_threshold: float | None
    top_ratio: float | None
    levels: int | None
    neighbours: int
    coreset_ratio: float
    max_patches: int | None
    false_alarm_rate: float
    seed: int
    reduced_decode: bool
    index: IndexChoice


def build_bank(
    images: StrPath | Iterable[Image],
    *,
    out: StrPath = "bank.safetensors",
    model: StrPath | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    search_device: SearchDevice = "cpu",
    progress: Progress | None = None,
    exclude_outliers: bool = False,
    precision: WantedPrecision = "auto",
    **recipe: Unpack[BankRecipe],
) -> BankManifest:
    """Build a memory bank of good parts, calibrate its threshold, and write it to a file.

    Images that cannot be used are logged, each with its reason, and counted in the manifest.

    Args:
        images: a folder, a glob or a video file; or arrays and paths, each as ``Inspector.inspect`` takes it.
        out: the file; one that is there is replaced as a whole.
        model: as of ``Inspector.open``.
        provider: as of ``Inspector.open``.
        threads: as of ``Inspector.open``.
        search_device: as of ``Inspector.open``.
        progress: shows the steps; None: silent.
        exclude_outliers: leave images that score far above the others out of the bank and its calibration.
        precision: of the arithmetic that the bank may be judged in: auto tries what this processor can do, and
            certifies what keeps the verdicts of fp32.
        recipe: see :class:`BankRecipe`.

    Returns:
        The manifest written.

    Raises:
        UsageError: nothing is there, fewer than two usable images, a value out of its range, or ``out`` not writable.
        ArtefactError: the model is missing or damaged.
        TypeError: a keyword that is not known, or a value of another kind.
    """
    own_packages()
    from bank_tools.bank.build import build_bank as build  # noqa: PLC0415  (inspection does without)
    from bank_tools.bank.embeddings import scratch_folder  # noqa: PLC0415
    from bank_tools.bank.good_images import embed_for_bank  # noqa: PLC0415
    from bank_tools.bank.precision_trial import possible_precisions  # noqa: PLC0415
    from bank_tools.bank.recipe import embedder_for, recipe_for  # noqa: PLC0415
    from bank_tools.bank.tail import weakness_of  # noqa: PLC0415

    progress = progress or SilentProgress()
    out_path = _path(out)
    check_writable(out_path)
    source, total = _images_source(images)
    backbone, workers = load_backbone_for_many(
        _model_path(model), provider=provider, threads=threads, search_device=search_device
    )
    values = _plain_values(recipe)
    by_model = ("bpm_kernel", "top_ratio", "levels", "tiling")
    fitting = recipe_for(backbone.card, **{name: values.pop(name) for name in by_model if name in values})
    full = replace(fitting, **values, search_device=search_device, search_threads=threads)
    embedder = embedder_for(backbone, full)
    reduce_decoding(source, embedder.preprocessor.least_side_px if full.reduced_decode else None)
    folder = scratch_folder(out_path.parent)
    embedded, slow = embed_for_bank(
        frames_of(source),
        embedder,
        full,
        progress,
        model=_model_path(model),
        precisions=possible_precisions(backbone.card, precision, provider),
        total=total,
        workers=workers,
        folder=folder,
    )
    for name, reason in (*embedded.unreadable, *embedded.empty):
        log.warning("%s was skipped: %s", name, reason)
    built = build(embedded, recipe=full, embedder=embedder, progress=progress, exclude_outliers=exclude_outliers)
    for refused in (*slow, *built.refused_precisions):
        log.info("%s is not used: %s", refused.precision, refused.reason)
    manifest = built.bank.manifest
    if (weakness := weakness_of(built.bank.calibration, manifest.false_alarm_rate)) is not None:
        log.warning("%s", weakness)
    if built.index_refusal is not None:
        log.warning("the bank has no index, every patch is searched: %s", built.index_refusal)
    for one in built.outliers:
        done = "was excluded" if manifest.n_excluded else "can make the threshold too high"
        log.warning("%s scores far above the other good images (%.4f) and %s", one.name, one.score, done)
    built.bank.save(out_path)
    return manifest


def _plain_values(recipe: BankRecipe) -> dict[str, Any]:
    """The values as a manifest holds them: numbers of numpy as Python's, names as enumerations.

    Raises:
        TypeError: a tiling that is none.
        ValueError: unknown geometry or rotations.
    """
    values: dict[str, Any] = {name: _plain(value) for name, value in recipe.items()}
    if "geometry" in values:
        values["geometry"] = Geometry(values["geometry"])
    if "rotations" in values:
        values["rotations"] = Rotations(values["rotations"])
    if values.get("roi") is not None:
        values["roi"] = tuple(map(_plain, values["roi"]))
    if not isinstance(values.get("tiling"), Tiling | None):
        raise TypeError(f"the tiling is {values['tiling']!r}; give an edge_uad.Tiling")
    return values


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


class _GivenImages:
    """Arrays and paths as a source. Implements FrameSource and DecodingSource."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._images: Iterator[tuple[int, Image]] = enumerate(images)
        self._least_side_px: int | None = None

    def reduce_to(self, least_side_px: int) -> None:
        self._least_side_px = least_side_px

    def open(self) -> None:
        pass

    def read(self, timeout_s: float) -> AnyFrame:  # noqa: ARG002  (the protocol's)
        try:
            frame_id, image = next(self._images)
        except StopIteration:
            raise SourceEndedError("all images have been read") from None
        return _frame_of(image, frame_id, least_side_px=self._least_side_px)

    def close(self) -> None:
        pass


def _images_source(images: StrPath | Iterable[Image]) -> tuple[FrameSource, int | None]:
    if isinstance(images, (str, os.PathLike)):
        return recorded_source(os.fspath(images))
    if isinstance(images, np.ndarray) and images.ndim < 4:
        raise ValueError("one array was given; give several images, such as [first, second]")
    return _GivenImages(images), len(images) if isinstance(images, Sized) else None


def _frame_of(image: Image, frame_id: int, *, least_side_px: int | None) -> AnyFrame:
    """A frame of this moment."""
    if isinstance(image, (str, os.PathLike)):
        source = FolderSource(STATION, [_path(image)])
        reduce_decoding(source, least_side_px)
        [frame] = frames_of(source)
        return replace(frame, frame_id=frame_id)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is an array or a path, not {type(image).__name__}")
    return Frame(
        station=STATION,
        frame_id=frame_id,
        captured_at_ns=time.time_ns(),
        captured_mono_ns=time.monotonic_ns(),
        image=_as_rgb(image),
    )


def _as_rgb(image: UInt8) -> UInt8:
    """uint8 (H, W, 3), contiguous."""
    if image.dtype != np.uint8:
        raise ValueError(f"the image's dtype is {image.dtype}; give uint8, 0 to 255")
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"the image's shape is {image.shape}; give (H, W, 3) RGB or (H, W) grey")
    return np.ascontiguousarray(image)


def _model_path(model: StrPath | None, bank: Path | None = None) -> Path:
    if model is not None:
        return _path(model)
    if bank is not None and (own := model_of_bank(bank)) is not None:
        return own
    path = default_model_path()
    if not path.is_file():
        raise ModelError(
            f"the default backbone {DEFAULT_BACKBONE} is not at {path}; run edge-uad build-bank or inspect once, which "
            "fetch it, or name a model file with model="
        )
    return path


def _path(path: StrPath) -> Path:
    return expand_user(os.fspath(path))
