"""Where fetched and exported files live on this machine."""

import os
from pathlib import Path

import platformdirs

DEFAULT_BACKBONE = "dinov2_vits14"
DEFAULT_INPUT_PX = 224
DEFAULT_MODEL_REVISION = 3
"""Raised when the default backbone is exported differently, so that an older export is not taken for it."""


def cache_dir() -> Path:
    """``$EDGE_UAD_CACHE``, or the user's cache directory. Not created here."""
    override = os.environ.get("EDGE_UAD_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("edge-uad", appauthor=False))


def default_model_path() -> Path:
    """Path of the default backbone, exported or copied there by hand."""
    return cache_dir() / "models" / f"{DEFAULT_BACKBONE}-{DEFAULT_INPUT_PX}-r{DEFAULT_MODEL_REVISION}.onnx"
