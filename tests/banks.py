"""Banks made of random patches, for tests that need no images."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_tools.bank.embeddings import EmbeddingStore
from bank_tools.bank.index import build_index, n_lists_of
from edge_uad.inference.backbones.certificate import TOLERANCE
from edge_uad.inference.bank import BANK_SCHEMA, PatchBank
from edge_uad.inference.inspector import ForegroundEmbedding
from edge_uad.records import (
    BankManifest,
    CertifiedPrecision,
    Float32,
    Geometry,
    IndexCertificate,
    Int,
    LowerPrecision,
    ParityCertificate,
)

DIM = 24

Float64 = NDArray[np.float64]


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> Float32:
    """(n, dim), each row of norm 1."""
    rows = rng.standard_normal((n, dim), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(queries: Float32, patches: Float32, k: int) -> tuple[Float64, Int]:
    """Squared distances in float64 and rows of the k nearest, each pair computed by itself."""
    squared = ((queries[:, None].astype(np.float64) - patches[None]) ** 2).sum(axis=2)
    rows = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squared, rows, axis=1), rows


def stored(images: Iterable[ForegroundEmbedding]) -> EmbeddingStore:
    """The images' embeddings in a store, as bank building takes them."""
    store = EmbeddingStore()
    for image in images:
        store.append(image)
    return store


def level_rows(rng: np.random.Generator, n: int, dim: int, levels: int) -> Float32:
    """(n, dim), each row of norm 1, each of its ``levels`` parts of the norm 1/√levels."""
    parts = [unit_rows(rng, n, dim // levels) for _ in range(levels)]
    return np.concatenate(parts, axis=1) / np.sqrt(np.float32(levels))


def certified(precision: LowerPrecision, *features: str, flips: int = 0) -> CertifiedPrecision:
    """As of :func:`random_bank`, whose verdicts so many of 100 are other ones."""
    return CertifiedPrecision(
        precision=precision,
        features=features,
        embedding_ms=10,
        fp32_embedding_ms=20,
        certificate=ParityCertificate(
            reference_model_id="f" * 64,
            runtime="openvino",
            n_good=50,
            n_test=50,
            images_digest="cd" * 32,
            threshold=0.5,
            n_judged=100,
            flips=flips,
            auroc_reference=0.98,
            auroc=0.98,
            largest_score_difference=0.02,
            p99_score_difference=0.01,
            tolerance=TOLERANCE,
            made_at="2026-01-01T00:00:00+00:00",
            made_by="edge-uad 0",
        ),
    )


def random_bank(*, seed: int = 0, n_patches: int = 80, indexed: bool = False, **changed: Any) -> PatchBank:
    """A bank that is right in every respect but was never built from images; where asked for, with an index."""
    rng = np.random.default_rng(seed)
    manifest: dict[str, Any] = {
        "bank_id": "",
        "schema": BANK_SCHEMA,
        "model_id": "f" * 64,
        "backbone": "random",
        "grid_hw": (4, 4),
        "geometry": Geometry.STRETCH,
        "roi": None,
        "bpm_kernel": 3,
        "bpm_threshold": 0.1,
        "top_ratio": 0.05,
        "neighbours": 1,
        "coreset_ratio": 0.1,
        "seed": seed,
        "n_images": 8,
        "n_unreadable": 0,
        "n_empty": 0,
        "n_patches": n_patches,
        "calibration_folds": 8,
        "threshold": 0.5,
        "false_alarm_rate": 0.05,
        "built_at": "2026-01-01T00:00:00+00:00",
        "built_by": "tests",
        "source_digest": "0" * 64,
    }
    levels = changed.get("levels", 1)
    patches = level_rows(rng, n_patches, DIM, levels)
    index = build_index(patches, levels=levels, seed=seed) if indexed else None
    if index is not None:
        manifest["index"] = IndexCertificate(
            n_lists=n_lists_of(n_patches),
            lists_read=index.lists_read,
            n_images=8,
            recall=0.99,
            flips=0,
            largest_score_difference=0.001,
            p99_score_difference=0.001,
            seconds=0.1,
        )
    return PatchBank.sealed(
        patches=patches,
        index=index,
        patch_image=np.sort(rng.integers(0, 8, n_patches)),
        calibration=np.sort(rng.random(8, np.float32)),
        manifest=BankManifest(**(manifest | changed)),
    )
