"""Banks for benches: one of the very frames that are sent, and one of any size."""

import dataclasses
from pathlib import Path

import numpy as np

from bank_tools.bank.build import MIN_IMAGES, build_bank, embed_all, embedder_for, recipe_for
from bank_tools.bench.frames import DRAWN_FRAMES, EncodedFrames, decoded
from edge_uad.errors import UsageError
from edge_uad.inference.bank import PatchBank
from edge_uad.interfaces import Backbone
from edge_uad.progress import Progress
from edge_uad.records import Geometry

JITTER = 0.2
"""Length of the random step, beside patches of length 1, that tells a patch's copies apart."""
BLOCK_ROWS = 65536


def bank_of(
    frames: EncodedFrames, backbone: Backbone, progress: Progress, *, geometry: Geometry = Geometry.STRETCH
) -> PatchBank:
    """A bank of every foreground patch of the first frames.

    Raises:
        UsageError: a single frame, or frames that hold nothing to learn from.
    """
    messages = frames.messages[:DRAWN_FRAMES]
    if len(messages) < MIN_IMAGES:
        raise UsageError(f"one frame makes no bank: name {MIN_IMAGES} images or more, or a bank with --bank")
    recipe = dataclasses.replace(recipe_for(backbone.card), coreset_ratio=1.0, geometry=geometry)
    embedder = embedder_for(backbone, recipe)
    images = embed_all(map(decoded, messages), embedder, len(messages), progress)
    return build_bank(images, recipe=recipe, embedder=embedder, progress=progress).bank


def saved_bank_of(frames: EncodedFrames, backbone: Backbone, folder: Path, progress: Progress) -> Path:
    """The same, as a file in this folder."""
    path = folder / "bank.safetensors"
    bank_of(frames, backbone, progress).save(path)
    return path


def bank_of_size(bank: PatchBank, n_patches: int, *, seed: int = 0) -> PatchBank:
    """A bank as large as asked that lies where this one lies: its patches again and again, each a small step away."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, len(bank.patches), n_patches))
    patches = bank.patches[rows]
    step = np.float32(JITTER / np.sqrt(patches.shape[1]))
    for start in range(0, n_patches, BLOCK_ROWS):
        block = patches[start : start + BLOCK_ROWS]
        block += step * rng.standard_normal(block.shape, np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return PatchBank.sealed(
        patches=patches,
        patch_image=bank.patch_image[rows],
        calibration=bank.calibration,
        manifest=dataclasses.replace(bank.manifest, n_patches=n_patches),
    )
