"""A network stream, served over loopback by HTTP: it comes, breaks off, and heals."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_uad.errors import SourceLostError, UsageError
from edge_uad.interfaces import ReplaceableSource
from edge_uad.records import Frame, StationState
from edge_uad.sources.camera import CameraSource
from edge_uad.sources.capture import Backoff, Capture
from edge_uad.sources.queues import BoundedFrameQueue
from edge_uad.sources.stream import StreamSource
from edge_uad.sources.video import VideoSource
from tests.fakes import until

N_FRAMES = 5


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name that http.server gives it)
        pass


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[int]:
    """The folder over HTTP; gives the port."""
    with ThreadingHTTPServer(("127.0.0.1", port), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for _ in range(N_FRAMES):
        writer.write(np.full((48, 64, 3), 99, np.uint8))
    writer.release()
    return tmp_path


def test_a_stream_gives_frames_until_it_breaks_off(folder: Path) -> None:
    with served(folder) as port:
        source = StreamSource("line", f"http://user:secret@127.0.0.1:{port}/film.avi")
        source.open()
        frames = [source.read(1.0) for _ in range(N_FRAMES)]
        assert [frame.image.shape for frame in frames if isinstance(frame, Frame)] == [(48, 64, 3)] * N_FRAMES
        with pytest.raises(SourceLostError, match=f"http://127.0.0.1:{port}/film.avi stopped giving frames"):
            source.read(1.0)
        source.close()


def test_a_stream_that_is_not_there_is_lost_not_refused() -> None:
    with served(Path("/nowhere")) as port:
        pass
    with pytest.raises(SourceLostError, match=r"cannot be opened \(connection refused\); is the camera on"):
        StreamSource("line", f"http://127.0.0.1:{port}/film.avi").open()


def test_a_protocol_that_ffmpeg_was_built_without_is_refused_for_good() -> None:
    with pytest.raises(UsageError, match=r"srt://127.0.0.1:9: the FFmpeg of this installation does not have that"):
        StreamSource("line", "srt://127.0.0.1:9").open()


def test_a_stream_and_a_camera_can_be_replaced_and_count_on_but_a_film_would_begin_anew(folder: Path) -> None:
    with served(folder) as port:
        source = StreamSource("line", f"http://127.0.0.1:{port}/film.avi")
        source.open()
        assert [source.read(1.0).frame_id for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
        other = source.fresh()
        with pytest.raises(SourceLostError, match="is not open"):
            other.read(1.0)
        other.open()
        assert [one.read(1.0).frame_id for one in (other, source, other)] == [2, 2, 3]  # type: ignore[union-attr]
        other.close()
        source.close()
    assert isinstance(CameraSource("line", "0"), ReplaceableSource)
    assert not isinstance(VideoSource("line", folder / "film.avi"), ReplaceableSource)


def test_a_server_killed_and_restarted_is_taken_up_again(folder: Path) -> None:
    states: list[StationState] = []
    queue = BoundedFrameQueue(lambda: None, capacity=10_000)
    with served(folder) as port:
        capture = Capture(
            station="line",
            source=StreamSource("line", f"http://127.0.0.1:{port}/film.avi", open_timeout_s=2, frame_timeout_s=2),
            queue=queue,
            backoff=Backoff(first_s=0.01, max_s=0.05),
            on_change=lambda: states.append(capture.state[0]),
        )
        capture.start()
        until(lambda: queue.stats().waiting >= N_FRAMES)
    lost_before = capture.reconnects
    until(lambda: capture.reconnects > lost_before + 1)
    while queue.take():
        pass
    with served(folder, port):
        until(lambda: queue.stats().waiting >= N_FRAMES)
    capture.request_stop()
    assert capture.join(20)
    assert {StationState.RUNNING, StationState.RECONNECTING} <= set(states)
    ids = [frame.frame_id for frame in iter(queue.take, None)]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
