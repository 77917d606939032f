"""Bytes become RGB pixels, or a sentence that says why not; nothing in between."""

import os
import struct
import subprocess
import sys
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
from edge_uad.sources.decode import (
    FORMATS,
    MAX_IMAGE_PIXELS,
    UnusedBitsWarning,
    decode_image,
    decode_picture,
    decode_raw,
    read_image,
)

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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "PPM"])
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    payload = encoded(Image.fromarray(RGB), kind)
    padding = 2 if kind == "BMP" else 0  # of the last row, which holds no pixel
    for cut in {*range(0, len(payload) - padding, 7), *range(len(payload) - 13, len(payload) - padding)}:
        with pytest.raises(FrameError):
            decode_image(payload[:cut])


def test_a_tiff_cut_where_its_pixels_are_missing_is_refused() -> None:
    payload = encoded(Image.fromarray(RGB), "TIFF")
    for cut in range(0, len(payload), 7):
        with pytest.raises(FrameError):
            decode_image(payload[:cut])


def test_a_changed_byte_in_a_png_is_noticed() -> None:
    payload = bytearray(encoded(Image.fromarray(RGB), "PNG"))
    payload[len(payload) // 2] ^= 0x10
    with pytest.raises(FrameError, match="damaged or truncated"):
        decode_image(bytes(payload))


def test_png_chunks_that_are_missing_or_damaged_are_noticed_and_what_follows_the_end_is_not_read() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    payload = encoded(Image.fromarray(noise), "PNG")
    assert payload.count(b"IDAT") > 2
    second = payload.index(b"IDAT", payload.index(b"IDAT") + 4) - 4
    length = int.from_bytes(payload[second : second + 4], "big") + 12
    checksum = bytearray(payload)
    checksum[second + length - 1] ^= 1
    for damaged in (payload[:second] + payload[second + length :], bytes(checksum), payload[:-12], payload[:-1]):
        with pytest.raises(FrameError, match="damaged or truncated"):
            decode_image(damaged)
    assert np.array_equal(decode_image(payload + b"left over"), noise)


def tiff(pixels: bytes, hw: tuple[int, int], *, order: str = "<", **tags: int) -> bytes:
    """An uncompressed grey TIFF of one strip; tags by their names below, which override these."""
    codes = {
        "width": 256,
        "height": 257,
        "bits": 258,
        "compression": 259,
        "photometric": 262,
        "offset": 273,
        "samples": 277,
        "rows": 278,
        "bytes": 279,
        "max_sample": 281,
    }
    wanted = {"width": hw[1], "height": hw[0], "bits": 16, "compression": 1, "photometric": 1, "samples": 1}
    wanted |= {"rows": hw[0], "bytes": len(pixels), "offset": 8, **tags}
    entries = sorted((codes[name], value) for name, value in wanted.items())
    directory = b"".join(
        struct.pack(order + "HHI", code, 4 if value > 0xFFFF else 3, 1)
        + struct.pack(order + ("I" if value > 0xFFFF else "Hxx"), value)
        for code, value in entries
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    return start + pixels + struct.pack(order + "H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_tiff_of_fewer_bits_in_16_is_as_bright_as_it_declares(order: str, bits: int) -> None:
    samples = GREY16 >> (16 - bits)
    pixels = samples.astype(order + "u2").tobytes()
    declared = decode_picture(tiff(pixels, (20, 30), order=order, max_sample=(1 << bits) - 1))
    assert np.array_equal(declared.image[..., 0], samples >> (bits - 8))
    assert declared.unused_bits == 0
    undeclared = decode_picture(tiff(pixels, (20, 30), order=order))
    assert np.array_equal(undeclared.image[..., 0], samples >> 8)
    assert undeclared.unused_bits == 16 - bits


def test_the_maximum_of_one_picture_does_not_change_its_brightness() -> None:
    samples = (GREY16 >> 4).clip(0, 3000).astype("<u2")
    image = decode_image(tiff(samples.tobytes(), (20, 30), max_sample=3000))
    assert np.array_equal(image[..., 0], samples >> 8)


def test_samples_beyond_what_a_tiff_declares_are_refused() -> None:
    with pytest.raises(FrameError, match="more than the 12 bits that it declares"):
        decode_image(tiff(GREY16.astype("<u2").tobytes(), (20, 30), max_sample=4095))


def test_12_bits_packed() -> None:
    samples = (GREY16 >> 4).astype(np.uint32).reshape(-1, 2)
    packed = np.stack(
        [samples[:, 0] >> 4, (samples[:, 0] & 15) << 4 | samples[:, 1] >> 8, samples[:, 1] & 255], axis=1
    ).astype(np.uint8)
    image = decode_image(tiff(packed.tobytes(), (20, 30), bits=12))
    assert np.array_equal(image[..., 0], GREY16 >> 8)


def test_white_is_zero() -> None:
    deep = decode_image(tiff(GREY16.astype("<u2").tobytes(), (20, 30), photometric=0))
    assert np.array_equal(deep[..., 0], 255 - (GREY16 >> 8))
    declared = decode_image(tiff((GREY16 >> 4).astype("<u2").tobytes(), (20, 30), photometric=0, max_sample=4095))
    assert np.array_equal(declared[..., 0], 255 - (GREY16 >> 8))
    for order in "<>":
        plain = decode_image(tiff(RGB[..., 0].tobytes(), (20, 30), order=order, bits=8, photometric=0))
        assert np.array_equal(plain[..., 0], 255 - RGB[..., 0])
    with pytest.raises(FrameError, match="of a kind that is not supported"):
        decode_image(tiff(GREY16.astype(">u2").tobytes(), (20, 30), order=">", photometric=0))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_png_is_scaled_to_16_bits_whatever_it_says_of_its_camera(channels: int) -> None:
    samples = np.random.default_rng(4).integers(0, 2**12, (20, 30, channels)).astype(np.uint16)
    for shift, unused_bits in ((4, 0), (0, 4)):
        payload = _png16(samples << shift, significant_bits=12)
        picture = decode_picture(payload)
        assert np.array_equal(picture.image, np.broadcast_to((samples << shift) >> 8, (20, 30, 3)))
        assert picture.unused_bits == unused_bits


def _png16(samples: np.ndarray, *, significant_bits: int) -> bytes:
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = (
        (b"IHDR", header),
        (b"sBIT", bytes([significant_bits] * channels)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, content) for kind, content in chunks)


def test_colour_tiffs_of_fewer_bits_in_16_are_refused() -> None:
    from cv2 import imencode  # noqa: PLC0415  (Pillow writes no 16-bit colour)

    done, buffer = imencode(".tiff", np.repeat(GREY16[..., None], 3, axis=2))
    assert done
    payload = buffer.tobytes()
    assert np.array_equal(decode_image(payload)[..., 0], GREY16 >> 8)
    assert decode_picture(imencode(".tiff", np.repeat(GREY16[..., None] >> 4, 3, axis=2))[1].tobytes()).unused_bits == 4


def test_unused_bits_are_counted_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    warning = UnusedBitsWarning("line")
    dark = decode_picture(tiff((GREY16 >> 4).astype("<u2").tobytes(), (20, 30)))
    for name in ("0.tif", "1.tif"):
        warning.note(dark, name)
    warning.note(decode_picture(tiff(GREY16.astype("<u2").tobytes(), (20, 30))), "2.tif")
    assert warning.n_pictures == 2
    assert [record.getMessage() for record in caplog.records] == [
        "line: the 16-bit picture 0.tif uses only the lower 12 bits and comes out dark; where the camera has so many, "
        "write its samples shifted to 16 bits, or as TIFF with MaxSampleValue 4095"
    ]
    assert warning.summary == "line: 2 16-bit pictures never use their highest bits and came out dark"


@pytest.mark.parametrize("compression", ["jpeg", "tiff_adobe_deflate", "tiff_lzw", "packbits"])
def test_a_tiff_of_compressed_strips(compression: str) -> None:
    noise = np.random.default_rng(6).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((320, 240))
    payload = encoded(image, "TIFF", compression=compression)
    with Image.open(BytesIO(payload)) as whole:
        strips = list(zip(whole.tag_v2[273], whole.tag_v2[279], strict=True))
        assert np.array_equal(decode_image(payload), np.asarray(whole.convert("RGB")))
    at, length = strips[len(strips) // 2]
    with pytest.raises(FrameError, match=r"damaged|truncated"):
        decode_image(payload[: at + length // 2])
    if compression == "jpeg":
        cut = payload[at : at + length // 2] + b"\xff\xd9" + bytes(length - length // 2 - 2)
        zeros = payload[at : at + length // 2] + bytes(64) + payload[at + length // 2 + 64 : at + length]
        for damaged in (cut, zeros):
            with pytest.raises(FrameError, match="damaged or truncated"):
                decode_image(payload[:at] + damaged + payload[at + length :])
    if compression == "tiff_adobe_deflate":
        for place in (at + 2, at + length // 2, at + length - 1):
            changed = bytearray(payload)
            changed[place] ^= 0x40
            with pytest.raises(FrameError, match="damaged or truncated"):
                decode_image(bytes(changed))


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_fax_codes_are_refused_because_they_hide_damage(compression: str) -> None:
    image = Image.fromarray(RGB[..., 0] > 128)
    with pytest.raises(FrameError, match="fax-compressed TIFF is not supported"):
        decode_image(encoded(image, "TIFF", compression=compression))


def test_pillows_limit_for_the_whole_process_is_neither_changed_nor_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from PIL import Image; before = Image.MAX_IMAGE_PIXELS; import edge_uad.sources.zmq; "
            "assert before is not None and Image.MAX_IMAGE_PIXELS == before",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("JPEG", "PNG", "BMP", "PPM"):
        assert decode_image(SMALL_FILES[kind]).shape == (20, 30, 3)
    for kind in ("TIFF", "WEBP"):  # Pillow checks these once more, and no other exception may come of it
        with pytest.raises(FrameError, match="exceeds limit"):
            decode_image(SMALL_FILES[kind])


SMALL_FILES = {kind: encoded(Image.fromarray(RGB), kind) for kind in FORMATS}


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
        pytest.param(b"P6 0 0 255\n", "no pixels", id="zero-sized"),
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
