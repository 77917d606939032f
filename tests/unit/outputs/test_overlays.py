"""Every image has an overlay of its own, whatever the images are called."""

import os
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_uad.outputs.overlays import OverlayFolder, overlay_names

PICTURE = np.full((4, 6, 3), 90, np.uint8)
NAMES = st.text(st.sampled_from("ab.\n\té\u202e\udcff") | st.characters(codec="utf-8"), min_size=1, max_size=6)
PARTS = st.sampled_from(["a", "a.png", "a.png.png", "a.jpg", "b", "..", "x" * 255, "ü" * 127]) | NAMES
FILES = st.lists(st.lists(PARTS, min_size=1, max_size=3), max_size=12)


def relative_names(*files: str) -> list[str]:
    return [path.as_posix() for path in overlay_names([Path("/images", file) for file in files]).values()]


def test_an_overlay_has_its_images_name_and_folder() -> None:
    assert relative_names("a.jpg", "sub/b.tif") == ["a.png", "sub/b.png"]


def test_images_that_differ_in_their_suffix_have_an_overlay_each() -> None:
    assert relative_names("a.png", "a.jpg") == ["a.png.png", "a.jpg.png"]
    three = relative_names("a.png", "a.jpg", "a.png.png")
    assert len(set(three)) == 3
    assert three[1] == "a.jpg.png"


def test_the_longest_names_and_control_characters_are_written(tmp_path: Path) -> None:
    names = ["x" * 251 + ".jpg", "x" * 251 + ".bmp", "x" * 255, "two\nlines.png", "two\rlines.png", "ü" * 125 + ".jpg"]
    files = [tmp_path / "in" / name for name in names]
    overlays = OverlayFolder(tmp_path / "out", files)
    written = [overlays.write(file, PICTURE) for file in files]
    assert len(set(written)) == len(files)
    for path in written:
        assert path.name.isprintable()
        assert path.suffix == ".png"
        with Image.open(path) as overlay:
            assert overlay.size == (6, 4)
    assert len(list((tmp_path / "out").iterdir())) == len(files)


def test_an_overlay_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    files = [tmp_path / "in" / "a.jpg", tmp_path / "in" / "a.png" / "b.jpg"]
    overlays = OverlayFolder(tmp_path / "out", files)
    assert len({overlays.write(file, PICTURE) for file in files}) == 2


@given(FILES)
def test_no_two_images_share_an_overlay(files: list[list[str]]) -> None:
    images = [
        Path("/images", *(part.replace("/", "_").replace("\0", "_") for part in parts))
        for parts in files
        if parts[-1] != ".."
    ]
    names = overlay_names(images)
    assert set(names) == set(images)
    assert len(set(names.values())) == len(names)
    folders = {folder for name in names.values() for folder in name.parents}
    for name in names.values():
        assert not name.is_absolute()
        assert ".." not in name.parts
        assert name not in folders
        assert len(os.fsencode(name.name)) <= 255
        assert name.suffix == ".png"
