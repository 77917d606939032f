"""Addresses: this machine alone, unless the user says otherwise."""

import socket

import pytest
import zmq

from edge_uad.errors import EndpointError
from edge_uad.net.endpoints import bind, check_endpoint, connect


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5570",
        "tcp://127.9.9.9:1",
        "tcp://localhost:5570",
        "tcp://[::1]:5570",
        "tcp://127.0.0.1:*",
        "ipc:///run/x",
    ],
)
def test_this_machine_is_allowed(endpoint: str) -> None:
    check_endpoint(endpoint, insecure=False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5570",
        "tcp://0.0.0.0:5570",
        "tcp://192.168.1.5:5570",
        "tcp://[::]:5570",
        "tcp://eth0:5570",
        "tcp://line.example:5570",
    ],
)
def test_the_network_needs_a_word(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"without keys.*insecure: true"):
        check_endpoint(endpoint, insecure=False)
    check_endpoint(endpoint, insecure=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5570",
        "127.0.0.1:5570",
        "http://127.0.0.1:1",
        "inproc://x",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:99999",
        "tcp://:5570",
        "tcp://127.0.0.1:port",
        "ipc://",
        "ipc:///" + "x" * 120,
        "ipc:///run/bad\udcff",
        "ipc:///run/a\0b",
        "ipc:///run/a\nb",
        "ipc:///run/\ud800",
        "tcp://\ud800:1",
    ],
)
def test_what_is_no_endpoint_is_refused_even_where_all_are_allowed(endpoint: str) -> None:
    with pytest.raises(EndpointError):
        check_endpoint(endpoint, insecure=True)


@pytest.mark.parametrize("endpoint", ["tcp://*:5570", "tcp://127.0.0.1:*"])
def test_an_address_to_bind_to_is_none_to_connect_to(endpoint: str) -> None:
    refused = pytest.raises(EndpointError, match="cannot be connected to")
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber, refused:
        connect(subscriber, endpoint)


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_an_endpoint_in_use_is_named_with_the_remedy(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    wanted = "tcp://127.0.0.1:*" if kind == "tcp" else f"ipc://{tmp_path_factory.mktemp('ipc')}/s"
    with zmq.Context() as context, context.socket(zmq.PUB) as first, context.socket(zmq.PUB) as second:
        taken = bind(first, wanted, remedy="do that")
        with pytest.raises(EndpointError, match="in use by another program; do that") as error:
            bind(second, taken, remedy="do that")
        assert taken in str(error.value)


def test_a_socket_file_left_behind_by_a_crash_is_taken_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ipc") / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with zmq.Context() as context, context.socket(zmq.PUB) as fresh:
        assert bind(fresh, f"ipc://{path}", remedy="do that") == f"ipc://{path}"


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("tcp://192.0.2.1:5570", "no address of this machine"),
        ("ipc:///nowhere/at/all/s", "cannot be bound|not permitted"),
    ],
)
def test_other_faults_are_told_as_well(endpoint: str, told: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as fresh, pytest.raises(EndpointError, match=told):
        bind(fresh, endpoint, remedy="do that")
