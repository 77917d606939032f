"""Frames over real sockets: PULL loses none, SUB is live, and no message brings the source down."""

import contextlib
import resource
import socket as os_socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest
import zmq
from PIL import Image

from edge_uad.errors import EdgeUadError, EndpointError, SourceEndedError
from edge_uad.net.wire import MAX_IMAGE_BYTES, FrameMessage, encode_frame
from edge_uad.records import Frame, UnreadableFrame
from edge_uad.sources.sender import SEND_ENCODINGS, FrameSender, frame_message
from edge_uad.sources.zmq import Pattern, ZmqSource
from tests import parts as drawn
from tests.fakes import picture, until
from tests.lines import Line
from tests.processes import Running

ANY_PORT = "tcp://127.0.0.1:*"


@contextmanager
def opened(
    pattern: Pattern = "pull", endpoint: str = ANY_PORT, *, trust_sender_clock: bool = False
) -> Iterator[ZmqSource]:
    source = ZmqSource("line", endpoint, pattern=pattern, trust_sender_clock=trust_sender_clock)
    source.open()
    try:
        yield source
    finally:
        source.close()


@contextmanager
def zmq_greeted(endpoint: str | None) -> Iterator[os_socket.socket]:
    """A PUSH peer by hand, past its handshake (ZMTP 3.0, NULL)."""
    assert endpoint is not None
    host, port = endpoint.removeprefix("tcp://").split(":")
    with os_socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\x05READY\x0bSocket-Type" + (4).to_bytes(4, "big") + b"PUSH"
        connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
        heard = b""
        while b"PULL" not in heard:
            more = connection.recv(4096)
            assert more, "cut off in the handshake"
            heard += more
        yield connection


@contextmanager
def peer(kind: int, endpoint: str | None) -> Iterator[zmq.Socket[bytes]]:
    assert endpoint is not None
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.setsockopt(zmq.LINGER, 5000)
        socket.connect(endpoint)
        yield socket


def message(frame_id: int, *, station: str = "line", **changed: object) -> list[bytes]:
    image = picture(hw=(2, 3))
    sent = FrameMessage(
        station=station,
        frame_id=frame_id,
        part_id=f"SN-{frame_id}",
        captured_at_ns=time.time_ns(),
        encoding="rgb8",
        height=2,
        width=3,
        payload=image.tobytes(),
    )
    name, header, payload = encode_frame(sent)
    return [name, msgpack.packb(msgpack.unpackb(header) | changed), payload]


def read(source: ZmqSource) -> Frame | UnreadableFrame:
    frame = source.read(20.0)
    assert frame is not None
    return frame


def test_a_pulled_frame_keeps_its_identity_and_its_pixels() -> None:
    with opened() as source, peer(zmq.PUSH, source.bound_endpoint) as sender:
        sender.send_multipart(message(41))
        frame = read(source)
        assert isinstance(frame, Frame)
        assert (frame.station, frame.frame_id, frame.part_id, frame.dropped_before) == ("line", 41, "SN-41", 0)
        assert np.array_equal(frame.image, picture(hw=(2, 3)))
        assert 0 <= time.monotonic_ns() - frame.captured_mono_ns < 60e9


def test_no_frame_is_a_time_out() -> None:
    with opened() as source:
        assert source.read(0.0) is None


@pytest.mark.parametrize(
    ("parts", "told", "identity"),
    [
        ([b"line"], "1 parts", (0, None)),
        ([b"line", b"", b"", b"", b"", b"", b"", b""], "4 parts", (0, None)),
        ([b"line", b"\xc1", b"x"], "not msgpack", (0, None)),
        (message(5, encoding="gif"), "'gif'", (5, "SN-5")),
        (message(5, width=30), "rgb8 of 30×2 has 180", (5, "SN-5")),
        (message(5, encoding="jpeg"), "not an image", (5, "SN-5")),
        (message(5, station="other"), "for station 'other', this is 'line'", (5, "SN-5")),
        ([*message(5)[:2], b""], "0 bytes", (5, "SN-5")),
    ],
)
def test_a_message_that_is_no_frame_is_unreadable_and_the_next_one_is_fine(
    parts: list[bytes], told: str, identity: tuple[int, str | None]
) -> None:
    with opened() as source, peer(zmq.PUSH, source.bound_endpoint) as sender:
        sender.send_multipart(parts)
        sender.send_multipart(message(6))
        bad, good = read(source), read(source)
        assert isinstance(bad, UnreadableFrame)
        assert told in bad.reason
        assert (bad.frame_id, bad.part_id) == identity
        assert isinstance(good, Frame)
        assert good.frame_id == 6


def test_a_slow_puller_holds_the_sender_back_and_loses_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The sender is gone before most frames are read."""
    path = tmp_path_factory.mktemp("part") / "part.png"
    Image.fromarray(picture()).save(path)
    with opened() as source:
        assert source.bound_endpoint is not None
        sender = FrameSender(source.bound_endpoint)
        for frame_id in range(40):
            sender.send(
                frame_message(path, station="line", frame_id=frame_id, part_id=None, encoding="as-is"), timeout_s=20
            )
        sender.flush(20)
        assert [read(source).frame_id for _ in range(40)] == list(range(40))


@pytest.mark.parametrize("where", ["folder", "abstract"])
def test_over_ipc_a_sender_stays_until_a_slow_puller_has_taken_all(
    where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a program of its own, which ends at once after the last frame; ZeroMQ alone loses most of them."""
    folder = tmp_path_factory.mktemp("ipc")
    endpoint = f"ipc://{folder}/in" if where == "folder" else f"ipc://@{folder}"
    pictures = drawn.write_parts(folder / "parts", 24, seed=0)
    with opened(endpoint=endpoint) as source, Running.edge_uad("send", pictures, "--to", endpoint) as sender:
        first = read(source)
        time.sleep(1)  # held back meanwhile: the sender's last frames lie in the Unix socket
        assert [first.frame_id, *(read(source).frame_id for _ in range(23))] == list(range(24))
        sender.ends(code=0)


def test_over_ipc_what_is_never_taken_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ipc")
    path = folder / "part.png"
    Image.fromarray(picture()).save(path)
    with opened(endpoint=f"ipc://{folder}/in"):
        sender = FrameSender(f"ipc://{folder}/in")
        for frame_id in range(40):
            sender.send(
                frame_message(path, station="line", frame_id=frame_id, part_id=None, encoding="as-is"), timeout_s=20
            )
        with pytest.raises(EdgeUadError, match=r"the last frames were not taken within 0\.2 s"):
            sender.flush(0.2)


def test_a_message_beyond_the_limit_cuts_its_sender_off_and_nobody_else() -> None:
    """It is refused by its announced length: nothing of it is held in memory."""
    with opened() as source, peer(zmq.PUSH, source.bound_endpoint) as honest:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with zmq_greeted(source.bound_endpoint) as greeted:
            # a long frame's flag and its length, one byte beyond what is allowed; then as much as is taken
            greeted.sendall(b"\x02" + (MAX_IMAGE_BYTES + 1).to_bytes(8, "big"))
            with pytest.raises(ConnectionError):
                greeted.sendall(bytes(MAX_IMAGE_BYTES))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024
        honest.send_multipart(message(6))
        assert read(source).frame_id == 6


def test_a_subscriber_counts_what_it_missed() -> None:
    with opened("sub") as source, peer(zmq.XPUB, source.bound_endpoint) as sender:
        until(lambda: source.read(0.01) is None and bool(sender.poll(0)))  # the source subscribes while it reads
        assert sender.recv() == b"\x01"
        for frame_id in (7, 8, 12, 3, 4):
            sender.send_multipart(message(frame_id))
        frames = [read(source) for _ in range(5)]
    assert [frame.dropped_before for frame in frames] == [0, 0, 3, 0, 0]  # 3: the sender counts anew


def test_pull_does_not_take_two_senders_side_by_side_for_losses() -> None:
    with opened() as source, peer(zmq.PUSH, source.bound_endpoint) as sender:
        for frame_id in (0, 1000, 1, 1001):
            sender.send_multipart(message(frame_id))
        assert [read(source).dropped_before for _ in range(4)] == [0, 0, 0, 0]


SKEWS_S = [-3600, -61, -59, -5, 5, 3600]
"""The sender's clock less this machine's: the first ones are behind."""


@pytest.mark.parametrize("skew_s", SKEWS_S)
def test_a_sender_with_another_clock_does_not_bend_the_latency(skew_s: int) -> None:
    with opened() as source, peer(zmq.PUSH, source.bound_endpoint) as sender:
        assert source.sender_clock_offset_s is None
        before_ns = time.monotonic_ns()
        captured_at_ns = time.time_ns() + skew_s * 10**9
        sender.send_multipart(message(1, captured_at_ns=captured_at_ns))
        frame = read(source)
        assert source.sender_clock_offset_s == pytest.approx(skew_s, abs=20)
    assert frame.captured_at_ns == captured_at_ns
    assert before_ns <= frame.captured_mono_ns <= time.monotonic_ns()


@pytest.mark.parametrize("skew_s", [-61, -59, -5])
def test_a_frame_of_a_trusted_sender_is_as_old_as_it_says(skew_s: int) -> None:
    with opened(trust_sender_clock=True) as source, peer(zmq.PUSH, source.bound_endpoint) as sender:
        sender.send_multipart(message(1, captured_at_ns=time.time_ns() + skew_s * 10**9))
        sender.send_multipart([b"line", message(2, captured_at_ns=time.time_ns() + skew_s * 10**9)[1], b""])
        for _ in range(2):  # one that holds no picture, too
            # the source reads its two clocks one after the other, and the wall clock may be slewed meanwhile
            assert -0.05 <= (time.monotonic_ns() - read(source).captured_mono_ns) / 1e9 + skew_s < 20


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("skew_s", SKEWS_S)
def test_a_deadline_counts_from_arrival_unless_the_senders_clock_is_trusted(skew_s: int, trusted: bool) -> None:
    source = ZmqSource("line", ANY_PORT, trust_sender_clock=trusted)
    line = Line(source, deadline_ms=30_000)
    with line.running():
        until(lambda: source.bound_endpoint is not None)
        with peer(zmq.PUSH, source.bound_endpoint) as sender:
            sender.send_multipart(message(1, captured_at_ns=time.time_ns() + skew_s * 10**9))
            line.sink.wait_for(lambda: bool(line.sink.verdicts))
        line.sink.wait_for(lambda: line.sink.statuses[-1].sender_clock_offset_s is not None)
        assert line.sink.statuses[-1].sender_clock_offset_s == pytest.approx(skew_s, abs=20)
    [verdict] = line.sink.verdicts
    assert verdict.captured_at_ns // 10**9 - time.time_ns() // 10**9 == pytest.approx(skew_s, abs=20)
    late = trusted and skew_s < -30
    assert (verdict.reason == "deadline") is late
    assert (verdict.latency_ms > 30_000) is late


def test_a_sender_killed_and_restarted_is_taken_up_again() -> None:
    with opened() as source:
        for frame_id in range(3):
            with peer(zmq.PUSH, source.bound_endpoint) as sender:
                sender.send_multipart(message(frame_id))
            assert read(source).frame_id == frame_id


def test_a_closed_source_can_be_opened_again_on_its_port() -> None:
    with opened() as first:
        endpoint = first.bound_endpoint
    assert endpoint is not None
    with opened(endpoint=endpoint) as again, peer(zmq.PUSH, endpoint) as sender:
        sender.send_multipart(message(1))
        assert read(again).frame_id == 1


def test_a_source_that_is_shut_gives_all_that_was_sent_and_takes_no_more() -> None:
    """Most of it lies in the sockets' buffers when the stop comes."""
    with opened() as source, peer(zmq.PUSH, source.bound_endpoint) as sender:
        for frame_id in range(300):
            sender.send_multipart(message(frame_id))
        assert read(source).frame_id == 0  # what the sender's socket still holds follows without a pause
        source.shut()
        ids = [0]
        with pytest.raises(SourceEndedError, match="accepts no more frames"):  # noqa: PT012  (to the end)
            while True:
                ids.append(read(source).frame_id)
        assert ids == list(range(300))
        assert source.bound_endpoint is None
        sender.setsockopt(zmq.LINGER, 0)


def test_a_sender_that_never_pauses_does_not_hold_up_the_stop() -> None:
    going = threading.Event()
    sent: list[int] = []

    def flood(endpoint: str | None) -> None:
        with peer(zmq.PUSH, endpoint) as sender:
            sender.setsockopt(zmq.LINGER, 0)
            sender.setsockopt(zmq.SNDTIMEO, 100)
            while not going.is_set():
                with contextlib.suppress(zmq.Again):
                    sender.send_multipart(message(len(sent)))
                    sent.append(len(sent))

    with opened() as source:
        thread = threading.Thread(target=flood, args=(source.bound_endpoint,))
        thread.start()
        read(source)
        source.shut()
        ids = []
        with pytest.raises(SourceEndedError):  # noqa: PT012  (to the end)
            while True:
                ids.append(read(source).frame_id)
    going.set()
    thread.join(20)
    assert ids == list(range(1, len(ids) + 1))


def test_a_live_source_that_is_shut_ends_at_once() -> None:
    with opened("sub") as source:
        source.shut()
        with pytest.raises(SourceEndedError):
            source.read(20.0)


def test_an_endpoint_in_use_or_open_to_the_network_is_refused() -> None:
    with opened() as source:
        assert source.bound_endpoint is not None
        refused = ZmqSource("line", source.bound_endpoint)
        with pytest.raises(EndpointError, match="is in use by another program; stop it, or give this station"):
            refused.open()
        refused.close()
    with pytest.raises(EndpointError, match="insecure: true"):
        ZmqSource("line", "tcp://0.0.0.0:5560")


@pytest.mark.parametrize("encoding", SEND_ENCODINGS)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_every_encoding_of_the_sender_is_understood(
    encoding: str, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("part") / f"part{suffix}"
    Image.fromarray(picture(hw=(16, 24))).save(path)
    with opened() as source:
        assert source.bound_endpoint is not None
        with FrameSender(source.bound_endpoint) as sender:
            sender.send(frame_message(path, station="line", frame_id=3, part_id="p", encoding=encoding), timeout_s=20)
            frame = read(source)
    assert isinstance(frame, Frame)
    assert np.abs(frame.image.astype(int) - picture(hw=(16, 24))).max() <= 3


def test_a_file_that_is_no_picture_is_sent_and_found_unreadable(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("part") / "part.png"
    path.write_bytes(b"no picture")
    with opened() as source:
        assert source.bound_endpoint is not None
        with FrameSender(source.bound_endpoint) as sender:
            sender.send(frame_message(path, station="line", frame_id=3, part_id="p", encoding="jpeg"), timeout_s=20)
            frame = read(source)
    assert isinstance(frame, UnreadableFrame)
    assert (frame.frame_id, frame.part_id) == (3, "p")


@pytest.mark.parametrize("least_side_px", [None, 40])
def test_a_damaged_jpeg_is_unreadable_and_the_next_one_is_fine(
    tmp_path_factory: pytest.TempPathFactory, least_side_px: int | None
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    Image.fromarray(drawn.draw_part(np.random.default_rng(0), side_px=160)).save(folder / "whole.jpg", quality=90)
    payload = (folder / "whole.jpg").read_bytes()
    middle = len(payload) * 2 // 3
    (folder / "cut.jpg").write_bytes(payload[:middle] + b"\xff\xd9")
    (folder / "zeros.jpg").write_bytes(payload[:middle] + bytes(256) + payload[middle + 256 :])
    frames = []
    with opened() as source:
        assert source.bound_endpoint is not None
        if least_side_px is not None:
            source.reduce_to(least_side_px)
        with FrameSender(source.bound_endpoint) as sender:
            for frame_id, name in enumerate(("cut", "zeros", "whole")):
                path = folder / f"{name}.jpg"
                sender.send(
                    frame_message(path, station="line", frame_id=frame_id, part_id=name, encoding="as-is"),
                    timeout_s=20,
                )
                frames.append(read(source))
    cut, zeros, whole = frames
    for damaged in (cut, zeros):
        assert isinstance(damaged, UnreadableFrame)
        assert damaged.reason.startswith("the image is damaged or truncated")
        assert damaged.payload == (folder / f"{damaged.part_id}.jpg").read_bytes()
    assert isinstance(whole, Frame)


def test_a_sender_without_a_daemon_says_so() -> None:
    with opened() as source:
        endpoint = source.bound_endpoint
    assert endpoint is not None
    with (
        FrameSender(endpoint) as sender,
        pytest.raises(EdgeUadError, match=r"frame 0 was not taken within 0.2 s: no daemon takes frames at tcp://"),
    ):
        sender.send(
            FrameMessage(
                station="line",
                frame_id=0,
                part_id=None,
                captured_at_ns=0,
                encoding="mono8",
                height=1,
                width=1,
                payload=b"x",
            ),
            timeout_s=0.2,
        )
