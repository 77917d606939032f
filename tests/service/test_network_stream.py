"""A real network stream, MPEG-TS from ffmpeg over loopback: it hangs, is killed, comes back in another size."""

import itertools
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edge_uad.records import Frame, StationState
from edge_uad.sources.capture import Backoff, Capture
from edge_uad.sources.queues import BoundedFrameQueue
from edge_uad.sources.stream import StreamSource
from tests.fakes import until

FFMPEG = shutil.which("ffmpeg")
pytestmark = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed: apt-get install ffmpeg")

PATIENCE_S = 60.0


@contextmanager
def camera(kind: str, port: int, size: str) -> Iterator[subprocess.Popen[bytes]]:
    """A test picture of that size, 20 frames a second, until the block ends: then it is killed."""
    options = ["-listen", "1"] if kind == "http" else []
    shown = ["-re", "-f", "lavfi", "-i", f"testsrc=size={size}:rate=20"]
    encoded = ["-c:v", "mpeg2video", "-g", "5", "-b:v", "2M", "-f", "mpegts"]
    address = f"{kind}://127.0.0.1:{port}"
    with subprocess.Popen(
        [str(FFMPEG), "-loglevel", "quiet", "-nostdin", *shown, *encoded, *options, address]
    ) as process:
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
        on_change=lambda: states.append(capture.standing[0]),
    )
    ids: list[int] = []

    def frames_of(height: int) -> int:
        taken = list(iter(queue.take, None))
        ids.extend(one.frame_id for one in taken)
        return sum(isinstance(one, Frame) and one.image.shape[0] == height for one in taken)

    capture.start()
    until(lambda: capture.reconnects > 0, PATIENCE_S)  # the camera is switched on last
    with camera(kind, port, "320x240") as process:
        until(lambda: frames_of(240) > 0, PATIENCE_S)
        process.send_signal(signal.SIGSTOP)  # the connection stays, and no byte comes
        lost_before = capture.reconnects
        until(lambda: capture.reconnects > lost_before, PATIENCE_S)
        if kind == "udp":  # a server of one connection, as ffmpeg's for HTTP, takes no second one
            process.send_signal(signal.SIGCONT)
            until(lambda: frames_of(240) > 0, PATIENCE_S)
    with camera(kind, port, "640x480"):
        until(lambda: frames_of(480) > 0, PATIENCE_S)
        capture.request_stop()
        assert capture.join(PATIENCE_S)
    frames_of(480)
    assert all(one < other for one, other in itertools.pairwise(ids))
    assert {StationState.RUNNING, StationState.RECONNECTING} <= set(states)
    assert capture.hung == 0
    assert threading.active_count() == threads_before
