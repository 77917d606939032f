"""Every socket binds to [::1] and is reached there."""

import json
import signal
import socket as os_socket
import urllib.request
from pathlib import Path

import pytest
import zmq

from edge_uad.net.endpoints import connect
from edge_uad.net.wire import FrameMessage, decode_message
from edge_uad.outputs.metrics import Metrics, MetricsServer
from edge_uad.outputs.zmq import ZmqPublisher
from edge_uad.sources.sender import FrameSender
from edge_uad.sources.zmq import ZmqSource
from tests.conftest import edge_uad
from tests.fakes import frame, green_inspector, picture, until
from tests.processes import Running

ANY_PORT = "tcp://[::1]:*"


def has_ipv6() -> bool:
    try:
        with os_socket.create_server(("::1", 0), family=os_socket.AF_INET6):
            return True
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def test_verdicts() -> None:
    inspector, one = green_inspector(), frame(3)
    sink = ZmqPublisher(ANY_PORT, heatmap="never")
    assert sink.endpoint.startswith("tcp://[::1]:")
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.subscribe("")
        connect(subscriber, sink.endpoint)
        while not subscriber.poll(10):
            sink.publish(inspector.inspect(one), one)
        assert decode_message(subscriber.recv_multipart())[1]["frame_id"] == 3
    sink.close()


def test_pulled_frames() -> None:
    source = ZmqSource("line", ANY_PORT)
    source.open()
    assert source.bound_endpoint is not None
    message = FrameMessage(
        station="line",
        frame_id=7,
        part_id=None,
        captured_at_ns=1,
        encoding="rgb8",
        height=2,
        width=3,
        payload=picture(hw=(2, 3)).tobytes(),
    )
    with FrameSender(source.bound_endpoint) as sender:
        sender.send(message, timeout_s=20)
        received = source.read(20)
    assert received is not None
    assert received.frame_id == 7
    source.shut()
    source.close()


def test_subscribed_frames() -> None:
    source = ZmqSource("line", ANY_PORT, pattern="sub")
    source.open()
    assert source.bound_endpoint is not None
    with zmq.Context() as context, context.socket(zmq.XPUB) as sender:
        sender.setsockopt(zmq.LINGER, 0)
        connect(sender, source.bound_endpoint)
        until(lambda: source.read(0.01) is None and bool(sender.poll(0)))  # it has subscribed
    source.close()


def test_metrics() -> None:
    server = MetricsServer(Metrics(), ANY_PORT.removeprefix("tcp://"))
    with urllib.request.urlopen(f"http://[::1]:{server.port}/metrics", timeout=20) as answer:
        assert answer.status == 200
    server.close()


def test_a_line_from_the_command_line(tiny_model: Path, tiny_bank: Path, good_parts: Path) -> None:
    with os_socket.create_server(("::1", 0), family=os_socket.AF_INET6) as free:
        frames_in = f"tcp://[::1]:{free.getsockname()[1]}"
    options = ["--bank", tiny_bank, "--model", tiny_model, "--publish", ANY_PORT, "--threads", 1]
    with Running.edge_uad("serve", "--source", frames_in, *options) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (tcp://\[::1\]:\d+)")[1]
        with Running.edge_uad("watch", endpoint, "--json", "--count", 24, "--timeout", 60) as watch:
            watch.wait_for('"state": "running"')
            edge_uad("send", good_parts, "--to", frames_in)
            watch.ends(code=0)
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    frames = [json.loads(line)["frame_id"] for line in watch.out if "decision" in line]
    assert frames == list(range(24))
