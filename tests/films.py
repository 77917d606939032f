"""Films whose every picture bears its number, so that a test sees whose pixels a frame shows."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import numpy as np
from PIL import Image

from edge_uad.errors import SourceEndedError
from edge_uad.interfaces import FrameSource
from edge_uad.records import AnyFrame, Frame, UInt8

BITS = 10
RATE_HZ = 25
DARK, BRIGHT = 20, 235


def numbered(number: int, hw: tuple[int, int] = (240, 320)) -> UInt8:
    """A textured picture with its number as bars of ten bits at the top, in the middle and at the bottom."""
    height, width = hw
    texture = np.random.default_rng(7).integers(60, 190, (height // 8, width // 8, 3), np.uint8)
    image = texture.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()
    across = (number * 11) % (width - 48)
    image[height // 2 + 24 : height // 2 + 64, across : across + 40] = (250, 40, 60)
    for top in _bands(height):
        for bit in range(BITS):
            image[top : top + 24, _bar(bit, width)] = BRIGHT if number >> bit & 1 else DARK
    return image


def number_of(image: UInt8) -> int | None:
    """The number that all three bands show; None where they differ or are not clear."""
    height, width, _ = image.shape
    read = set()
    for top in _bands(height):
        number = 0
        for bit in range(BITS):
            bar = _bar(bit, width)
            level = image[top + 4 : top + 20, bar.start + 4 : bar.stop - 4].astype(np.float64)
            if level.std() > 25 or abs(level.mean() - (DARK + BRIGHT) / 2) < 60:
                return None
            number |= int(level.mean() > (DARK + BRIGHT) / 2) << bit
        read.add(number)
    return read.pop() if len(read) == 1 else None


def _bands(height: int) -> tuple[int, int, int]:
    return 0, height // 2 - 12, height - 24


def _bar(bit: int, width: int) -> slice:
    return slice(bit * (width // BITS), (bit + 1) * (width // BITS))


def jpeg(number: int, hw: tuple[int, int] = (240, 320)) -> bytes:
    """The numbered picture as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(numbered(number, hw)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_film(
    target: Path | io.BytesIO,
    n_frames: int,
    *,
    codec: str = "libx264",
    container: str | None = None,
    container_options: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    hw: tuple[int, int] = (240, 320),
    key_every: int = 10,
    b_frames: int = 0,
    pix_fmt: str = "yuv420p",
    first: int = 0,
    rotation: int = 0,
) -> None:
    """Numbered pictures, encoded by PyAV.

    Args:
        target: a path, or a buffer; a buffer needs ``container``.
        n_frames: how many.
        codec: FFmpeg's encoder.
        container: FFmpeg's muxer; None: by the path's suffix.
        container_options: of the muxer.
        options: of the encoder.
        hw: height and width.
        key_every: pictures from one key frame to the next.
        b_frames: pictures between two P pictures at most.
        pix_fmt: of the encoder.
        first: number of the first picture.
        rotation: degrees counterclockwise by which a player turns them.
    """
    file = str(target) if isinstance(target, Path) else target
    with av.open(file, "w", format=container, container_options=dict(container_options or {})) as output:
        stream = output.add_stream(codec, rate=RATE_HZ, options=dict(options or {}))
        stream.height, stream.width = hw
        stream.pix_fmt = pix_fmt
        stream.codec_context.gop_size = key_every
        stream.codec_context.max_b_frames = b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(first, first + n_frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, hw), format="rgb24")))
        output.mux(stream.encode())


def transport_stream(n_frames: int, **options: object) -> list[bytes]:
    """An MPEG transport stream of H.264, cut into its packets of 188 bytes."""
    buffer = io.BytesIO()
    write_film(buffer, n_frames, container="mpegts", **options)  # type: ignore[arg-type]  # passed on as they are
    payload = buffer.getvalue()
    return [payload[at : at + 188] for at in range(0, len(payload), 188)]


def frames_until_end(source: FrameSource) -> Iterator[AnyFrame]:
    """Every frame until the source says that it has ended."""
    try:
        while True:
            frame = source.read(1.0)
            if frame is not None:
                yield frame
    except SourceEndedError:
        return


def pictures_by_number(frames: list[AnyFrame]) -> dict[int, UInt8]:
    """The whole pictures by the number that they show.

    Raises:
        AssertionError: one shows no number.
    """
    pictures = {}
    for frame in frames:
        if isinstance(frame, Frame):
            number = number_of(frame.image)
            assert number is not None, f"frame {frame.frame_id} shows no number"
            pictures[number] = frame.image
    return pictures
