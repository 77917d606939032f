"""CURVE keys: their files, the allow-list of clients, and the authenticator of server sockets (ZAP).

Key files are ZeroMQ certificates, as libzmq's other bindings read and write them: ``NAME.key`` holds the public part
and may be shared, ``NAME.key_secret`` holds both parts and must be readable by its owner alone. pyzmq's ``zmq.auth``
reads and writes the same files, without regard to modes, links, sizes or files that are there already.
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
POLL_EVERY_S = 1.0
"""How often the clients' folder is polled; it is read again once two polls in a row find the same change."""

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
    """A public and a secret key, Z85 text of 40 characters each."""

    public: bytes
    secret: bytes = field(repr=False)


class ServerKeys:
    """A daemon's key pair and the public keys of the clients that may connect.

    Args:
        own: the daemon's pair.
        clients: public keys.
        folder: of the clients' key files, read again when it changes; None: ``clients`` never changes.
    """

    def __init__(self, *, own: KeyPair, clients: frozenset[bytes], folder: Path | None = None) -> None:
        self.own = own
        self.clients = clients
        """Replaced as a whole, so that any thread may read it."""
        self._folder = folder
        # nothing is known of the folder yet: it may have changed since it was read
        self._loaded: _Marks | None = None
        self._seen: _Marks | None = None
        self._polling = threading.Lock()
        self._poll_due_s = time.monotonic() + POLL_EVERY_S

    def poll(self) -> None:
        """Read the folder again where it changed and stayed the same since. Bounded rate; any thread may call it."""
        if self._folder is None or time.monotonic() < self._poll_due_s or not self._polling.acquire(blocking=False):
            return
        try:
            self._poll_due_s = time.monotonic() + POLL_EVERY_S
            marks = _marks(self._folder)
            settled, self._seen = marks == self._seen, marks
            if settled and marks != self._loaded:
                self._loaded = marks
                self._reload(self._folder)
        finally:
            self._polling.release()

    def _reload(self, folder: Path) -> None:
        try:
            clients = _read_clients(folder)
        except KeyFileError as error:
            log.error("the clients' keys are left as they were: %s", error)  # noqa: TRY400  (one sentence, no traceback)
            return
        added, gone = len(clients - self.clients), len(self.clients - clients)
        if not added and not gone:
            return
        self.clients = clients
        log.info("the clients' keys were read again: %d are let in, %d new, %d gone", len(clients), added, gone)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A subscriber's or sender's key pair, and the public key of the daemon that it connects to."""

    own: KeyPair
    server: bytes


def write_key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Create a pair of key files; a missing folder is created with mode 0700.

    Returns:
        The paths of the public file, mode 0644, and the secret one, mode 0600.

    Raises:
        KeyFileError: the name has other characters than ``NAME_PATTERN``, a file exists already, or writing failed.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise KeyFileError(f"{name!r} cannot name a key; use letters, digits, . _ -, at most 64 characters")
    public, secret = zmq.curve_keypair()
    public_path, secret_path = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    try:
        for path in (public_path, secret_path):
            if path.exists() or path.is_symlink():
                raise KeyFileError(
                    f"{path} is already there; choose another --name, or remove both files of the old key"
                )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(secret_path, _certificate(public, secret), 0o600)
        _write_new(public_path, _certificate(public, None), 0o644)
    except OSError as error:
        raise KeyFileError(f"no key can be written to {folder}: {error.strerror or error}") from error
    return public_path, secret_path


def load_key_pair(path: Path) -> KeyPair:
    """Read a secret key file.

    Raises:
        KeyFileError: missing, readable or writable by others, or without a secret key.
    """
    entries = _read_entries(path, secret=True)
    if set(entries) != {b"public", b"secret"}:
        raise KeyFileError(f"{path} holds no secret key; name a *{SECRET_SUFFIX} file made by edge-uad keys")
    pair = KeyPair(entries[b"public"], entries[b"secret"])
    if zmq.curve_public(pair.secret) != pair.public:
        raise KeyFileError(f"{path}: its public and its secret key do not belong together; make new ones")
    return pair


def load_public_key(path: Path) -> bytes:
    """Read a public key file.

    Raises:
        KeyFileError: missing, without a key, or with a secret key that should not have been shared.
    """
    entries = _read_entries(path, secret=False)
    if b"secret" in entries:
        raise KeyFileError(f"{path} holds a secret key where a public one is expected; name the *{PUBLIC_SUFFIX} file")
    if b"public" not in entries:
        raise KeyFileError(f"{path} holds no public key; name a *{PUBLIC_SUFFIX} file made by edge-uad keys")
    return entries[b"public"]


def load_server_keys(server_key: Path, client_keys: Path) -> ServerKeys:
    """Read a daemon's keys.

    Args:
        server_key: its secret key file.
        client_keys: folder of the public key files of the clients that may connect.

    Raises:
        KeyFileError: a file or the folder cannot be read, or the folder holds no public key.
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
    """Read a client's keys; None where both arguments are None.

    Args:
        server_key: the daemon's public key file.
        client_key: the client's secret key file.

    Raises:
        KeyFileError: a file cannot be used, or only one is named.
    """
    if server_key is None and client_key is None:
        return None
    if server_key is None or client_key is None:
        raise KeyFileError("--server-key and --client-key come together: the daemon's public file, your own secret one")
    return ClientKeys(own=load_key_pair(client_key), server=load_public_key(server_key))


def use_client_keys(socket: AnySocket, keys: ClientKeys | None) -> None:
    """Encrypt a socket's connections and accept that daemon alone; call before ``connect``. None changes nothing."""
    if keys is None:
        return
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.own.secret)


class ZapAuthenticator:
    """Accepts known client keys on the server sockets of one context and refuses all others (ZAP, ZeroMQ RFC 27).

    Used instead of pyzmq's ``ThreadAuthenticator``, which accepts requests of the NULL mechanism, has no place for
    reading the keys again, and whose thread ends at the first malformed request: then ``stop()`` waits for ever.

    Args:
        context: of the guarded sockets; to be terminated after ``close``.
        keys: None guards nothing.
    """

    def __init__(self, context: "zmq.Context[AnySocket]", keys: ServerKeys | None) -> None:
        self._keys = keys
        self._stop = threading.Event()
        self._refused_keys: set[bytes] = set()
        self.refused = 0
        """Connections refused so far."""
        self._thread: threading.Thread | None = None
        if keys is None:
            return
        requests: AnySocket = context.socket(zmq.REP)
        requests.setsockopt(zmq.LINGER, 0)
        requests.bind(_ZAP_ENDPOINT)
        self._thread = threading.Thread(target=self._run, args=(requests, keys), name="zap", daemon=True)
        self._thread.start()

    def guard(self, socket: AnySocket) -> None:
        """Require a known client key on every connection of this socket; call before ``bind``."""
        if self._keys is None:
            return
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.own.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an answer from here every connection is refused

    def close(self) -> None:
        """End the thread; later connections are refused."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()  # bounded: it waits no longer than _POLL_MS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, requests: AnySocket, keys: ServerKeys) -> None:
        with requests:
            while not self._stop.is_set():
                try:
                    keys.poll()
                    if requests.poll(_POLL_MS):
                        requests.send_multipart(self._answer(requests.recv_multipart(), keys.clients))
                except zmq.ZMQError:  # the context is terminated, and the guarded sockets with it
                    return

    def _answer(self, request: list[bytes], clients: frozenset[bytes]) -> list[bytes]:
        """The reply to ``[version, request id, domain, address, identity, mechanism, credentials…]``."""
        request_id = request[1] if len(request) > 1 else b""
        understood = len(request) == 7 and (request[0], request[2], request[5]) == (_ZAP_VERSION, _DOMAIN, b"CURVE")
        if understood and len(request[6]) == _KEY_BYTES:
            key = z85.encode(request[6])
            if key in clients:
                return [_ZAP_VERSION, request_id, b"200", b"OK", key, b""]
            self._log_refused(key, request[3])
        self.refused += 1
        return [_ZAP_VERSION, request_id, b"400", b"unknown key", b"", b""]

    def _log_refused(self, key: bytes, address: bytes) -> None:
        """Log each unknown key once, ``MAX_CLIENTS`` of them at most, so that nobody can fill the log."""
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
        os.fchmod(handle, mode)  # regardless of the umask
        file.write(text)
        file.flush()
        os.fsync(handle)


def _read_entries(path: Path, *, secret: bool) -> dict[bytes, bytes]:
    """Check and read through one descriptor, so that the file cannot be replaced in between."""
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
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KeyFileError(f"key {path} cannot be read: {reason}; make one with edge-uad keys") from error
    if len(content) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than a key file; name one made by edge-uad keys")
    return {kind: _valid_key(key, path) for kind, key in _ENTRY.findall(content)}


def _too_open(path: Path) -> int:
    """Mode bits that a secret file must not have; systemd grants a service its credentials through the group bits."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return stat.S_IRWXO if credentials and path.parent == Path(credentials) else _OTHERS


def _valid_key(key: bytes, path: Path) -> bytes:
    try:
        z85.decode(key)
    except (ValueError, KeyError, struct.error) as error:
        raise KeyFileError(f"{path} holds a damaged key; copy it again or make a new one") from error
    return key
