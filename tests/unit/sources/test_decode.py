"""Bytes become RGB pixels, or a sentence that says why not; nothing in between."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_uad.errors import FrameError
from edge_uad.records import UInt8
from edge_uad.sources.decode import MAX_IMAGE_PIXELS, decode_image, decode_raw, read_image

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY16 = np.random.default_rng(1).integers(0, 2**16, (20, 30)).astype(np.uint16)
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM")
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_back_the_very_pixels(kind: str) -> None:
    image = decode_image(encoded(Image.fromarray(RGB), kind))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.array_equal(image, RGB)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(kind: str) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 30, dtype=np.uint8)[None, :, None], (20, 30, 3))
    image = decode_image(encoded(Image.fromarray(np.ascontiguousarray(smooth)), kind, quality=95))
    assert np.abs(image.astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    grey = Image.fromarray(RGB).convert(mode)
    image = decode_image(encoded(grey, "PNG"))
    assert np.array_equal(image, np.asarray(grey.convert("RGB")))
    assert (image[..., 0] == image[..., 2]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_of_16_bit_grey_the_top_8_bits_are_kept(kind: str) -> None:
    image = decode_image(encoded(Image.fromarray(GREY16), kind))
    assert np.array_equal(image[..., 0], GREY16 >> 8)
    assert np.array_equal(image[..., 0], image[..., 1])


def test_alpha_is_dropped() -> None:
    alpha = np.random.default_rng(2).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    image = decode_image(encoded(Image.fromarray(np.concatenate([RGB, alpha], axis=2)), "PNG"))
    assert np.array_equal(image, RGB)


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    palette = Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    image = decode_image(encoded(palette, "PNG", transparency=bytes([0, 128, 255])))
    assert np.array_equal(image, np.asarray(palette.convert("RGB")))


def test_cmyk_is_converted() -> None:
    red = Image.new("RGB", (8, 8), (220, 20, 20)).convert("CMYK")
    image = decode_image(encoded(red, "TIFF"))
    assert np.abs(image.astype(int) - (220, 20, 20)).max() <= 2


def rotated(image: UInt8, kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(image), kind, exif=exif)


@pytest.mark.parametrize(("orientation", "turned"), [(3, np.rot90(RGB, 2)), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB))])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_turned_camera_is_turned_back(kind: str, orientation: int, turned: UInt8) -> None:
    assert np.array_equal(decode_image(rotated(RGB, kind, orientation)), turned)


def test_16_bit_grey_is_turned_back_too() -> None:
    image = decode_image(encoded(Image.fromarray(GREY16), "PNG", exif=_orientation(6)))
    assert np.array_equal(image[..., 0], np.rot90(GREY16 >> 8, -1))


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("kept_ratio", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(kind: str, kept_ratio: float) -> None:
    payload = encoded(Image.fromarray(RGB), kind)
    with pytest.raises(FrameError):
        decode_image(payload[: int(len(payload) * kept_ratio)])


def test_a_changed_byte_in_a_png_is_noticed() -> None:
    payload = bytearray(encoded(Image.fromarray(RGB), "PNG"))
    payload[len(payload) // 2] ^= 0x10
    with pytest.raises(FrameError, match="damaged or truncated"):
        decode_image(bytes(payload))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _bomb_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in chunks)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"hello, this is text", "not an image", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "damaged|not an image", id="signature alone"),
        pytest.param(b"P6 0 0 255\n", "not an image|no pixels", id="zero-sized"),
        pytest.param(_bomb_png(0, 5), "not an image|no pixels|damaged", id="zero width"),
        pytest.param(_bomb_png(60_000, 60_000), "3600000000 pixels, 100000000 are allowed", id="bomb"),
        pytest.param(_bomb_png(2**31 - 1, 2**31 - 1), "pixels, 100000000 are allowed", id="largest bomb"),
        pytest.param(encoded(Image.fromarray(RGB), "GIF"), "not an image of a known format", id="gif"),
        pytest.param(encoded(Image.fromarray(GREY16.astype(np.float32)), "TIFF"), "pixel type F", id="float"),
        pytest.param(encoded(Image.fromarray(GREY16.astype(np.int32)), "TIFF"), "pixel type I ", id="32-bit"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(payload: bytes, told: str) -> None:
    with pytest.raises(FrameError, match=told):
        decode_image(payload)


def test_the_limit_is_on_pixels_and_inclusive() -> None:
    payload = encoded(Image.fromarray(RGB), "PNG")
    assert decode_image(payload, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(FrameError, match="30×20 = 600 pixels, 599 are allowed"):
        decode_image(payload, max_pixels=599)
    assert MAX_IMAGE_PIXELS == 100_000_000


def test_a_message_that_lies_about_its_picture_is_refused() -> None:
    payload = encoded(Image.fromarray(RGB), "PNG")
    assert decode_image(payload, formats=("PNG",), stored_hw=(20, 30)).shape == (20, 30, 3)
    with pytest.raises(FrameError, match="30×20 pixels, its message declares 20×30"):
        decode_image(payload, formats=("PNG",), stored_hw=(30, 20))
    with pytest.raises(FrameError, match="not an image of a known format"):
        decode_image(payload, formats=("JPEG",))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"P6\n"]))
def test_arbitrary_bytes_are_refused_and_nothing_worse(payload: bytes, start: bytes) -> None:
    try:
        assert decode_image(start + payload, max_pixels=10_000).dtype == np.uint8
    except FrameError as error:
        assert str(error)  # noqa: PT017  (any other exception fails the test)


@given(kind=st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"]), seed=st.integers(0, 10_000))
def test_a_damaged_file_is_decoded_or_refused_and_nothing_worse(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    payload = np.frombuffer(encoded(Image.fromarray(RGB), kind), np.uint8).copy()
    where = rng.integers(0, min(len(payload), 200), 4)
    payload[where] = rng.integers(0, 256, 4)
    try:
        assert decode_image(payload.tobytes(), max_pixels=10_000).shape[2] == 3
    except FrameError as error:
        assert "\n" not in str(error)  # noqa: PT017  (as above)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_bare_pixels_become_rgb(encoding: str) -> None:
    sent = {"rgb8": RGB, "bgr8": RGB[:, :, ::-1], "mono8": RGB[:, :, 0]}[encoding]
    image = decode_raw(sent.tobytes(), encoding, (20, 30))
    assert image.flags.c_contiguous
    assert np.array_equal(image, np.repeat(RGB[:, :, :1], 3, axis=2) if encoding == "mono8" else RGB)


@pytest.mark.parametrize(
    ("encoding", "hw", "told"),
    [
        ("rgb8", (20, 31), "1800 bytes, rgb8 of 31×20 has 1860"),
        ("mono8", (0, 30), "no pixels"),
        ("rgb8", (2**15, 2**15), "pixels, 100000000 are allowed"),
        ("yuv8", (20, 30), "'yuv8' is not one of"),
    ],
)
def test_bare_pixels_at_odds_with_their_header_are_refused(encoding: str, hw: tuple[int, int], told: str) -> None:
    with pytest.raises(FrameError, match=told):
        decode_raw(RGB.tobytes(), encoding, hw)


def test_files_that_are_not_there_or_never_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(FrameError, match="not a regular file"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FrameError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")
