"""CURVE keys: their files, who may connect, and sockets that speak to known keys alone.

Key files are ZeroMQ certificates, as libzmq's other bindings read and write them: ``NAME.key`` holds the public part
and may be shared, ``NAME.key_secret`` holds both parts and belongs to its owner alone.
"""

import logging
import os
import re
import stat
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
from zmq.utils import z85

from edge_uad.errors import KeyFileError
from edge_uad.net.endpoints import AnySocket

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"  # noqa: S105  (the end of a file's name)
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MAX_KEY_FILE_BYTES = 4096
MAX_CLIENTS = 4096
LOOK_EVERY_S = 1.0
"""How often the clients' folder is looked at; a change holds from the second look at it."""

_ENTRY = re.compile(rb'^\s+(public|secret)-key\s*=\s*"([^"\n]{40})"\s*$', re.MULTILINE)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_DOMAIN = b"edge-uad"
_KEY_BYTES = 32
_POLL_MS = 100

log = logging.getLogger("edge_uad.net.keys")

_Marks = frozenset[tuple[str, int, int, int]]
"""Name, inode, time of change in ns and size of each key file of a folder."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One side's own keys, Z85 text of 40 characters each."""

    public: bytes
    secret: bytes = field(repr=False)


class ServerKeys:
    """What a daemon needs: its own keys, and whom it lets in.

    Args:
        own: its own pair.
        clients: public keys.
        folder: where the clients' keys were read, and are read again when it changes; None: they stay.
    """

    def __init__(self, *, own: KeyPair, clients: frozenset[bytes], folder: Path | None = None) -> None:
        self.own = own
        self.clients = clients
        """Replaced as a whole, so that any thread may read it."""
        self._folder = folder
        # nothing is known of the folder yet: it may have changed since it was read
        self._loaded: _Marks | None = None
        self._seen: _Marks | None = None
        self._looking = threading.Lock()
        self._look_due_s = time.monotonic() + LOOK_EVERY_S

    def look(self) -> None:
        """Read the folder again where it changed and then stayed the same for a look. Bounded rate; any thread."""
        if self._folder is None or time.monotonic() < self._look_due_s or not self._looking.acquire(blocking=False):
            return
        try:
            self._look_due_s = time.monotonic() + LOOK_EVERY_S
            marks = _marks(self._folder)
            settled, self._seen = marks == self._seen, marks
            if settled and marks != self._loaded:
                self._loaded = marks
                self._read_again(self._folder)
        finally:
            self._looking.release()

    def _read_again(self, folder: Path) -> None:
        try:
            clients = _read_clients(folder)
        except KeyFileError as error:
            log.error("the clients' keys are left as they were: %s", error)  # noqa: TRY400  (told, no trace)
            return
        added, gone = len(clients - self.clients), len(self.clients - clients)
        if not added and not gone:
            return
        self.clients = clients
        log.info("the clients' keys were read again: %d are let in, %d new, %d gone", len(clients), added, gone)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What a subscriber or a sender needs: its own keys, and the daemon's public one."""

    own: KeyPair
    server: bytes


def write_key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a new pair of key files; the folder is made, private, where it is missing.

    Returns:
        The public file, readable by all, and the secret one, mode 0600.

    Raises:
        KeyFileError: the name is not fit for a file, a file is already there, or nothing can be written.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise KeyFileError(f"{name!r} cannot name a key; use letters, digits, . _ -, at most 64 characters")
    public, secret = zmq.curve_keypair()
    public_path, secret_path = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    for path in (public_path, secret_path):
        if path.exists() or path.is_symlink():
            raise KeyFileError(f"{path} is already there; choose another --name, or remove both files of the old key")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(secret_path, _certificate(public, secret), 0o600)
        _write_new(public_path, _certificate(public, None), 0o644)
    except OSError as error:
        raise KeyFileError(f"no key can be written to {folder}: {error.strerror or error}") from error
    return public_path, secret_path


def load_key_pair(path: Path) -> KeyPair:
    """Read a secret key file of one's own.

    Raises:
        KeyFileError: not there, readable by others, or no secret key.
    """
    entries = _read_entries(path, secret=True)
    if set(entries) != {b"public", b"secret"}:
        raise KeyFileError(f"{path} holds no secret key; name a *{SECRET_SUFFIX} file made by edge-uad keys")
    pair = KeyPair(entries[b"public"], entries[b"secret"])
    if zmq.curve_public(pair.secret) != pair.public:
        raise KeyFileError(f"{path}: its public and its secret key do not belong together; make new ones")
    return pair


def load_public_key(path: Path) -> bytes:
    """Read the public key of the other side.

    Raises:
        KeyFileError: not there, no key, or a secret that should not have been shared.
    """
    entries = _read_entries(path, secret=False)
    if b"secret" in entries:
        raise KeyFileError(f"{path} holds a secret key where a public one is expected; name the *{PUBLIC_SUFFIX} file")
    if b"public" not in entries:
        raise KeyFileError(f"{path} holds no public key; name a *{PUBLIC_SUFFIX} file made by edge-uad keys")
    return entries[b"public"]


def load_server_keys(server_key: Path, client_keys: Path) -> ServerKeys:
    """A daemon's keys.

    Args:
        server_key: its secret key file.
        client_keys: the folder of the public key files that may connect.

    Raises:
        KeyFileError: a file or the folder cannot be used, or nobody is allowed in.
    """
    own = load_key_pair(server_key)
    clients = _read_clients(client_keys)
    if not clients:
        raise KeyFileError(
            f"{client_keys} holds no public key (*{PUBLIC_SUFFIX}); "
            "make one for each client with edge-uad keys and put its public file there"
        )
    return ServerKeys(own=own, clients=clients, folder=client_keys)


def _read_clients(folder: Path) -> frozenset[bytes]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX)
    except OSError as error:
        raise KeyFileError(f"the clients' keys in {folder} cannot be read: {error.strerror}") from error
    if len(files) > MAX_CLIENTS:
        raise KeyFileError(
            f"{folder} holds {len(files)} public keys (*{PUBLIC_SUFFIX}), {MAX_CLIENTS} at most were expected; "
            "leave there those of this daemon's clients alone"
        )
    return frozenset(map(load_public_key, files))


def _marks(folder: Path) -> _Marks | None:
    """None where the folder cannot be read."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(folder) if entry.name.endswith(PUBLIC_SUFFIX)]
    except OSError:
        return None
    return frozenset((name, status.st_ino, status.st_mtime_ns, status.st_size) for name, status in found)


def load_client_keys(server_key: Path | None, client_key: Path | None) -> ClientKeys | None:
    """A client's keys; None where none are asked for.

    Args:
        server_key: the daemon's public key file.
        client_key: one's own secret key file.

    Raises:
        KeyFileError: a file cannot be used, or one was named without the other.
    """
    if server_key is None and client_key is None:
        return None
    if server_key is None or client_key is None:
        raise KeyFileError("--server-key and --client-key come together: the daemon's public file, your own secret one")
    return ClientKeys(own=load_key_pair(client_key), server=load_public_key(server_key))


def use_client_keys(socket: AnySocket, keys: ClientKeys | None) -> None:
    """Speak to the daemon with that key and to no other; call before ``connect``."""
    if keys is None:
        return
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)


class ZapAuthenticator:
    """Lets known client keys into the server sockets of one context, and nobody else (ZAP, ZeroMQ RFC 27).

    pyzmq's own authenticator lets sockets without keys pass, and its stop is not bounded; this one does neither.

    Args:
        context: whose sockets are guarded; to be terminated after ``close``.
        keys: None guards nothing.
    """

    def __init__(self, context: "zmq.Context[AnySocket]", keys: ServerKeys | None) -> None:
        self._keys = keys
        self._stop = threading.Event()
        self._refused_keys: set[bytes] = set()
        self.refused = 0
        """Connections turned away so far."""
        self._thread: threading.Thread | None = None
        if keys is None:
            return
        door: AnySocket = context.socket(zmq.REP)
        door.setsockopt(zmq.LINGER, 0)
        door.bind(_ZAP_ENDPOINT)
        self._thread = threading.Thread(target=self._keep, args=(door, keys), name="curve", daemon=True)
        self._thread.start()

    def guard(self, socket: AnySocket) -> None:
        """Demand a known key of whoever connects; call before ``bind``."""
        if self._keys is None:
            return
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.own.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an answer from here nobody comes in

    def close(self) -> None:
        """End the thread; whoever connects afterwards is turned away."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()  # bounded: it waits for nothing longer than its poll

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, door: AnySocket, keys: ServerKeys) -> None:
        with door:
            while not self._stop.is_set():
                try:
                    keys.look()
                    if door.poll(_POLL_MS):
                        door.send_multipart(self._answer(door.recv_multipart(), keys.clients))
                except zmq.ZMQError:  # the context is gone: so are the sockets to guard
                    return

    def _answer(self, request: list[bytes], clients: frozenset[bytes]) -> list[bytes]:
        """The reply to ``[version, request id, domain, address, identity, mechanism, credentials…]``."""
        request_id = request[1] if len(request) > 1 else b""
        understood = len(request) == 7 and (request[0], request[2], request[5]) == (_ZAP_VERSION, _DOMAIN, b"CURVE")
        if understood and len(request[6]) == _KEY_BYTES:
            key = z85.encode(request[6])
            if key in clients:
                return [_ZAP_VERSION, request_id, b"200", b"OK", key, b""]
            self._tell_refused(key, request[3])
        self.refused += 1
        return [_ZAP_VERSION, request_id, b"400", b"unknown key", b"", b""]

    def _tell_refused(self, key: bytes, address: bytes) -> None:
        """Once for each key, and not for ever: a stranger that knocks must not fill the log."""
        if key not in self._refused_keys and len(self._refused_keys) < MAX_CLIENTS:
            self._refused_keys.add(key)
            log.warning("refused the unknown client key %s from %s", key.decode(), address.decode(errors="replace"))


def _certificate(public: bytes, secret: bytes | None) -> str:
    about = "keep it private" if secret else "share it with the other side"
    lines = [f"#   ZeroMQ CURVE {'secret' if secret else 'public'} certificate of edge-uad keys: {about}", ""]
    lines += ["metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return "\n".join([*lines, ""])


def _write_new(path: Path, text: str, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        os.fchmod(handle, mode)  # whatever the umask says
        file.write(text)
        file.flush()
        os.fsync(handle)


def _read_entries(path: Path, *, secret: bool) -> dict[bytes, bytes]:
    """Checked and read by one descriptor, so that the file cannot be swapped in between."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"key {path} is not a regular file")
            if secret and status.st_mode & _too_open(path):
                raise KeyFileError(
                    f"the secret key {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}); "
                    f"run chmod 600 {path}, or make a new key where others may have seen it"
                )
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"key {path} cannot be read: {error.strerror}; make one with edge-uad keys") from error
    if len(content) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than a key file; name one made by edge-uad keys")
    return {kind: _valid_key(key, path) for kind, key in _ENTRY.findall(content)}


def _too_open(path: Path) -> int:
    """Mode bits that a secret must not have; systemd shows the service's own access to its credentials as group's."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return stat.S_IRWXO if credentials and path.parent == Path(credentials) else _OTHERS


def _valid_key(key: bytes, path: Path) -> bytes:
    try:
        z85.decode(key)
    except (ValueError, KeyError, struct.error) as error:
        raise KeyFileError(f"{path} holds a damaged key; copy it again or make a new one") from error
    return key
