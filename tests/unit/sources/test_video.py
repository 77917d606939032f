"""A video file gives every frame once and ends; a camera that is not there is waited for."""

import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edge_uad.errors import SourceEndedError, SourceLostError, UsageError
from edge_uad.records import Frame
from edge_uad.sources import recorded_source
from edge_uad.sources.camera import V4L2, CameraSource
from edge_uad.sources.ffmpeg.source import has_format, stamped_by_device
from edge_uad.sources.opencv import OpenCvCameraSource
from edge_uad.sources.video import VideoSource
from tests.fakes import read_to_end
from tests.films import number_of, write_film

N_FRAMES = 12


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red brightening frame by frame, as MJPEG."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(N_FRAMES):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * number), np.uint8))
    writer.release()
    return path


def test_every_frame_comes_once_in_order_in_rgb(film: Path) -> None:
    frames = read_to_end(VideoSource("line", film))
    assert [frame.frame_id for frame in frames] == list(range(N_FRAMES))
    images = [frame.image for frame in frames if isinstance(frame, Frame)]
    assert {image.shape for image in images} == {(48, 64, 3)}
    reds = [float(image[..., 0].mean()) for image in images]
    assert reds == sorted(reds)
    assert reds[-1] - reds[0] > 150
    assert max(image[..., 2].mean() for image in images) < 20


def test_the_end_of_a_film_is_reported(film: Path) -> None:
    source = VideoSource("line", film)
    source.open()
    for _ in range(N_FRAMES):
        source.read(1.0)
    with pytest.raises(SourceEndedError, match=f"ended after {N_FRAMES} frames"):
        source.read(1.0)
    source.close()
    source.close()


def test_a_recording_knows_its_length(film: Path) -> None:
    source, total = recorded_source(str(film))
    assert isinstance(source, VideoSource)
    assert total == N_FRAMES


def test_a_file_that_is_no_video_is_refused_for_good(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"this is no video" * 100)
    with pytest.raises(UsageError, match=r"film.mp4 is not a video that can be read"):
        VideoSource("line", path).open()
    assert recorded_source(str(path))[1] is None


@pytest.mark.parametrize("device", ["97", "/dev/video97"])
def test_a_camera_that_is_not_there_may_come_later(device: str) -> None:
    source = CameraSource("line", device)
    with pytest.raises(SourceLostError, match=f"camera {device}: /dev/video97 is not there"):
        source.open()
    with pytest.raises(SourceLostError, match="is not open"):
        source.read(0.1)
    source.close()


def test_a_device_that_is_no_camera_may_become_one() -> None:
    with pytest.raises(SourceLostError, match="camera /dev/null cannot be opened"):
        CameraSource("line", "/dev/null").open()


def test_where_ffmpeg_cannot_open_a_camera_opencv_reads_it_and_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    write_film(path, 3, codec="mpeg4", options={"b": "4000000"})
    source = OpenCvCameraSource("line", str(path), shown="camera 0", backend=cv2.CAP_FFMPEG)
    source.next_id = 7
    source.open()
    frames = [source.read(1.0) for _ in range(3)]
    assert [number_of(frame.image) for frame in frames if isinstance(frame, Frame)] == [0, 1, 2]
    assert [frame.frame_id for frame in frames if frame is not None] == [7, 8, 9]
    other = source.fresh()
    with pytest.raises(SourceLostError, match="gives no frames; is it still plugged in"):
        source.read(1.0)
    other.open()
    frame = other.read(1.0)
    assert frame is not None
    assert frame.frame_id == 10
    other.close()
    source.close()


def test_a_camera_and_its_replacement_are_independent() -> None:
    source = CameraSource("line", "97")
    other = source.fresh()
    with pytest.raises(SourceLostError, match="is not there"):
        other.open()
    other.close()
    source.close()


def test_this_ffmpeg_reads_v4l2() -> None:
    """Where a later build does not, OpenCV takes over."""
    assert has_format(V4L2)
    assert not has_format("no such format")


def test_a_time_stamp_of_the_driver_is_taken_where_its_clock_is_ours() -> None:
    now_mono_ns = time.monotonic_ns()
    packet = av.Packet(b"x")
    packet.time_base = Fraction(1, 1_000_000)
    for stamp_us in ((now_mono_ns // 1000) - 30_000, time.time_ns() // 1000 - 30_000):
        packet.pts = stamp_us
        arrival = stamped_by_device(packet)
        assert arrival is not None
        assert abs(arrival.mono_ns - (now_mono_ns - 30_000_000)) < 5_000_000_000
        assert arrival.mono_ns < time.monotonic_ns() - 29_000_000
    packet.pts = 12_345
    if now_mono_ns > 11_000_000_000:
        assert stamped_by_device(packet) is None
