"""Where fetched and exported files live on this machine."""

import os
from pathlib import Path

import platformdirs

from edge_uad.errors import UsageError
from edge_uad.files import sha256_of_file
from edge_uad.paths import expand_user

DEFAULT_BACKBONE = "dinov2_vits14"
DEFAULT_INPUT_PX = 448
DEFAULT_MODEL_REVISION = 5
"""Raised when the default backbone is exported differently, so that an older export is not taken for it."""
VARIANTS_FOLDER = "variants"
"""Beside the default backbone: the same weights exported otherwise."""


def cache_dir() -> Path:
    """``$EDGE_UAD_CACHE``, or the user's cache directory. Not created here.

    Raises:
        UsageError: neither is known, as for a user id without a home folder.
    """
    override = os.environ.get("EDGE_UAD_CACHE")
    if override:
        return expand_user(override)
    try:
        folder = Path(platformdirs.user_cache_dir("edge-uad", appauthor=False))
    except RuntimeError:  # by platformdirs before 4.14: a folder that begins with ~
        folder = Path("~")
    if not folder.is_absolute():
        raise UsageError(f"user id {os.getuid()} has no home folder for a cache; set EDGE_UAD_CACHE to a folder")
    return folder


def default_model_path() -> Path:
    """Path of the default backbone, exported or copied there by hand."""
    return cache_dir() / "models" / f"{DEFAULT_BACKBONE}-{DEFAULT_INPUT_PX}-r{DEFAULT_MODEL_REVISION}.onnx"


def cached_model(model_id: str) -> Path | None:
    """The file in the cache whose SHA-256 is ``model_id``; None if there is none.

    Among them are the default backbone of earlier revisions, which older banks still need, and those of other input
    sizes, which a bank was given for the line's time.
    """
    current = default_model_path()
    older = sorted(current.parent.glob(f"{DEFAULT_BACKBONE}-*-r*.onnx"), reverse=True)
    variants = sorted((current.parent / VARIANTS_FOLDER).glob("*.onnx"))
    for path in dict.fromkeys((current, *older, *variants)):
        try:
            if sha256_of_file(path) == model_id:
                return path
        except OSError:
            continue  # not there, or not to be read: no help either way
    return None
