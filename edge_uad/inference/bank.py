"""The memory bank of good patches, in one file (ALGORITHM §4)."""

import dataclasses
import hashlib
import json
import math
import os
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save_file

from edge_uad.errors import BankError, UsageError
from edge_uad.files import open_regular, replacing
from edge_uad.inference.backbones.certificate import SHA256, is_short_line, is_sound
from edge_uad.inference.index import IndexedSearch, PatchIndex, index_of
from edge_uad.inference.search import FARTHEST, PatchSearch
from edge_uad.records import (
    MAX_BPM_KERNEL,
    BankManifest,
    CertifiedPrecision,
    Embedding,
    Float32,
    IndexCertificate,
    Int,
    PatchDistances,
    PatchMask,
    Rotations,
    SearchDevice,
    reducible,
)

BANK_SCHEMA = 1
UNIT_NORM_TOLERANCE = 1e-3
MOST_FEATURES = 8
"""Of a processor, that a precision needs; there are two by now."""

_MANIFEST_KEY = "edge_uad_manifest"
_MAX_HEADER_BYTES = 2**20
"""A manifest and the places of three tensors take a few thousand."""
_MANIFEST = TypeAdapter(BankManifest)


class PatchBank:
    """A memory bank of good patches, ready to be searched.

    Args:
        patches: float32 (M, D), unit norm, grouped by image.
        patch_image: int32 (M,), ascending: from which image each patch came.
        calibration: float32 (n,), ascending: scores of the good images against patches of other good images.
        manifest: how it was made.
        index: of the patches, where the manifest has a certificate of it; the GPU searches all patches all the same.
        search_device: cpu or gpu.
        search_threads: of the CPU; 0 for one per core.

    Raises:
        ProviderError: the GPU was requested and cannot be used.
    """

    def __init__(
        self,
        *,
        patches: Float32,
        patch_image: Int,
        calibration: Float32,
        manifest: BankManifest,
        index: PatchIndex | None = None,
        search_device: SearchDevice = "cpu",
        search_threads: int = 0,
    ) -> None:
        self.patches = patches
        self.patch_image = patch_image
        self.calibration = calibration
        self.manifest = manifest
        self.index = index
        self.search = PatchSearch(patches, device=search_device, threads=search_threads, levels=manifest.levels)
        if index is not None and search_device == "cpu":
            self.search = IndexedSearch(self.search, index, threads=search_threads)

    @classmethod
    def sealed(
        cls,
        *,
        patches: Float32,
        patch_image: Int,
        calibration: Float32,
        manifest: BankManifest,
        index: PatchIndex | None = None,
    ) -> "PatchBank":
        """A new bank, its ``bank_id`` filled in from its content."""
        # as it will be read: a whole number given for a ratio is hashed as the fraction it becomes
        manifest = _MANIFEST.validate_json(json.dumps(_described(manifest)))
        bank_id = content_id(manifest, patches, patch_image, calibration, index)
        sealed = dataclasses.replace(manifest, bank_id=bank_id)
        return cls(patches=patches, patch_image=patch_image, calibration=calibration, manifest=sealed, index=index)

    def distances(self, embedding: Embedding, mask: PatchMask) -> PatchDistances:
        """How far each foreground patch lies from the bank; masked-out patches get distance 0, row -1."""
        return self.search.distances(embedding, mask, neighbours=self.manifest.neighbours)

    def searched_by(self, *, threads: int) -> "PatchBank":
        """The same bank, the same patches in memory, searched on the CPU by so many threads; 0 for one per core."""
        other = copy(self)
        other.search = self.search.using(threads=threads)
        return other

    def save(self, path: Path) -> None:
        """Write the file atomically: a reader sees the old bank or the new one, whole.

        Raises:
            UsageError: the file cannot be written.
        """
        tensors = {
            "patches": self.patches,
            "patch_image": np.ascontiguousarray(self.patch_image, np.int32),
            "calibration": self.calibration,
            **({} if self.index is None else self.index.tensors()),
        }
        manifest_json = json.dumps(_described(self.manifest), sort_keys=True)
        try:
            with replacing(path) as temporary:
                save_file(tensors, temporary, {_MANIFEST_KEY: manifest_json})
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(
                f"the bank cannot be written to {path}: {reason}; free the disk or name another"
            ) from error

    @classmethod
    def load(
        cls, path: Path, *, search_device: SearchDevice = "cpu", search_threads: int = 0, name: Path | None = None
    ) -> "PatchBank":
        """Read and verify a bank file.

        Args:
            path: what is read.
            search_device: cpu or gpu.
            search_threads: of the CPU; 0 for one per core.
            name: how errors name the file, where ``path`` is only the way to it.

        Raises:
            BankError: missing, not a bank, of another schema, truncated or changed since it was built.
            ProviderError: the GPU was requested and cannot be used.
        """
        tensors, manifest_json = _read(path, name or path)
        path = name or path
        manifest = _parse_manifest(manifest_json, path)
        _check_tensors(tensors, manifest, path)
        index = _read_index(tensors, manifest, path)
        found_id = content_id(
            manifest, tensors["patches"], tensors["patch_image"].astype(np.int64), tensors["calibration"], index
        )
        if found_id != manifest.bank_id:
            raise BankError(
                f"bank {path} is labelled {short_id(manifest.bank_id)} but its content is {short_id(found_id)}: "
                "it was changed after it was built; copy it again or rerun edge-uad build-bank"
            )
        return cls(
            patches=tensors["patches"],
            patch_image=tensors["patch_image"].astype(np.int64),
            calibration=tensors["calibration"],
            manifest=manifest,
            index=index,
            search_device=search_device,
            search_threads=search_threads,
        )


def read_manifest(path: Path) -> BankManifest:
    """The manifest of a bank file, without its patches; whether they belong together only :meth:`PatchBank.load` knows.

    Raises:
        BankError: missing, not a bank, or of another schema.
    """
    try:
        with open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            metadata = json.loads(file.read(min(size, _MAX_HEADER_BYTES))).get("__metadata__", {})
            manifest_json = metadata[_MANIFEST_KEY]
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise BankError(f"{path} cannot be read as a bank; copy it again or rerun edge-uad build-bank") from error
    return _parse_manifest(manifest_json, path)


def content_id(
    manifest: BankManifest, patches: Float32, patch_image: Int, calibration: Float32, index: PatchIndex | None = None
) -> str:
    """SHA-256 over the tensors and every field of the manifest but ``bank_id`` itself."""
    digest = hashlib.sha256()
    described = {key: value for key, value in _described(manifest).items() if key != "bank_id"}
    digest.update(json.dumps(described, sort_keys=True).encode())
    lists = () if index is None else index.tensors().values()
    for tensor in (patches, np.asarray(patch_image, np.int32), calibration, *lists):
        digest.update(f"{tensor.dtype.str}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def _described(manifest: BankManifest) -> dict[str, Any]:
    """The fields as they are stored and hashed.

    Fields added later are left out at their default, so that older banks keep their identity.
    """
    described = dataclasses.asdict(manifest)
    for field in dataclasses.fields(manifest):
        if field.default is not dataclasses.MISSING and getattr(manifest, field.name) == field.default:
            del described[field.name]
    return described


def check_writable(path: Path) -> None:
    """Refuse a place where no bank can be written before hours of work go into one.

    Raises:
        UsageError: no such folder, or no right to write there.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the bank's file, such as {path / 'bank.safetensors'}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"no bank can be written to {path}: the folder {path.parent} is missing or read-only")


def short_id(identifier: str) -> str:
    """The first characters of a SHA-256, as messages show it."""
    return identifier[:12]


def _read(path: Path, name: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        raise BankError(f"there is no bank at {name}; build one with edge-uad build-bank")
    try:
        content = path.read_bytes()  # not mapped: a file cut short by a careless copy would end the process by SIGBUS
        tensors = load_tensors(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, OSError) as error:
        raise BankError(
            f"{name} cannot be read as a bank ({error}); copy it again or rerun edge-uad build-bank"
        ) from error
    if _MANIFEST_KEY not in metadata:
        raise BankError(f"{name} is a safetensors file without a bank's manifest; name a file of edge-uad build-bank")
    return tensors, metadata[_MANIFEST_KEY]


def _parse_manifest(manifest_json: str, path: Path) -> BankManifest:
    try:
        schema = json.loads(manifest_json).get("schema")
        if schema == BANK_SCHEMA:
            manifest = _MANIFEST.validate_json(manifest_json, strict=True, extra="forbid")
            _check_ranges(manifest)
            return manifest
    except (ValidationError, ValueError, AttributeError) as error:
        raise BankError(f"bank {path} has a damaged manifest; copy it again or rerun edge-uad build-bank") from error
    raise BankError(f"bank {path} has schema {schema!r}, this edge-uad reads {BANK_SCHEMA}; rerun edge-uad build-bank")


def _check_ranges(manifest: BankManifest) -> None:
    """Raise ValueError for values by which every part would be normal or none could be judged, or that are no text."""
    x, y, w, h = manifest.roi or (0, 0, 1, 1)
    holds = (
        0 <= manifest.threshold < FARTHEST,  # no score exceeds that
        manifest.pixel_threshold is None or (math.isfinite(manifest.pixel_threshold) and manifest.pixel_threshold >= 0),
        0 < manifest.top_ratio <= 1,
        0 <= manifest.bpm_threshold < 1,
        1 <= manifest.bpm_kernel <= MAX_BPM_KERNEL and manifest.bpm_kernel % 2 == 1,
        manifest.neighbours >= 1,
        0 < manifest.false_alarm_rate < 1,
        min(x, y) >= 0 and min(w, h) >= 1,
        not manifest.reduced_decode or reducible(manifest.geometry, manifest.roi),
        manifest.levels >= 1,
        all(map(SHA256.fullmatch, (manifest.bank_id, manifest.model_id, manifest.source_digest))),
        all(map(str.isprintable, (manifest.backbone, manifest.built_at, manifest.built_by))),
        manifest.tiling is None or manifest.tiling.fits(manifest.grid_hw),
        manifest.cycle_ms is None or (math.isfinite(manifest.cycle_ms) and manifest.cycle_ms > 0),
        len({one.precision for one in manifest.precisions}) == len(manifest.precisions),
        all(_belongs(one, manifest) for one in manifest.precisions),
        manifest.index is None or _in_range(manifest.index),
        manifest.rotations is not Rotations.AUTO,
        manifest.turned_ratio is None or math.isfinite(manifest.turned_ratio),
    )
    if not all(holds):
        raise ValueError("a value is out of its range")


def _belongs(certified: CertifiedPrecision, manifest: BankManifest) -> bool:
    """Whether a certificate is sound, and of this bank's model and threshold."""
    certificate, times_ms = certified.certificate, (certified.embedding_ms, certified.fp32_embedding_ms)
    return (
        is_sound(certificate)
        and (certificate.reference_model_id, certificate.threshold) == (manifest.model_id, manifest.threshold)
        and 1 <= len(certified.features) <= MOST_FEATURES
        and all(map(is_short_line, certified.features))
        and all(math.isfinite(time_ms) and time_ms > 0 for time_ms in times_ms)
    )


def _in_range(index: IndexCertificate) -> bool:
    differences = index.p99_score_difference, index.largest_score_difference, index.seconds
    counts = 1 <= index.lists_read <= index.n_lists and min(index.n_images, index.flips) >= 0
    return counts and 0 <= index.recall <= 1 and all(math.isfinite(one) and one >= 0 for one in differences)


def _read_index(tensors: dict[str, Any], manifest: BankManifest, path: Path) -> PatchIndex | None:
    """The index that the manifest certifies; None where it has none.

    Raises:
        BankError: it is missing or does not fit the patches.
    """
    if manifest.index is None:
        return None
    (n_patches, dim), certified = tensors["patches"].shape, manifest.index
    try:
        return index_of(
            tensors,
            dim=dim,
            n_patches=n_patches,
            levels=manifest.levels,
            n_lists=certified.n_lists,
            lists_read=certified.lists_read,
        )
    except ValueError as error:
        raise BankError(f"bank {path} cannot be searched: {error}; rerun edge-uad build-bank") from error


def _check_tensors(tensors: dict[str, Any], manifest: BankManifest, path: Path) -> None:
    expected = {"patches": (np.float32, 2), "patch_image": (np.int32, 1), "calibration": (np.float32, 1)}
    for name, (dtype, ndim) in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != dtype or tensor.ndim != ndim or not tensor.size:
            raise BankError(f"bank {path} has no usable tensor {name}; rerun edge-uad build-bank")
    patches, patch_image = tensors["patches"], tensors["patch_image"]
    if len(patches) != len(patch_image) or len(patches) != manifest.n_patches:
        raise BankError(f"bank {path} has tensors of different lengths; rerun edge-uad build-bank")
    if not np.isfinite(tensors["calibration"]).all():
        raise BankError(f"bank {path} holds calibration scores that are not finite; rerun edge-uad build-bank")
    if (np.diff(patch_image) < 0).any() or (np.diff(tensors["calibration"]) < 0).any():
        raise BankError(f"bank {path} is not in order; rerun edge-uad build-bank")
    if patches.shape[1] % manifest.levels:
        raise BankError(
            f"bank {path} holds patches that its {manifest.levels} levels do not divide; rerun edge-uad build-bank"
        )
    for level in np.split(patches, manifest.levels, axis=1):
        norms = manifest.levels * np.einsum("md,md->m", level, level)
        if not (np.abs(norms - 1) < UNIT_NORM_TOLERANCE).all():
            raise BankError(f"bank {path} holds patches that are not unit norm; rerun edge-uad build-bank")
