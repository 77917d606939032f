"""Video files, whole and damaged at seeded places: no picture may show anything but what was recorded.

Each picture bears its number and is compared, pixel for pixel, with the same picture of the undamaged file.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace

from edge_uad.errors import SourceEndedError, UsageError
from edge_uad.records import AnyFrame, Frame, UInt8, UnreadableFrame
from edge_uad.sources import recorded_source
from edge_uad.sources.ffmpeg.mjpeg import STANDARD_HUFFMAN_SEGMENT
from edge_uad.sources.recorded import frames_of, shortfall_of
from edge_uad.sources.video import VideoSource, frame_count
from tests.films import RATE_HZ, jpeg, number_of, numbered, transport_stream, write_film

N_FRAMES = 30
KEY_EVERY = 10
X265 = {"x265-params": "log-level=none:bframes=0:keyint=10:scenecut=0"}

Damage = Callable[[bytes, np.random.Generator], bytes]


def read(path: Path) -> list[AnyFrame]:
    return list(frames_of(VideoSource("line", path)))


def read_with_end(source: VideoSource) -> tuple[list[AnyFrame], str]:
    """Every frame, and the text of the end."""
    frames: list[AnyFrame] = []
    source.open()
    try:
        while True:
            frames += filter(None, [source.read(1.0)])
    except SourceEndedError as error:
        return frames, str(error)
    finally:
        source.close()


def numbers(frames: list[AnyFrame]) -> list[int | None]:
    """What each frame shows; None for one without a picture."""
    assert [frame.frame_id for frame in frames] == list(range(len(frames)))
    return [number_of(frame.image) if isinstance(frame, Frame) else None for frame in frames]


def pictures(path: Path) -> dict[int, UInt8]:
    return {frame.frame_id: frame.image for frame in read(path) if isinstance(frame, Frame)}


def check_pixels(frames: list[AnyFrame], recorded: dict[int, UInt8]) -> int:
    """How many whole pictures there are; each must be that of its number."""
    whole = [frame.image for frame in frames if isinstance(frame, Frame)]
    for image in whole:
        number = number_of(image)
        assert number is not None
        assert np.array_equal(image, recorded[number])
    return len(whole)


def remux(source: Path, target: Path, change: Callable[[int, bytes], bytes | None]) -> None:
    """Copy the packets of a film, changed; None leaves one out."""
    with av.open(str(source)) as film, av.open(str(target), "w") as output:
        stream = film.streams.video[0]
        copied = output.add_stream_from_template(stream)
        for number, packet in enumerate(film.demux(stream)):
            changed = change(number, bytes(packet)) if packet.size else None
            if changed is None:
                continue
            copy = av.Packet(changed)
            copy.stream, copy.time_base = copied, packet.time_base
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.is_keyframe = packet.is_keyframe
            output.mux(copy)


def cut(packet: bytes, rng: np.random.Generator) -> bytes:
    return packet[: int(len(packet) * rng.uniform(0.2, 0.9))]


def zeroed(packet: bytes, rng: np.random.Generator) -> bytes:
    at = int(len(packet) * rng.uniform(0.2, 0.8))
    return packet[:at] + bytes(len(packet[at : at + 64])) + packet[at + 64 :]


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("film.mp4", "libx264", 0),
        ("film.mp4", "libx264", 3),
        ("film.mov", "libx264", 2),
        ("film.mkv", "libx264", 2),
        ("film.avi", "libx264", 0),
        ("film.ts", "libx264", 3),
        ("film.mp4", "libx265", 0),
        ("film.mkv", "libx265", 0),
        ("film.mpg", "mpeg2video", 2),
        ("film.mp4", "mpeg4", 2),
        ("film.avi", "mpeg4", 0),
        ("film.avi", "mjpeg", 0),
        ("film.mjpeg", "mjpeg", 0),
        ("film.webm", "libvpx", 0),
        ("film.webm", "libvpx-vp9", 0),
    ],
)
def test_every_picture_of_a_whole_file_comes_once_and_in_order(
    tmp_path: Path, name: str, codec: str, b_frames: int
) -> None:
    path = tmp_path / name
    options = X265 if codec == "libx265" else {"b": "4000000"} if codec != "libx264" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    write_film(path, N_FRAMES, codec=codec, b_frames=b_frames, options=options, pix_fmt=pix_fmt)
    source, _ = recorded_source(str(path))
    assert numbers(list(frames_of(source))) == list(range(N_FRAMES))
    assert shortfall_of(source) is None


# --- Motion JPEG


@pytest.fixture
def mjpeg_film(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    write_film(path, N_FRAMES, codec="mjpeg", pix_fmt="yuvj420p", options={"qmin": "2", "qmax": "4"})
    return path


def test_a_cut_packet_of_motion_jpeg_costs_its_own_picture_only(mjpeg_film: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    hit = set(rng.choice(N_FRAMES, 8, replace=False).tolist()) | {N_FRAMES - 1}
    damaged = tmp_path / "damaged.avi"
    remux(mjpeg_film, damaged, lambda number, packet: cut(packet, rng) if number in hit else packet)
    frames = read(damaged)
    assert check_pixels(frames, pictures(mjpeg_film)) == N_FRAMES - len(hit)
    assert {frame.frame_id for frame in frames if isinstance(frame, UnreadableFrame)} == hit
    assert all(frame.payload for frame in frames if isinstance(frame, UnreadableFrame))


def test_motion_jpeg_overwritten_in_place_is_no_picture(mjpeg_film: Path, tmp_path: Path) -> None:
    """As a bad sector or an unwritten block leaves it: the packet has its length, and an end."""
    rng = np.random.default_rng(5)
    hit = set(rng.choice(N_FRAMES, 10, replace=False).tolist())
    damaged = tmp_path / "damaged.avi"

    def overwritten(number: int, packet: bytes) -> bytes:
        if number not in hit:
            return packet
        at = int(len(packet) * rng.uniform(0.3, 0.6))
        return packet[:at] + (bytes(512) if number % 2 else rng.bytes(512)) + packet[at + 512 :]

    remux(mjpeg_film, damaged, overwritten)
    frames = read(damaged)
    assert check_pixels(frames, pictures(mjpeg_film)) == N_FRAMES - len(hit)
    assert {frame.frame_id for frame in frames if isinstance(frame, UnreadableFrame)} == hit


def test_motion_jpeg_without_huffman_tables_is_decoded_with_the_standard_ones(tmp_path: Path) -> None:
    whole, bare = tmp_path / "whole.avi", tmp_path / "bare.avi"
    parts = [jpeg(number) for number in range(5)]
    for path, packets in ((whole, parts), (bare, [without_tables(part) for part in parts])):
        with av.open(str(path), "w") as output:
            stream = output.add_stream("mjpeg", rate=RATE_HZ)
            stream.height, stream.width, stream.pix_fmt = 240, 320, "yuvj420p"
            for number, payload in enumerate(packets):
                packet = av.Packet(payload)
                packet.stream, packet.pts, packet.dts = stream, number, number
                packet.time_base, packet.is_keyframe = Fraction(1, RATE_HZ), True
                output.mux(packet)
    assert STANDARD_HUFFMAN_SEGMENT[4:] not in bare.read_bytes()
    assert check_pixels(read(bare), pictures(whole)) == len(parts)


def without_tables(part: bytes) -> bytes:
    """A baseline JPEG of Pillow, which has the standard tables, without them."""
    kept, at = part[:2], 2
    while part[at + 1] != 0xDA:
        length = 2 + int.from_bytes(part[at + 2 : at + 4], "big")
        if part[at + 1] != 0xC4:
            kept += part[at : at + length]
        at += length
    return kept + part[at:]


# --- H.264, HEVC, MPEG


@pytest.mark.parametrize("damage", [cut, zeroed])
@pytest.mark.parametrize(
    ("codec", "name", "b_frames"),
    [("libx264", "film.mp4", 0), ("libx264", "film.mkv", 2), ("libx265", "film.mkv", 0)],
)
def test_after_a_damaged_packet_no_picture_is_given_before_the_next_key_frame(
    tmp_path: Path, codec: str, name: str, b_frames: int, damage: Damage
) -> None:
    film, damaged = tmp_path / f"whole-{name}", tmp_path / name
    write_film(film, N_FRAMES, codec=codec, b_frames=b_frames, options=X265 if codec == "libx265" else {})
    recorded = pictures(film)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        hit = int(rng.integers(1, N_FRAMES))
        remux(film, damaged, lambda number, packet: damage(packet, rng) if number == hit else packet)  # noqa: B023  (called at once)
        frames = read(damaged)
        assert len(frames) == N_FRAMES
        n_whole = check_pixels(frames, recorded)
        # at most the rest of one group, and what is shown before a picture that was stored before it
        assert N_FRAMES - KEY_EVERY - b_frames <= n_whole < N_FRAMES


def test_a_left_out_reference_picture_is_noticed(tmp_path: Path) -> None:
    """FFmpeg decodes on from whatever it has, and marks nothing."""
    film, damaged = tmp_path / "film.mkv", tmp_path / "damaged.mkv"
    write_film(film, N_FRAMES)
    recorded = pictures(film)
    for missing in (1, 5, 9, 14, 18):
        remux(film, damaged, lambda number, packet: None if number == missing else packet)  # noqa: B023  (called at once)
        frames = read(damaged)
        assert check_pixels(frames, recorded) == N_FRAMES - KEY_EVERY + missing % KEY_EVERY
        reasons = {frame.reason for frame in frames if isinstance(frame, UnreadableFrame)}
        assert reasons <= {"a damaged picture: it refers to an earlier picture that is damaged or was lost"}


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 0), ("libx264", 3), ("libx265", 0), ("mpeg2video", 0)])
def test_of_a_transport_stream_with_holes_no_picture_shows_another(tmp_path: Path, codec: str, b_frames: int) -> None:
    options = X265 if codec == "libx265" else {}
    packets = transport_stream(N_FRAMES, codec=codec, b_frames=b_frames, options=options)
    path = tmp_path / "film.ts"
    path.write_bytes(b"".join(packets))
    recorded = pictures(path)
    assert len(recorded) == N_FRAMES
    video = [at for at, packet in enumerate(packets) if int.from_bytes(packet[1:3], "big") & 0x1FFF == 0x100]
    n_whole = 0
    for seed in range(12):
        lost = set(np.random.default_rng(seed).choice(video, 2, replace=False).tolist())
        path.write_bytes(b"".join(packet for at, packet in enumerate(packets) if at not in lost))
        found = check_pixels(read(path), recorded)
        assert found < N_FRAMES
        n_whole += found
    assert n_whole > 0


# --- what a file promises


def test_the_frames_that_a_cut_file_lacks_are_counted(mjpeg_film: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    payload = mjpeg_film.read_bytes()
    path.write_bytes(payload[: len(payload) // 2])
    source = VideoSource("line", path)
    *frames, last = frames_of(source)
    assert isinstance(last, UnreadableFrame)
    assert (source.n_promised, source.n_read) == (N_FRAMES, len(frames))
    assert f"{len(frames)} of the {N_FRAMES} frames that its header promises are in the file" in last.reason
    assert len(frames) + 1 + last.dropped_before == N_FRAMES
    assert str(source.shortfall).startswith(f"{path}: {len(frames)} of the {N_FRAMES} frames")


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_a_cut_file_says_so_at_its_end(tmp_path: Path, name: str) -> None:
    film, path = tmp_path / f"whole-{name}", tmp_path / name
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    write_film(film, N_FRAMES, container_options=options)
    payload = film.read_bytes()
    path.write_bytes(payload[: len(payload) * 2 // 3])
    source = VideoSource("line", path)
    frames, end = read_with_end(source)
    assert "that its header promises are in the file" in end
    assert check_pixels(frames, pictures(film)) < N_FRAMES
    assert isinstance(frames[-1], UnreadableFrame)
    assert source.shortfall is not None


def test_a_file_without_its_index_is_refused(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_film(film, N_FRAMES)
    film.write_bytes(film.read_bytes()[:-2000])
    with pytest.raises(UsageError, match=r"film.mp4 is not a video that can be read .* copied to its end"):
        VideoSource("line", film).open()


def test_damaged_frames_are_a_shortfall_too(mjpeg_film: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.avi"
    remux(mjpeg_film, damaged, lambda number, packet: packet[:500] if number == 4 else packet)
    source = VideoSource("line", damaged)
    assert len(list(frames_of(source))) == N_FRAMES
    assert source.shortfall == f"{damaged}: 1 of its frames are damaged"


@pytest.mark.parametrize("name", ["film.mp4", "film.avi", "film.mkv"])
def test_a_file_knows_its_length(tmp_path: Path, name: str) -> None:
    write_film(tmp_path / name, N_FRAMES)
    assert frame_count(tmp_path / name) == N_FRAMES


# --- size, rotation, colours


def test_pictures_of_another_size_come_in_their_own(tmp_path: Path) -> None:
    sizes = [(240, 320), (480, 640), (240, 320)]
    path = tmp_path / "film.ts"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE_HZ)
        stream.height, stream.width, stream.pix_fmt = *sizes[0], "yuv420p"
        for at, hw in enumerate(sizes):
            encoder = av.CodecContext.create("libx264", "w")
            assert isinstance(encoder, VideoCodecContext)
            encoder.height, encoder.width, encoder.pix_fmt = *hw, "yuv420p"
            encoder.time_base = Fraction(1, RATE_HZ)
            frames = [av.VideoFrame.from_ndarray(numbered(n, hw), format="rgb24") for n in range(5 * at, 5 * at + 5)]
            for number, frame in enumerate(frames, 5 * at):
                frame.pts, frame.time_base = number, encoder.time_base
            for packet in [packet for frame in [*frames, None] for packet in encoder.encode(frame)]:
                packet.stream = stream
                output.mux(packet)
    given = read(path)
    assert [frame.hw for frame in given if isinstance(frame, Frame)] == [hw for hw in sizes for _ in range(5)]
    assert numbers(given) == list(range(15))


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_film_is_turned_as_its_container_says(tmp_path: Path, codec: str, degrees: int) -> None:
    path = tmp_path / "film.mov"
    write_film(path, 3, codec=codec, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p", rotation=degrees)
    for number, frame in enumerate(read(path)):
        assert isinstance(frame, Frame)
        back = np.rot90(frame.image, -degrees // 90)
        assert number_of(np.ascontiguousarray(back)) == number


@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [Colorspace.ITU601, Colorspace.ITU709])
def test_colours_come_back_whatever_matrix_and_range_the_stream_declares(
    tmp_path: Path, matrix: Colorspace, full_range: bool
) -> None:
    path = tmp_path / "film.mp4"
    colours = np.array([(200, 40, 60), (40, 180, 70), (50, 60, 200), (240, 240, 240), (16, 16, 16)], np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(colours.repeat(32, axis=0), (64, 160, 3)))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE_HZ, options={"qp": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 160, "yuv420p"
        stream.codec_context.colorspace = 1 if matrix is Colorspace.ITU709 else 6  # as H.264 numbers them
        stream.codec_context.color_range = (ColorRange.JPEG if full_range else ColorRange.MPEG).value
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=matrix,
            dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        )
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    [read_back] = read(path)
    assert isinstance(read_back, Frame)
    middles = read_back.image[32, 16::32].astype(int)
    assert np.abs(middles - colours).max() <= 4


def test_a_film_of_variable_rate_gives_every_picture_once(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE_HZ)
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv420p"
        at = 0
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, RATE_HZ)
            at += 1 + number % 7 * 3
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    assert numbers(read(path)) == list(range(20))
