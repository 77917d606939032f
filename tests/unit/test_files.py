"""A file appears whole or not at all, whatever stops its writing."""

import os
import stat
from pathlib import Path

import pytest

from edge_uad.files import is_partial, replacing, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "bank.safetensors"
    write_atomically(target, b"old")
    write_atomically(target, b"new content")
    assert target.read_bytes() == b"new content"
    assert list(tmp_path.iterdir()) == [target]


def test_what_fails_halfway_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "bank.safetensors"
    target.write_bytes(b"old")

    def half() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        half()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_keeps_the_suffix_and_fits_beside_the_longest_name(tmp_path: Path) -> None:
    target = tmp_path / ("a" * 251 + ".png")
    with replacing(target) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        assert is_partial(temporary.name)
        temporary.write_bytes(b"picture")
    assert target.read_bytes() == b"picture"
    assert not is_partial(target.name)


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_permissions_are_those_that_the_umask_leaves(tmp_path: Path, umask: int, expected: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "shared", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == expected


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "unmounted" / "file", b"")
    assert not (tmp_path / "unmounted").exists()
