"""A video file gives every frame once and ends; a camera that is not there is waited for, not given up."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_uad.errors import SourceEndedError, SourceLostError, UsageError
from edge_uad.records import Frame
from edge_uad.sources import recorded_source
from edge_uad.sources.camera import CameraSource
from edge_uad.sources.video import VideoSource
from tests.fakes import read_to_end

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


def test_the_end_of_a_film_is_told(film: Path) -> None:
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
