"""CURVE key files: made private, refused where others can read them, and never guessed at."""

import os
import stat
from pathlib import Path

import pytest
import zmq.auth

from edge_uad.errors import KeyFileError
from edge_uad.net.keys import load_client_keys, load_key_pair, load_public_key, load_server_keys, write_key_pair


def test_a_new_pair_is_private_and_its_public_part_is_not(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        public, secret = write_key_pair(tmp_path / "keys", "line-1")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    pair = load_key_pair(secret)
    assert load_public_key(public) == pair.public
    assert pair.secret.decode() not in public.read_text()
    assert pair.secret.decode() not in repr(pair)


def test_the_files_are_those_of_zeromq(tmp_path: Path) -> None:
    public, secret = write_key_pair(tmp_path, "line")
    pair = load_key_pair(secret)
    assert zmq.auth.load_certificate(secret) == (pair.public, pair.secret)
    assert zmq.auth.load_certificate(public) == (pair.public, None)
    theirs_public, theirs_secret = zmq.auth.create_certificates(tmp_path, "theirs")
    Path(theirs_secret).chmod(0o600)
    assert load_public_key(Path(theirs_public)) == load_key_pair(Path(theirs_secret)).public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_secret_that_others_can_reach_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    _, secret = write_key_pair(tmp_path, "line")
    secret.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"open to others \(mode {mode:04o}\); run chmod 600"):
        load_key_pair(secret)


def test_a_credential_of_systemd_may_show_its_access_list_as_group_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = write_key_pair(tmp_path, "line")
    secret.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_key_pair(secret).secret
    secret.chmod(0o444)
    with pytest.raises(KeyFileError, match="open to others"):
        load_key_pair(secret)


def test_no_key_is_overwritten(tmp_path: Path) -> None:
    public, secret = write_key_pair(tmp_path, "line")
    kept = secret.read_bytes()
    for _ in range(2):
        with pytest.raises(KeyFileError, match=r"is already there; choose another --name"):
            write_key_pair(tmp_path, "line")
        public.unlink(missing_ok=True)
    assert secret.read_bytes() == kept
    (tmp_path / "other.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="is already there"):
        write_key_pair(tmp_path, "other")


@pytest.mark.parametrize("name", ["", "../line", "a/b", ".hidden", "x" * 65, "a\nb", "line\n"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="cannot name a key"):
        write_key_pair(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    public, secret = write_key_pair(tmp_path, "line")
    _, other_secret = write_key_pair(tmp_path, "other")
    public.chmod(0o600)
    with pytest.raises(KeyFileError, match="holds no secret key; name a"):
        load_key_pair(public)
    with pytest.raises(KeyFileError, match="holds a secret key where a public one is expected"):
        load_public_key(secret)
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        load_public_key(tmp_path / "missing.key")
    with pytest.raises(KeyFileError, match="is not a regular file"):
        load_public_key(Path("/dev/null"))
    mixed = tmp_path / "mixed.key_secret"
    mixed.write_text(secret.read_text().replace(load_key_pair(secret).public.decode(), _public_of(other_secret)))
    mixed.chmod(0o600)
    with pytest.raises(KeyFileError, match="do not belong together"):
        load_key_pair(mixed)
    for damaged in ("", "no key", '    public-key = "short"', '    public-key = "' + "~" * 40 + '"', "x" * 9999):
        public.write_text(damaged)
        with pytest.raises(KeyFileError, match=r"holds no public key|holds a damaged key|larger than a key file"):
            load_public_key(public)


def _public_of(secret: Path) -> str:
    return load_key_pair(secret).public.decode()


def test_a_daemon_lets_in_the_public_files_of_its_folder(tmp_path: Path) -> None:
    _, own = write_key_pair(tmp_path, "line")
    for name in ("plc", "hmi"):
        write_key_pair(tmp_path / "clients", name)
    keys = load_server_keys(own, tmp_path / "clients")
    assert keys.clients == {load_public_key(tmp_path / "clients" / f"{name}.key") for name in ("plc", "hmi")}
    (tmp_path / "nobody").mkdir()
    with pytest.raises(KeyFileError, match="holds no public key"):
        load_server_keys(own, tmp_path / "nobody")
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        load_server_keys(own, tmp_path / "missing")


def test_a_client_names_both_keys_or_none(tmp_path: Path) -> None:
    public, secret = write_key_pair(tmp_path, "plc")
    assert load_client_keys(None, None) is None
    keys = load_client_keys(public, secret)
    assert keys is not None
    assert keys.own.public == keys.server
    for server_key, client_key in ((public, None), (None, secret)):
        with pytest.raises(KeyFileError, match="--server-key and --client-key come together"):
            load_client_keys(server_key, client_key)
