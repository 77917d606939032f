"""Only known keys get anything, over real sockets; every other connection is refused and breaks nothing."""

import json
import shutil
import signal
import socket as os_socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from edge_uad.errors import EdgeUadError
from edge_uad.net.keys import (
    ClientKeys,
    KeyPair,
    ServerKeys,
    ZapAuthenticator,
    load_client_keys,
    load_server_keys,
    use_client_keys,
    write_key_pair,
)
from edge_uad.net.wire import FrameMessage, decode_message
from edge_uad.outputs.zmq import ZmqPublisher
from edge_uad.records import Frame
from edge_uad.sources.sender import FrameSender
from edge_uad.sources.zmq import Pattern, ZmqSource
from tests.conftest import edge_uad
from tests.fakes import frame, green_inspector, picture, until
from tests.processes import Running

ANY_PORT = "tcp://127.0.0.1:*"
REPO = Path(__file__).parents[2]
INSPECTOR = green_inspector()
NOTHING_MS = 400
"""How long a stranger listens; whoever is let in hears something within a few ms."""


@dataclass(frozen=True)
class Keys:
    folder: Path
    server: ServerKeys
    known: ClientKeys
    unknown: ClientKeys
    """A pair of keys that nobody allowed."""
    deceived: ClientKeys
    """A known client that expects another daemon."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    server_public, server_secret = write_key_pair(folder, "line")
    _, known = write_key_pair(folder / "clients", "plc")
    stranger_public, stranger = write_key_pair(folder / "elsewhere", "stranger")
    made = [
        load_client_keys(*pair)
        for pair in ((server_public, known), (server_public, stranger), (stranger_public, known))
    ]
    assert all(made)
    return Keys(folder, load_server_keys(server_secret, folder / "clients"), *filter(None, made))


STRANGERS = ["unknown", "deceived", "plain", "password"]


def make_stranger(socket: "zmq.Socket[bytes]", kind: str, keys: Keys) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    if kind == "password":
        socket.setsockopt(zmq.PLAIN_USERNAME, b"admin")
        socket.setsockopt(zmq.PLAIN_PASSWORD, b"admin")
    elif kind != "plain":
        use_client_keys(socket, getattr(keys, kind))


@contextmanager
def opened(keys: Keys, pattern: Pattern = "pull") -> Iterator[tuple[ZmqSource, str]]:
    source = ZmqSource("line", ANY_PORT, pattern=pattern, keys=keys.server)
    source.open()
    assert source.bound_endpoint is not None
    try:
        yield source, source.bound_endpoint
    finally:
        source.close()


def message(frame_id: int) -> FrameMessage:
    pixels = picture(hw=(2, 3)).tobytes()
    return FrameMessage(
        station="line",
        frame_id=frame_id,
        part_id=None,
        captured_at_ns=1,
        encoding="rgb8",
        height=2,
        width=3,
        payload=pixels,
    )


def test_a_known_key_sends_frames(keys: Keys) -> None:
    with opened(keys) as (source, endpoint), FrameSender(endpoint, keys=keys.known) as sender:
        sender.send(message(7), timeout_s=20)
        got = source.read(20)
    assert isinstance(got, Frame)
    assert got.frame_id == 7


@pytest.mark.parametrize("kind", STRANGERS)
def test_no_stranger_sends_a_frame_and_the_known_key_still_does(keys: Keys, kind: str) -> None:
    with (
        opened(keys) as (source, endpoint),
        zmq.Context() as context,
        context.socket(zmq.PUSH) as stranger,
        FrameSender(endpoint, keys=keys.known) as sender,
    ):
        make_stranger(stranger, kind, keys)
        stranger.setsockopt(zmq.IMMEDIATE, 1)
        stranger.connect(endpoint)
        assert not stranger.poll(NOTHING_MS, zmq.POLLOUT)
        sender.send(message(8), timeout_s=20)
        got = source.read(20)
        assert got is not None
        assert got.frame_id == 8
        assert source.read(0) is None


@pytest.mark.parametrize("kind", STRANGERS)
def test_no_stranger_hears_a_verdict_and_the_known_key_still_does(keys: Keys, kind: str) -> None:
    sink = ZmqPublisher(ANY_PORT, heatmap="never", keys=keys.server)
    with zmq.Context() as context, context.socket(zmq.SUB) as stranger, context.socket(zmq.SUB) as known:
        make_stranger(stranger, kind, keys)
        use_client_keys(known, keys.known)
        for subscriber in (stranger, known):
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.subscribe("")
            subscriber.connect(sink.endpoint)
        one = frame(3)
        while not known.poll(10):
            sink.publish(INSPECTOR.inspect(one), one)
        assert decode_message(known.recv_multipart())[1]["frame_id"] == 3
        sink.publish(INSPECTOR.inspect(one), one)
        assert not stranger.poll(NOTHING_MS)
    sink.close()


def test_bytes_that_are_no_zeromq_break_nothing(keys: Keys) -> None:
    with opened(keys) as (source, endpoint):
        host, port = endpoint.removeprefix("tcp://").split(":")
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE" + bytes(60)):
            with os_socket.create_connection((host, int(port))) as connection:
                connection.sendall(nonsense)
        with FrameSender(endpoint, keys=keys.known) as sender:
            sender.send(message(1), timeout_s=20)
            assert isinstance(source.read(20), Frame)


def test_a_sub_source_demands_keys_too(keys: Keys) -> None:
    with (
        opened(keys, "sub") as (source, endpoint),
        zmq.Context() as context,
        context.socket(zmq.XPUB) as stranger,
        context.socket(zmq.XPUB) as known,
    ):
        make_stranger(stranger, "plain", keys)
        use_client_keys(known, keys.known)
        known.setsockopt(zmq.LINGER, 0)
        for publisher in (stranger, known):
            publisher.connect(endpoint)
        until(lambda: source.read(0.01) is None and bool(known.poll(0)))  # it is subscribed to
        assert source.read(NOTHING_MS / 1000) is None
        assert not stranger.poll(0)


def test_the_authenticator_refuses_whatever_it_does_not_understand(keys: Keys) -> None:
    """The other side of this is libzmq; here it is asked directly."""
    with zmq.Context() as context, ZapAuthenticator(context, keys.server) as authenticator:
        with context.socket(zmq.REQ) as asking:
            asking.setsockopt(zmq.RCVTIMEO, 20_000)
            asking.connect("inproc://zeromq.zap.01")
            for request in (
                [b"1.0", b"id", b"edge-uad", b"127.0.0.1", b"", b"NULL"],
                [b"1.0", b"id", b"edge-uad", b"127.0.0.1", b"", b"PLAIN", b"admin", b"admin"],
                [b"2.0", b"id", b"edge-uad", b"127.0.0.1", b"", b"CURVE", bytes(32)],
                [b"1.0", b"id", b"elsewhere", b"127.0.0.1", b"", b"CURVE", bytes(32)],
                [b"1.0", b"id", b"edge-uad", b"127.0.0.1", b"", b"CURVE", b"odd"],
                [b"1.0", b"id", b"edge-uad", b"127.0.0.1", b"", b"CURVE", bytes(32)],
                [b""],
            ):
                asking.send_multipart(request)
                assert asking.recv_multipart()[2] == b"400"
        assert authenticator.refused == 7


def test_no_thread_is_left_behind(keys: Keys) -> None:
    before = threading.active_count()
    for _ in range(3):
        with opened(keys):
            assert threading.active_count() > before
        ZmqPublisher(ANY_PORT, keys=keys.server).close()
    assert threading.active_count() == before


def test_keys_open_the_network_and_nothing_else_does(keys: Keys) -> None:
    ZmqSource("line", "tcp://0.0.0.0:5560", keys=keys.server)  # refused without keys: test_endpoints, test_sources_zmq
    ZmqPublisher("tcp://0.0.0.0:*", keys=keys.server).close()


def test_a_key_pair_never_shows_its_secret() -> None:
    assert "s3cret" not in repr(ServerKeys(own=KeyPair(b"p", b"s3cret"), clients=frozenset()))


def test_a_line_with_keys_from_the_command_line(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    """edge-uad keys, serve, watch, send; then the same without a key and with a wrong one."""
    folder = tmp_path_factory.mktemp("line")
    for where, name in (("keys", "line"), ("keys/clients", "plc"), ("elsewhere", "stranger")):
        done = edge_uad("keys", folder / where, "--name", name)
        assert done.stdout.split() == [str(folder / where / f"{name}.key"), str(folder / where / f"{name}.key_secret")]
    with os_socket.create_server(("127.0.0.1", 0)) as free:
        frames_in = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    config = folder / "line.yaml"
    config.write_text(
        f"stations: [{{name: line, source: '{frames_in}', bank: {tiny_bank}}}]\n"
        f"model: {tiny_model}\n"
        f"threads: 1\n"
        f"publish: {{endpoint: 'tcp://127.0.0.1:*'}}\n"
        "curve: {server_key: keys/line.key_secret, client_keys: keys/clients}\n"
    )
    known = ["--server-key", folder / "keys/line.key", "--client-key", folder / "keys/clients/plc.key_secret"]
    unknown = ["--server-key", folder / "keys/line.key", "--client-key", folder / "elsewhere/stranger.key_secret"]
    with Running.edge_uad("serve", "--config", config) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with (
            Running.edge_uad("watch", endpoint, "--json", "--count", 24, "--timeout", 60, *known) as watch,
            Running(REPO / "examples" / "secure_subscriber.py", endpoint, known[1], known[3]) as example,
        ):
            watch.wait_for('"state": "running"')
            example.wait_for("line running")
            for strange in ([], unknown):
                refused = edge_uad("send", good_parts, "--to", frames_in, "--timeout", 0.5, *strange, expect=1)
                assert "it demands keys and does not know these" in refused.stderr
                silent = edge_uad("watch", endpoint, "--count", 1, "--timeout", 0.5, *strange, expect=1)
                assert "0 of 1 verdicts came" in silent.stderr
            daemon.wait_for("refused the unknown client key")
            edge_uad("send", good_parts, "--to", frames_in, *known)
            watch.ends(code=0)
            example.wait_for("line 23 23.png normal")
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    assert [json.loads(line)["frame_id"] for line in watch.out if "decision" in line] == list(range(24))
    assert "24 frames judged: 24 normal" in daemon.everything
    assert "Traceback" not in daemon.everything
    (folder / "keys/line.key_secret").chmod(0o640)
    assert "is open to others (mode 0640)" in edge_uad("serve", "--config", config, expect=2).stderr


def test_a_client_whose_key_is_added_or_withdrawn_while_the_line_runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path
) -> None:
    """With the keys as options of serve; a damaged file changes nothing but the log."""
    folder = tmp_path_factory.mktemp("line")
    server_public, server_secret = write_key_pair(folder, "line")
    write_key_pair(folder / "clients", "plc")
    late_public, late_secret = write_key_pair(folder / "late", "late")
    options = ["--bank", tiny_bank, "--model", tiny_model, "--publish", ANY_PORT, "--threads", 1]
    keys = ["--server-key", server_secret, "--client-keys", folder / "clients"]
    late = ["--server-key", server_public, "--client-key", late_secret]
    with Running.edge_uad("serve", "--source", f"ipc://{folder}/in", *options, *keys) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with Running.edge_uad("watch", endpoint, *late) as refused:
            daemon.wait_for("refused the unknown client key")
            shutil.copy(late_public, folder / "clients")
            daemon.wait_for("the clients' keys were read again: 2 are let in, 1 new, 0 gone")
            assert not refused.out
        with Running.edge_uad("watch", endpoint, *late) as watch:
            watch.wait_for("running")
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
        (folder / "clients" / "torn.key").write_text("# nothing")
        daemon.wait_for("the clients' keys are left as they were: .*torn.key holds no public key")
        for name in ("torn.key", "late.key"):
            (folder / "clients" / name).unlink()
        daemon.wait_for("the clients' keys were read again: 1 are let in, 0 new, 1 gone")
        silent = edge_uad("watch", endpoint, "--count", 1, "--timeout", 0.5, *late, expect=1)
        assert "0 of 1 verdicts came" in silent.stderr
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    assert "Traceback" not in daemon.everything
    alone = edge_uad("serve", "--source", f"ipc://{folder}/in", *options, "--server-key", server_secret, expect=2)
    assert "server_key and client_keys come together" in alone.stderr


def test_a_refused_sender_says_what_may_be_wrong(keys: Keys) -> None:
    with (
        opened(keys) as (_, endpoint),
        FrameSender(endpoint, keys=keys.unknown) as sender,
        pytest.raises(EdgeUadError, match="demands keys and does not know these"),
    ):
        sender.send(message(1), timeout_s=0.3)
