"""ZeroMQ endpoints: which are allowed, binding and connecting with errors that name the remedy, URLs safe to show."""

import errno
import ipaddress
import socket as os_socket
from urllib.parse import urlsplit

import zmq

from edge_uad.errors import EndpointError

DEFAULT_VERDICT_ENDPOINT = "tcp://127.0.0.1:5570"
DEFAULT_FRAME_ENDPOINT = "tcp://127.0.0.1:5560"
MAX_IPC_PATH_BYTES = 107
"""Limit of a Unix socket's address."""

AnySocket = zmq.Socket[bytes]


def check_endpoint(endpoint: str, *, insecure: bool, keyed: bool = False) -> None:
    """Check an endpoint to bind: loopback and ``ipc``, or the network with keys or with ``insecure``.

    Args:
        endpoint: ``tcp://HOST:PORT`` (PORT may be ``*``: any free one; an IPv6 HOST in brackets) or ``ipc:///path``.
        insecure: the user stated that anyone who reaches it may read and write.
        keyed: only known CURVE keys are accepted.

    Raises:
        EndpointError: malformed, or open to the network without keys and without ``insecure``.
    """
    scheme, address = split_endpoint(endpoint)
    if scheme == "ipc" or insecure or keyed:
        return
    host = address.rpartition(":")[0]
    if not is_loopback(host):
        raise EndpointError(
            f"{endpoint} can be reached from the network without keys; bind to 127.0.0.1, or make keys with "
            "edge-uad keys and name them under curve:, or state insecure: true (--insecure) where the network itself "
            "is trusted"
        )


def split_endpoint(endpoint: str) -> tuple[str, str]:
    """The scheme, ``tcp`` or ``ipc``, and the address.

    Raises:
        EndpointError: malformed.
    """
    if any(character < " " or "\ud800" <= character <= "\udfff" for character in endpoint):
        raise EndpointError(f"{endpoint!r} is no endpoint: it holds a control character or a byte that is not UTF-8")
    scheme, separator, address = endpoint.partition("://")
    if not separator or scheme not in {"tcp", "ipc"}:
        raise EndpointError(f"{endpoint!r} is no endpoint; write tcp://127.0.0.1:5570 or ipc:///run/edge-uad/verdicts")
    if scheme == "ipc":
        if not 0 < len(address.encode()) <= MAX_IPC_PATH_BYTES:
            raise EndpointError(f"{endpoint}: an ipc path has 1 to {MAX_IPC_PATH_BYTES} bytes")
        return scheme, address
    host, _, port = address.rpartition(":")
    if not host or not (port == "*" or (port.isdecimal() and 0 < int(port) < 2**16)):
        raise EndpointError(f"{endpoint}: a tcp endpoint needs a host and a port from 1 to 65535")
    return scheme, address


def bind(socket: AnySocket, endpoint: str, *, remedy: str) -> str:
    """Bind a socket.

    Args:
        socket: not bound yet.
        endpoint: one that ``check_endpoint`` allows.
        remedy: what to do where the address is in use.

    Returns:
        The endpoint bound, with the chosen port in place of ``*``.

    Raises:
        EndpointError: in use, not of this machine, or not permitted.
    """
    scheme, address = split_endpoint(endpoint)
    if scheme == "ipc" and _is_served(address):  # ZeroMQ would unlink the path and take it over
        raise EndpointError(f"{endpoint} is in use by another program; {remedy}")
    _allow_ipv6(socket, scheme, address)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(_bind_fault(endpoint, error, remedy)) from error
    bound = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bound.rstrip(b"\0").decode() if isinstance(bound, bytes) else endpoint


def connect(socket: AnySocket, endpoint: str) -> None:
    """Connect a socket; the other side need not be there yet.

    Raises:
        EndpointError: malformed, or an address that can only be bound to.
    """
    _allow_ipv6(socket, *split_endpoint(endpoint))
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"{endpoint} cannot be connected to: {error.strerror}; name host and port, such as tcp://127.0.0.1:5570"
        ) from error


def shown_url(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _bind_fault(endpoint: str, error: zmq.ZMQError, remedy: str) -> str:
    if error.errno == zmq.EADDRINUSE:
        return f"{endpoint} is in use by another program; {remedy}"
    if error.errno in {zmq.EADDRNOTAVAIL, errno.ENODEV}:
        return f"{endpoint} is no address of this machine; bind to 127.0.0.1 or to one that `ip address` lists"
    if error.errno == errno.EACCES:
        return f"{endpoint} is not permitted to this user; choose a port above 1023 or a path that may be written"
    return f"{endpoint} cannot be bound: {error.strerror}; check the address"


def is_loopback(host: str) -> bool:
    """Whether a host name or address, an IPv6 one with or without brackets, can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _allow_ipv6(socket: AnySocket, scheme: str, address: str) -> None:
    """ZeroMQ takes an IPv6 address only with this option; with it a host name, too, may mean an IPv6 address."""
    if scheme == "tcp" and ":" in address.rpartition(":")[0]:
        socket.setsockopt(zmq.IPV6, 1)


def _is_served(path: str) -> bool:
    """Whether a program accepts connections at a Unix socket's path; False for one left behind by a crash."""
    if path.startswith("@"):
        return False
    with os_socket.socket(os_socket.AF_UNIX, os_socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
