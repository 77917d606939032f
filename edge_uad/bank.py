"""PatchBank: what good parts look like, in one file; the only place that searches (ALGORITHM §4, §5)."""

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edge_uad.errors import BankError, UsageError
from edge_uad.records import BankManifest, Embedding, Float32, Int, PatchDistances, PatchMask

BANK_SCHEMA = 1
UNIT_NORM_TOLERANCE = 1e-3

_MANIFEST_KEY = "edge_uad_manifest"
_MANIFEST = TypeAdapter(BankManifest)


class PatchBank:
    """A memory bank of good patches, ready to be searched.

    Args:
        patches: float32 (M, D), unit norm, the patches of one image standing together.
        patch_image: int32 (M,), ascending: from which image each patch came.
        calibration: float32 (n,), ascending: scores of the good images against patches of other good images.
        manifest: how it was made.
    """

    def __init__(self, *, patches: Float32, patch_image: Int, calibration: Float32, manifest: BankManifest) -> None:
        self.patches = patches
        self.patch_image = patch_image
        self.calibration = calibration
        self.manifest = manifest
        self._search = PatchSearch(patches)

    @classmethod
    def sealed(cls, *, patches: Float32, patch_image: Int, calibration: Float32, manifest: BankManifest) -> "PatchBank":
        """A new bank, its ``bank_id`` filled in from its content."""
        bank_id = content_id(manifest, patches, patch_image, calibration)
        sealed = dataclasses.replace(manifest, bank_id=bank_id)
        return cls(patches=patches, patch_image=patch_image, calibration=calibration, manifest=sealed)

    def distances(self, embedding: Embedding, mask: PatchMask) -> PatchDistances:
        """How far each foreground patch lies from the bank; masked-out patches get distance 0, row -1."""
        return self._search.distances(embedding, mask, neighbours=self.manifest.neighbours)

    def save(self, path: Path) -> None:
        """Write beside the target, sync, move into place: a reader sees the old bank or the new one, whole.

        Raises:
            UsageError: the file cannot be written.
        """
        tensors = {
            "patches": self.patches,
            "patch_image": np.ascontiguousarray(self.patch_image, np.int32),
            "calibration": self.calibration,
        }
        manifest_json = json.dumps(dataclasses.asdict(self.manifest), sort_keys=True)
        try:
            _write_atomically(path, tensors, {_MANIFEST_KEY: manifest_json})
        except OSError as error:
            raise UsageError(f"the bank cannot be written to {path}: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: Path) -> "PatchBank":
        """Read and verify a bank file.

        Raises:
            BankError: missing, not a bank, of another schema, truncated or changed since it was built.
        """
        tensors, manifest_json = _read(path)
        manifest = _parse_manifest(manifest_json, path)
        _check_tensors(tensors, manifest, path)
        found_id = content_id(
            manifest, tensors["patches"], tensors["patch_image"].astype(np.int64), tensors["calibration"]
        )
        if found_id != manifest.bank_id:
            raise BankError(
                f"bank {path} says it is {short_id(manifest.bank_id)} but its content is {short_id(found_id)}: "
                "it was changed after it was built; copy it again or rerun edge-uad build-bank"
            )
        return cls(
            patches=tensors["patches"],
            patch_image=tensors["patch_image"].astype(np.int64),
            calibration=tensors["calibration"],
            manifest=manifest,
        )


class PatchSearch:
    """Exact nearest neighbours among unit-norm patches, by faiss.

    Args:
        patches: float32 (M, D), unit norm.
    """

    def __init__(self, patches: Float32) -> None:
        self._patches = np.ascontiguousarray(patches, np.float32)

    def nearest(self, queries: Float32, neighbours: int = 1) -> tuple[Float32, Int]:
        """Squared distances and rows of the nearest patches.

        Args:
            queries: float32 (n, D), unit norm.
            neighbours: k.

        Returns:
            Squared distances float32 (n, k), ascending, 0..4; rows int64 (n, k). Where the bank holds fewer than k
            patches, k is their number.
        """
        cosine, rows = faiss.knn(
            np.ascontiguousarray(queries, np.float32),
            self._patches,
            min(neighbours, len(self._patches)),
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        # unit norm: ‖a − b‖² = 2 − 2·cos; rounding can leave the range by an ulp
        return np.clip(2 - 2 * cosine, 0, 4), rows

    def distances(self, embedding: Embedding, mask: PatchMask, *, neighbours: int) -> PatchDistances:
        """Mean of the k squared distances per foreground patch; 0 and row -1 for the others."""
        squared = np.zeros(len(embedding.tokens), np.float32)
        rows = np.full(len(embedding.tokens), -1, np.int64)
        if mask.foreground.any():
            found, found_rows = self.nearest(embedding.tokens[mask.foreground], neighbours)
            squared[mask.foreground] = found.mean(axis=1)
            rows[mask.foreground] = found_rows[:, 0]
        return PatchDistances(squared=squared, nearest=rows, grid_hw=embedding.grid_hw)


def content_id(manifest: BankManifest, patches: Float32, patch_image: Int, calibration: Float32) -> str:
    """SHA-256 over the tensors and every field of the manifest but ``bank_id`` itself."""
    digest = hashlib.sha256()
    described = {key: value for key, value in dataclasses.asdict(manifest).items() if key != "bank_id"}
    digest.update(json.dumps(described, sort_keys=True).encode())
    for tensor in (patches, np.asarray(patch_image, np.int32), calibration):
        digest.update(f"{tensor.dtype.str}{tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


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


def _write_atomically(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # noqa: PTH101  # mkstemp made it private; a bank is shared as other files are
        with open(temporary, "rb") as written:  # noqa: PTH123  # a name from mkstemp, not a Path
            os.fsync(written.fileno())
        os.replace(temporary, path)  # noqa: PTH105  # as above
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108  # as above
        raise


def _read(path: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        raise BankError(f"there is no bank at {path}; build one with edge-uad build-bank")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open is no dict
    except (SafetensorError, OSError) as error:
        raise BankError(
            f"{path} cannot be read as a bank ({error}); copy it again or rerun edge-uad build-bank"
        ) from error
    if _MANIFEST_KEY not in metadata:
        raise BankError(f"{path} is a safetensors file without a bank's manifest; name a file of edge-uad build-bank")
    return tensors, metadata[_MANIFEST_KEY]


def _parse_manifest(manifest_json: str, path: Path) -> BankManifest:
    try:
        schema = json.loads(manifest_json).get("schema")
        if schema == BANK_SCHEMA:
            return _MANIFEST.validate_json(manifest_json, extra="forbid")
    except (ValidationError, ValueError, AttributeError) as error:
        raise BankError(f"bank {path} has a damaged manifest; copy it again or rerun edge-uad build-bank") from error
    raise BankError(f"bank {path} has schema {schema!r}, this edge-uad reads {BANK_SCHEMA}; rerun edge-uad build-bank")


def _check_tensors(tensors: dict[str, Any], manifest: BankManifest, path: Path) -> None:
    expected = {"patches": (np.float32, 2), "patch_image": (np.int32, 1), "calibration": (np.float32, 1)}
    for name, (dtype, ndim) in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != dtype or tensor.ndim != ndim or not tensor.size:
            raise BankError(f"bank {path} has no usable tensor {name}; rerun edge-uad build-bank")
    patches, patch_image = tensors["patches"], tensors["patch_image"]
    if len(patches) != len(patch_image) or len(patches) != manifest.n_patches:
        raise BankError(f"bank {path} has tensors of different lengths; rerun edge-uad build-bank")
    if (np.diff(patch_image) < 0).any() or (np.diff(tensors["calibration"]) < 0).any():
        raise BankError(f"bank {path} is not in order; rerun edge-uad build-bank")
    norms = np.einsum("md,md->m", patches, patches)
    if not (np.abs(norms - 1) < UNIT_NORM_TOLERANCE).all():
        raise BankError(f"bank {path} holds patches that are not unit norm; rerun edge-uad build-bank")
