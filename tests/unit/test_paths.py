"""``~`` is expanded everywhere, or refused in one sentence."""

import pwd
from pathlib import Path

import pytest

from edge_uad.errors import UsageError
from edge_uad.paths import expand_user


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expand_user("~") == Path("/somewhere")
    assert expand_user("~/banks/a.safetensors") == Path("/somewhere/banks/a.safetensors")


def test_a_tilde_and_a_name_is_that_users_home_folder() -> None:
    root = pwd.getpwuid(0)
    assert expand_user(f"~{root.pw_name}/x") == Path(root.pw_dir, "x")


@pytest.mark.parametrize("path", ["a~", "a/~/b", "./~", "/~"])
def test_a_tilde_elsewhere_is_a_character(path: str) -> None:
    assert expand_user(path) == Path(path)


def test_an_unknown_user_is_one_sentence() -> None:
    with pytest.raises(UsageError) as error:
        expand_user("~no-such-user/x")
    assert str(error.value) == (
        "~no-such-user/x: the home folder ~no-such-user is not known on this machine; write the folder's full path"
    )


def test_a_file_that_is_called_so_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~draft.png").touch()
    assert expand_user("~draft.png") == Path("~draft.png")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_cannot_be_a_path_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        expand_user(path)
