"""Files in the order a person expects, each once; a bad one is told, not skipped."""

import glob
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_uad.errors import SourceEndedError, UsageError
from edge_uad.records import Frame, UnreadableFrame
from edge_uad.sources import SourceKind, make_source, parse_source, recorded_source, shown_source
from edge_uad.sources.folder import (
    FolderSource,
    LeftOutReason,
    describe_left_out,
    find_images,
    image_files,
    natural_key,
    root_of,
)
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


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (1, 2, 3)).save(path, "PNG")
    return path


def left_out(folder: Path | str, root: Path) -> set[tuple[str, LeftOutReason]]:
    return {(one.path.relative_to(root).as_posix(), one.reason) for one in find_images(str(folder)).left_out}


def test_what_a_folder_leaves_out_is_named_with_its_reason(parts: Path) -> None:
    write_picture(parts / "picture_without_suffix")
    (parts / "gone.png").symlink_to(parts / "nowhere.png")
    assert left_out(parts, parts) == {
        (".hidden", LeftOutReason.HIDDEN),
        (".x.png", LeftOutReason.HIDDEN),
        ("notes.txt", LeftOutReason.UNKNOWN_SUFFIX),
        ("picture_without_suffix", LeftOutReason.NO_SUFFIX),
        ("gone.png", LeftOutReason.BROKEN_LINK),
    }
    found = find_images(str(parts))
    assert found.counts[LeftOutReason.HIDDEN] == 2
    assert describe_left_out(found.left_out, root=parts) == (
        "5 files or folders left out: 2 hidden (.hidden, .x.png), 1 broken link (gone.png), "
        "1 without a known suffix (notes.txt), 1 without a suffix (picture_without_suffix)"
    )
    assert describe_left_out(()) is None


@pytest.mark.parametrize(
    "thumbnail",
    [
        "@eaDir/part2.png/SYNOPHOTO_THUMB_M.png",
        "sub/@eaDir/a.png",
        ".thumbnails/a.png",
        "._part2.png",
        "Thumbs.db",
        ".DS_Store",
        "__MACOSX/a.png",
        "#recycle/a.png",
    ],
)
def test_thumbnails_are_never_parts(parts: Path, thumbnail: str) -> None:
    images = find_images(str(parts)).images
    write_picture(parts / thumbnail)
    for named in (parts, parts / "**" / "*", parts / "**" / "*.png"):
        found = find_images(str(named))
        assert set(found.images) <= {*images, parts / "notes.txt"}
        assert found.counts[LeftOutReason.THUMBNAIL] == 1
    assert "of a file manager or network storage" in str(describe_left_out(find_images(str(parts)).left_out))


def test_linked_folders_are_read_once_and_cycles_end(parts: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "elsewhere" / "far.png")
    (parts / "linked").symlink_to(tmp_path / "elsewhere")
    (parts / "again").symlink_to(parts / "a")
    (parts / "a" / "up").symlink_to(parts)
    (tmp_path / "elsewhere" / "back").symlink_to(parts)
    expected = ["a/part3.jpg", "linked/far.png", "part1.PNG", "part2.png", "part10.png"]
    for named in (str(parts), str(parts / "**" / "*.[pPj]*")):
        found = find_images(named)
        assert names(list(found.images), parts) == expected
        assert found.counts[LeftOutReason.REPEATED_FOLDER] == 3


def test_globs_with_two_stars_match_as_pythons_glob_does(parts: Path) -> None:
    write_picture(parts / "a" / "b" / "deep.png")
    for pattern in ("**", "**/*.png", "a/**/*.png", "**/b/*.png", "*/**/deep.png", "**/part?.*"):
        expected = {
            Path(name)
            for name in glob.glob(str(parts / pattern), recursive=True)  # noqa: PTH207  (what it is compared with)
            if Path(name).is_file()
        }
        assert set(find_images(str(parts / pattern)).images) == expected, pattern


def test_a_folder_that_cannot_be_read_is_left_out_and_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write_picture(root / "a.png")
        (root / "closed").mkdir()
        (root / "closed").chmod(0o000)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            found = find_images(name)
            with pytest.raises(UsageError, match=r"closed cannot be listed: Permission denied"):
                find_images(str(root / "closed"))
        finally:
            os.seteuid(user)
        (root / "closed").chmod(0o755)
    assert found.images == (root / "a.png",)
    assert describe_left_out(found.left_out, root=root) == "1 file or folder left out: 1 unreadable folder (closed)"


def test_where_all_is_left_out_the_error_says_what(tmp_path: Path) -> None:
    write_picture(tmp_path / "shots" / "a")
    (tmp_path / "shots" / "two\nlines.txt").touch()
    with pytest.raises(UsageError) as error:
        find_images(str(tmp_path / "shots"))
    assert "2 files or folders left out: 1 without a suffix (a), 1 without a known suffix (two\ufffdlines.txt)" in str(
        error.value
    )


def test_the_daemons_source_logs_what_it_leaves_out(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_source(parse_source(str(parts)), station="line")
    assert [record.getMessage() for record in caplog.records] == [
        f"{parts}: 3 files or folders left out: 2 hidden (.hidden, .x.png), 1 without a known suffix (notes.txt)"
    ]


def test_16_bit_pictures_that_come_out_dark_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("0.png", "1.png"):
        Image.fromarray(np.full((4, 6), 4000, np.uint16)).save(tmp_path / name)
    read_to_end(FolderSource("line", [tmp_path / "0.png", tmp_path / "1.png"], root=tmp_path))
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("line: the 16-bit picture 0.png uses only the lower 12 bits")
    assert messages[1:] == ["line: 2 16-bit pictures never use their highest bits and came out dark"]


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
