"""Streams over real sockets, damaged at seeded places: no picture may show anything but what its sender took.

Each picture bears its number. What was received whole is compared with the same picture of the undamaged stream, pixel
for pixel: a part that was concealed, or a picture decoded from others than its own references, differs.
"""

import contextlib
import io
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from edge_uad.errors import SourceLostError
from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame
from edge_uad.sources.decode import decode_image
from edge_uad.sources.stream import StreamSource
from tests.films import RATE_HZ, jpeg, number_of, numbered, transport_stream
from tests.processes import Running

N_FRAMES = 40
KEY_EVERY = 10
VIDEO_PID = 0x100
SEEDS = range(3)


def frames_until_lost(url: str, *, frame_timeout_s: float = 0.7) -> list[AnyFrame]:
    """Every frame until the stream breaks off."""
    source = StreamSource("line", url, open_timeout_s=20, frame_timeout_s=frame_timeout_s)
    source.open()
    frames = []
    try:
        while True:
            frame = source.read(0.2)
            if frame is not None:
                frames.append(frame)
    except SourceLostError:
        return frames
    finally:
        source.close()


def numbers_of_whole(frames: Sequence[AnyFrame], sent: dict[int, UInt8]) -> list[int]:
    """The numbers of the pictures given as whole.

    Raises:
        AssertionError: one is not pixel for pixel what was sent under the number that it shows.
    """
    numbers = []
    for frame in frames:
        if isinstance(frame, Frame):
            number = number_of(frame.image)
            assert number is not None, f"frame {frame.frame_id} shows no number"
            assert np.array_equal(frame.image, sent[number]), f"the picture numbered {number} has pixels of others"
            numbers.append(number)
    assert all(one < other for one, other in pairwise(numbers))
    assert [frame.frame_id for frame in frames] == list(range(len(frames)))
    return numbers


# --- Motion JPEG over HTTP


@contextmanager
def http_parts(parts: Sequence[bytes], *, with_length: bool = True, every_s: float = 0) -> Iterator[str]:
    """Serves them as multipart/x-mixed-replace, as IP cameras do; gives the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=part")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.send_parts()

        def send_parts(self) -> None:
            for part in parts:
                time.sleep(every_s)
                length = f"Content-Length: {len(part)}\r\n" if with_length else ""
                self.wfile.write(f"--part\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"--part--\r\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name that http.server gives it)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/stream"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("with_length", [True, False], ids=["with lengths", "without lengths"])
def test_of_http_parts_cut_short_none_is_judged(with_length: bool) -> None:
    rng = np.random.default_rng(1)
    damaged = set(rng.choice(np.arange(1, 19), 6, replace=False).tolist())
    parts = [jpeg(number) for number in range(20)]
    cut = [part[: int(len(part) * rng.uniform(0.1, 0.9))] if n in damaged else part for n, part in enumerate(parts)]
    with http_parts(cut, with_length=with_length) as url:
        frames = frames_until_lost(url)
    numbers = numbers_of_whole(frames, {n: decode_image(part) for n, part in enumerate(parts)})
    refused = {frame.frame_id for frame in frames if isinstance(frame, UnreadableFrame)}
    if not with_length:  # where the last part ends is not known, as the stream breaks off there
        damaged |= {19}
    assert refused == damaged
    assert numbers == [number for number in range(20) if number not in damaged]
    assert all(one.payload == cut[one.frame_id] for one in frames if isinstance(one, UnreadableFrame))


def test_the_last_http_part_cut_to_a_quarter_is_no_picture() -> None:
    parts = [jpeg(number) for number in range(3)]
    with http_parts([*parts[:2], parts[2][: len(parts[2]) // 4]], with_length=True) as url:
        *_, last = frames_until_lost(url)
    assert isinstance(last, UnreadableFrame)
    assert "a damaged picture" in last.reason


def test_a_camera_that_repeats_one_picture_is_invalid_until_it_changes(
    tiny_model: Path, tiny_bank: Path, tmp_path: Path
) -> None:
    parts = [jpeg(0)] * 40 + [jpeg(number) for number in range(1, 10)]
    config = tmp_path / "line.yaml"
    with http_parts(parts, every_s=0.05) as url:
        config.write_text(
            f"stations:\n  - {{name: line, source: {url}, bank: {tiny_bank}, mode: every, frozen_after_s: 0.5}}\n"
            f"model: {tiny_model}\nthreads: 1\npublish: {{endpoint: 'tcp://127.0.0.1:*', heatmap: never}}\n"
        )
        with Running.edge_uad("serve", "--config", config) as daemon:
            endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
            with Running.edge_uad("watch", endpoint, "--json") as watch:
                watch.wait_for('"decision": "invalid", "reason": "the picture has not changed for 0.5 s"')
                watch.wait_for('"message": "the picture has not changed for 0.5 s"')
                daemon.wait_for("line: the picture changes again")
                watch.wait_for('"frame_id": 45, ')
                watch.signal(signal.SIGINT)
                watch.ends(code=0)
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
    verdicts = {one["frame_id"]: one for one in map(json.loads, watch.out) if "decision" in one}
    assert {verdicts[frame_id]["decision"] for frame_id in range(30, 40)} == {"invalid"}
    assert "invalid" not in {verdicts[frame_id]["decision"] for frame_id in range(40, 46)}


# --- MPEG-TS over UDP


@cache
def sent_stream(codec: str, b_frames: int) -> tuple[list[bytes], dict[int, UInt8]]:
    """A transport stream and its pictures, decoded undamaged."""
    options = {"x265-params": f"log-level=none:bframes={b_frames}:keyint={KEY_EVERY}"} if codec == "libx265" else {}
    packets = transport_stream(N_FRAMES, codec=codec, key_every=KEY_EVERY, b_frames=b_frames, options=options)
    pictures = {}
    with av.open(io.BytesIO(b"".join(packets)), format="mpegts") as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            pictures[number] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            assert number_of(pictures[number]) == number
    assert len(pictures) == N_FRAMES
    return packets, pictures


def video_packets(packets: Sequence[bytes]) -> list[int]:
    return [at for at, packet in enumerate(packets) if int.from_bytes(packet[1:3], "big") & 0x1FFF == VIDEO_PID]


def send_udp(packets: Sequence[bytes], port: int) -> None:
    """In datagrams of seven, slower than the receiver reads."""
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        for at in range(0, len(packets), 7):
            sender.sendto(b"".join(packets[at : at + 7]), ("127.0.0.1", port))
            time.sleep(0.002)


def free_udp_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def received_by_udp(packets: Sequence[bytes]) -> list[AnyFrame]:
    port = free_udp_port()

    def send() -> None:
        until_bound(port)
        send_udp(packets, port)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        return frames_until_lost(f"udp://127.0.0.1:{port}")
    finally:
        thread.join()


def until_bound(port: int) -> None:
    """Return once somebody has bound the UDP port."""
    wanted = f":{port:04X} "
    deadline_s = time.monotonic() + 20
    while wanted not in Path("/proc/net/udp").read_text():
        assert time.monotonic() < deadline_s, "nobody listens"
        time.sleep(0.005)


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 0), ("libx264", 2), ("libx265", 0), ("mpeg2video", 0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_transport_stream_with_lost_packets_no_picture_shows_another(seed: int, codec: str, b_frames: int) -> None:
    packets, sent = sent_stream(codec, b_frames)
    rng = np.random.default_rng(seed)
    lost = set(rng.choice(video_packets(packets)[8:], 3, replace=False).tolist())
    frames = received_by_udp([packet for at, packet in enumerate(packets) if at not in lost])
    numbers = numbers_of_whole(frames, sent)
    assert 0 < len(numbers) < N_FRAMES
    assert any(isinstance(frame, UnreadableFrame) for frame in frames)


def test_a_transport_stream_without_losses_comes_whole() -> None:
    packets, sent = sent_stream("libx264", 2)
    frames = received_by_udp(packets)
    assert numbers_of_whole(frames, sent) == list(range(N_FRAMES))


def test_a_loss_that_the_continuity_counter_does_not_show_is_noticed() -> None:
    """It counts to sixteen, so that sixteen lost packets are none. H.264's own count of reference pictures goes on."""
    packets, sent = sent_stream("libx264", 0)
    video = video_packets(packets)
    starts = [n for n, at in enumerate(video) if packets[at][1] & 0x40]
    spans = [(first, end) for first in starts[KEY_EVERY + 2 :] for end in starts if end - first in {16, 32, 48, 64}]
    assert spans, "no pictures together have so many packets"
    lost = set(video[slice(*spans[0])])
    frames = received_by_udp([packet for at, packet in enumerate(packets) if at not in lost])
    numbers = numbers_of_whole(frames, sent)
    assert KEY_EVERY <= len(numbers) < N_FRAMES - 1
    assert any("refers to" in frame.reason for frame in frames if isinstance(frame, UnreadableFrame))


# --- RTP, by a camera that knows RTSP


def rtp_packets(n_frames: int) -> tuple[list[bytes], str, dict[int, UInt8]]:
    """H.264 as RTP packets, their SDP, and the pictures decoded undamaged."""
    received: list[bytes] = []
    with socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.2)
        file = io.BytesIO()
        port = receiver.getsockname()[1]
        with (
            av.open(f"rtp://127.0.0.1:{port}?pkt_size=600", "w", format="rtp") as rtp,
            av.open(file, "w", format="h264") as plain,
        ):
            stream = rtp.add_stream("libx264", rate=RATE_HZ, options={"tune": "zerolatency"})
            stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
            stream.codec_context.gop_size = KEY_EVERY
            copied = plain.add_stream_from_template(stream)
            pictures = [av.VideoFrame.from_ndarray(numbered(number), format="rgb24") for number in range(n_frames)]
            for picture in [*pictures, None]:
                for packet in stream.encode(picture):
                    copy = av.Packet(bytes(packet))
                    copy.stream, copy.pts, copy.dts, copy.time_base = copied, packet.pts, packet.dts, packet.time_base
                    plain.mux(copy)
                    rtp.mux(packet)
                    received += drained(receiver)
    with av.open(io.BytesIO(file.getvalue()), format="h264") as container:
        container.streams.video[0].thread_count = 1
        decoded = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=line\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    return received, sdp + "a=fmtp:96 packetization-mode=1\r\na=control:track\r\n", dict(enumerate(decoded))


def drained(receiver: socket.socket) -> list[bytes]:
    receiver.setblocking(False)
    packets = []
    try:
        while True:
            packets.append(receiver.recv(2048))
    except BlockingIOError:
        return packets


@contextmanager
def rtsp_camera(packets: Sequence[bytes], sdp: str, *, udp: bool) -> Iterator[str]:
    """A camera of one viewer; gives its URL. RTP goes over UDP, or over the connection itself."""

    def serve() -> None:
        connection, _ = listener.accept()
        with (
            contextlib.suppress(ConnectionError),
            connection,
            connection.makefile("rb") as requests,
            socket.socket(type=socket.SOCK_DGRAM) as sender,
        ):
            sender.bind(("127.0.0.1", 0))
            viewer = 0
            while line := requests.readline():
                method = line.split()[0].decode()
                headers = {}
                while (header := requests.readline().decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                status, more, body = "200 OK", "Session: 1\r\n", ""
                if method == "DESCRIBE":
                    body, more = sdp, "Content-Type: application/sdp\r\n"
                elif method == "SETUP":
                    over_udp = re.search(r"client_port=(\d+)", headers["transport"])
                    if udp and over_udp is None:
                        status = "461 Unsupported Transport"
                    viewer = int(over_udp[1]) if over_udp else 0
                    port = sender.getsockname()[1]
                    more += f"Transport: {headers['transport']};server_port={port}-{port + 1}\r\n"
                reply = f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
                connection.sendall((reply + body).encode())
                if method == "PLAY":
                    for packet in packets:
                        if viewer:
                            sender.sendto(packet, ("127.0.0.1", viewer))
                        else:
                            connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                        time.sleep(0.001)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/line"
        thread.join()


@pytest.fixture(scope="module")
def rtp() -> tuple[list[bytes], str, dict[int, UInt8]]:
    return rtp_packets(N_FRAMES)


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "tcp"])
def test_an_rtsp_stream_without_losses_comes_whole(rtp: tuple[list[bytes], str, dict[int, UInt8]], udp: bool) -> None:
    packets, sdp, sent = rtp
    with rtsp_camera(packets, sdp, udp=udp) as url:
        frames = frames_until_lost(url)
    numbers = numbers_of_whole(frames, sent)
    assert numbers == list(range(N_FRAMES - len(numbers), N_FRAMES))
    assert len(numbers) >= N_FRAMES - KEY_EVERY


@pytest.mark.parametrize("seed", SEEDS)
def test_of_an_rtsp_stream_with_lost_packets_no_picture_shows_another(
    rtp: tuple[list[bytes], str, dict[int, UInt8]], seed: int
) -> None:
    packets, sdp, sent = rtp
    lost = set(np.random.default_rng(seed).choice(np.arange(60, len(packets)), 3, replace=False).tolist())
    with rtsp_camera([one for at, one in enumerate(packets) if at not in lost], sdp, udp=True) as url:
        frames = frames_until_lost(url)
    numbers = numbers_of_whole(frames, sent)
    assert 0 < len(numbers) < N_FRAMES
