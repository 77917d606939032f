"""Files in the order a person expects, each once; a bad one is told, not skipped."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_uad.errors import SourceEndedError, UsageError
from edge_uad.records import Frame, UnreadableFrame
from edge_uad.sources import SourceKind, make_source, parse_source, recorded_source, shown_source
from edge_uad.sources.folder import FolderSource, image_files, natural_key, root_of
from tests.fakes import read_to_end


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    for name in ("part10.png", "part2.png", "part1.PNG", "a/part3.jpg", ".hidden/x.png", ".x.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            (folder / name).write_text("no picture")
        else:
            Image.new("RGB", (6, 4), (1, 2, 3)).save(folder / name)
    return folder


def names(files: list[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


def test_a_folder_gives_its_pictures_in_natural_order(parts: Path) -> None:
    assert names(image_files(str(parts)), parts) == ["a/part3.jpg", "part1.PNG", "part2.png", "part10.png"]


def test_a_glob_gives_what_it_matches(parts: Path) -> None:
    assert names(image_files(str(parts / "part*.png")), parts) == ["part2.png", "part10.png"]
    assert names(image_files(str(parts / "**" / "*.jpg")), parts) == ["a/part3.jpg"]


def test_a_file_is_itself_even_where_its_name_looks_like_a_glob(parts: Path) -> None:
    odd = parts / "part[2].png"
    odd.write_bytes((parts / "part2.png").read_bytes())
    assert image_files(str(odd)) == [odd]


@pytest.mark.parametrize(
    ("path", "told"),
    [("missing", "no such file or folder"), ("missing*.png", "no file matches"), ("empty", "holds no image")],
)
def test_nothing_there_is_an_error_that_names_the_path(tmp_path: Path, path: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=told) as error:
        image_files(str(tmp_path / path))
    assert path in str(error.value)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_sort_by_value(numbers: list[int]) -> None:
    paths = [Path(f"part{number}.png") for number in numbers]
    assert sorted(paths, key=natural_key) == [Path(f"part{number}.png") for number in sorted(numbers)]


@given(st.lists(st.text("ab01/.", min_size=1, max_size=8)))
def test_the_order_does_not_depend_on_where_one_starts(texts: list[str]) -> None:
    paths = [Path(text) for text in texts]
    turned = paths[::-1]
    assert sorted(paths, key=natural_key) == sorted(turned, key=natural_key)


def test_part_ids_are_relative_to_the_folder_and_ids_count_up(parts: Path) -> None:
    (parts / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    source = FolderSource("line", image_files(str(parts)), root=root_of(str(parts)))
    frames = read_to_end(source)
    with pytest.raises(SourceEndedError, match="5 files"):
        source.read(0.1)
    assert [frame.frame_id for frame in frames] == [0, 1, 2, 3, 4]
    by_part = {frame.part_id: frame for frame in frames}
    assert set(by_part) == {"a/part3.jpg", "broken.png", "part1.PNG", "part2.png", "part10.png"}
    broken, good = by_part["broken.png"], by_part["part2.png"]
    assert isinstance(broken, UnreadableFrame)
    assert "header is damaged" in broken.reason
    assert isinstance(good, Frame)
    assert np.array_equal(good.image, np.full((4, 6, 3), (1, 2, 3), np.uint8))


def test_a_closed_folder_goes_on_where_it_was(parts: Path) -> None:
    source = FolderSource("line", image_files(str(parts)))
    source.open()
    source.read(0.1)
    source.close()
    source.open()
    frame = source.read(0.1)
    assert frame is not None
    assert frame.frame_id == 1


@pytest.mark.parametrize(
    ("text", "kind", "live"),
    [
        ("0", SourceKind.CAMERA, True),
        ("/dev/video9", SourceKind.CAMERA, True),
        ("rtsp://user:secret@host/1", SourceKind.STREAM, True),
        ("http://host/video.mjpg", SourceKind.STREAM, True),
        ("udp://127.0.0.1:1234", SourceKind.STREAM, True),
        ("tcp://127.0.0.1:5560", SourceKind.PULL, False),
        ("pull+tcp://127.0.0.1:5560", SourceKind.PULL, False),
        ("sub+ipc:///run/frames", SourceKind.SUB, True),
        ("parts", SourceKind.FOLDER, False),
        ("parts/*.png", SourceKind.FOLDER, False),
        ("parts/part2.png", SourceKind.FOLDER, False),
        ("film.MP4", SourceKind.VIDEO, False),
    ],
)
def test_one_text_names_any_source(
    parts: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: SourceKind, live: bool
) -> None:
    (parts.parent / "film.MP4").write_bytes(b"")
    monkeypatch.chdir(parts.parent)
    address = parse_source(text)
    assert (address.kind, address.live) == (kind, live)
    assert make_source(address, station="line") is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nowhere.mp4", "nowhere.mp4: there is no such file"),
        ("gopher://host", "gopher://host: this kind of address is not known"),
        ("tcp://127.0.0.1", "needs a host and a port"),
        ("sub+tcp://127.0.0.1:0", "needs a host and a port"),
    ],
)
def test_a_source_that_cannot_be_is_named(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_source(text)


def test_recordings_know_how_many_they_are_and_cameras_are_none(parts: Path) -> None:
    _, total = recorded_source(str(parts))
    assert total == 4
    with pytest.raises(UsageError, match="a camera is no recording"):
        recorded_source("0")


def test_a_password_is_not_shown() -> None:
    assert shown_source("rtsp://user:secret@host:554/1") == "rtsp://host:554/1"
    assert shown_source("parts/") == "parts/"
