"""A real network stream, MPEG-TS from another process: it hangs, is killed, comes back in another size."""

import itertools
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_uad.records import Frame, StationState
from edge_uad.sources.capture import Backoff, Capture
from edge_uad.sources.queues import BoundedFrameQueue
from edge_uad.sources.stream import StreamSource
from tests.fakes import until

PATIENCE_S = 60.0


SENDER = """
import contextlib, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import av
from tests.films import numbered
kind, port, hw = sys.argv[1], int(sys.argv[2]), (int(sys.argv[3]), int(sys.argv[4]))

def send(target):
    with contextlib.suppress(OSError), av.open(target, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=20)
        stream.height, stream.width = hw
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 5
        for number in range(10**9):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number % 1000, hw), format="rgb24")))
            time.sleep(0.05)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        send(self.wfile)

    def log_message(self, *args):
        pass

if kind == "udp":
    send(f"udp://127.0.0.1:{port}")
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@contextmanager
def camera(kind: str, port: int, hw: tuple[int, int]) -> Iterator[subprocess.Popen[bytes]]:
    """Numbered pictures of that size, 20 a second, until the block ends: then it is killed."""
    with subprocess.Popen([sys.executable, "-c", SENDER, kind, str(port), *map(str, hw)]) as process:
        try:
            yield process
        finally:
            process.kill()


def free_port(kind: str) -> int:
    with socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("kind", ["udp", "http"])
def test_a_stream_that_hangs_or_dies_is_taken_up_again(kind: str) -> None:
    threads_before = threading.active_count()
    port = free_port(kind)
    queue = BoundedFrameQueue(lambda: None, capacity=100_000)
    states: list[StationState] = []
    capture = Capture(
        station="line",
        source=StreamSource("line", f"{kind}://127.0.0.1:{port}", open_timeout_s=5, frame_timeout_s=1),
        queue=queue,
        backoff=Backoff(first_s=0.05, max_s=0.2),
        on_change=lambda: states.append(capture.state[0]),
    )
    ids: list[int] = []

    def frames_of(height: int) -> int:
        taken = list(iter(queue.take, None))
        ids.extend(one.frame_id for one in taken)
        return sum(isinstance(one, Frame) and one.image.shape[0] == height for one in taken)

    capture.start()
    until(lambda: capture.reconnects > 0, PATIENCE_S)  # the camera is switched on last
    with camera(kind, port, (240, 320)) as process:
        until(lambda: frames_of(240) > 0, PATIENCE_S)
        process.send_signal(signal.SIGSTOP)  # the connection stays, and no byte comes
        lost_before = capture.reconnects
        until(lambda: capture.reconnects > lost_before, PATIENCE_S)
        process.send_signal(signal.SIGCONT)
        frames_of(240)
        until(lambda: frames_of(240) > 0, PATIENCE_S)
    with camera(kind, port, (480, 640)):
        until(lambda: frames_of(480) > 0, PATIENCE_S)
        capture.request_stop()
        assert capture.join(PATIENCE_S)
    frames_of(480)
    assert all(one < other for one, other in itertools.pairwise(ids))
    assert {StationState.RUNNING, StationState.RECONNECTING} <= set(states)
    assert capture.hung == 0
    assert threading.active_count() == threads_before
