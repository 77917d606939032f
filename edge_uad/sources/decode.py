"""Bytes → uint8 (H, W, 3) RGB, strictly: whatever is not a whole picture is refused with its reason.

A reason names no file; whoever shows it says which frame or file it belongs to.
"""

import contextlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from edge_uad.errors import FrameError
from edge_uad.net.wire import MAX_IMAGE_BYTES, RAW_CHANNELS
from edge_uad.records import UInt8

MAX_IMAGE_PIXELS = 100_000_000
"""Larger pictures are refused by their header, before a byte of them is decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""What a folder's pictures are known by, in lower case."""

# Pillow's own limit warns at 89 Mpx and is one for the whole process; ours is checked on every call.
Image.MAX_IMAGE_PIXELS = None

# What Pillow's parsers let out on a broken file; there is no common root below Exception.
_PARSER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,
)
_EIGHT_BIT_MODES = frozenset({"L", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "P", "PA", "1", "CMYK"})
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})
"""EXIF orientations by a quarter turn."""
_DEEP_GREY_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What was decoded, and of how large a picture."""

    image: UInt8
    """uint8 (H, W, 3) RGB, contiguous, EXIF orientation applied."""
    taken_hw: tuple[int, int] | None
    """The whole picture's height and width, where the image was decoded at a part of that."""


def read_image(path: Path, *, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8:
    """Read one picture from a file.

    Returns:
        uint8 (H, W, 3) RGB, EXIF orientation applied.

    Raises:
        FrameError: the file is missing, no regular file, too large, or holds no whole picture.
    """
    return decode_image(read_bytes(path), max_pixels=max_pixels)


def read_bytes(path: Path, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A regular file's content, bounded; a pipe or a device is refused, because reading it may never end.

    Raises:
        FrameError: missing, unreadable, no regular file, or larger than ``max_bytes``.
    """
    try:
        if not path.is_file():
            raise FrameError("there is no such file" if not path.exists() else "this is not a regular file")
        with path.open("rb") as file:
            payload = file.read(max_bytes + 1)
    except OSError as error:
        raise FrameError(f"the file cannot be read: {error.strerror or error}") from error
    if len(payload) > max_bytes:
        raise FrameError(f"the file is larger than the {max_bytes} bytes allowed")
    return payload


def decode_image(
    payload: bytes,
    *,
    formats: Sequence[str] = FORMATS,
    stored_hw: tuple[int, int] | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> UInt8:
    """Decode an image file's bytes at their full size: uint8 (H, W, 3) RGB, contiguous; see :func:`decode_picture`."""
    return decode_picture(payload, formats=formats, stored_hw=stored_hw, max_pixels=max_pixels).image


def decode_picture(
    payload: bytes,
    *,
    formats: Sequence[str] = FORMATS,
    stored_hw: tuple[int, int] | None = None,
    max_pixels: int = MAX_IMAGE_PIXELS,
    least_side_px: int | None = None,
) -> Picture:
    """Decode an image file's bytes.

    Grey becomes three equal channels, of 16-bit samples the top 8 bits are kept, alpha is dropped, CMYK is
    converted, EXIF orientation is applied; of several pages or animation frames the first is taken.

    Args:
        payload: the whole file.
        formats: Pillow's names of the formats accepted.
        stored_hw: the height and width that the sender declared, before EXIF orientation; checked where given.
        max_pixels: more are refused before decoding.
        least_side_px: decode a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest whose sides both have so many
            pixels; None: at its full size. Other formats come in full.

    Raises:
        FrameError: with the reason in one sentence.
    """
    image = _open(payload, formats)
    _check_size(image.height, image.width, max_pixels)
    if stored_hw is not None and (image.height, image.width) != stored_hw:
        raise FrameError(
            f"the image is {image.width}×{image.height} pixels, its message declares {stored_hw[1]}×{stored_hw[0]}"
        )
    try:
        if image.format == "PNG":  # load() skips the check sums of the picture's own chunks, verify() does not
            image.verify()
            image = _open(payload, formats)
        whole_hw = image.height, image.width
        if least_side_px is not None:
            image.draft(None, (least_side_px, least_side_px))
        image.load()
    except _PARSER_FAULTS as error:
        raise FrameError(f"the image is damaged or truncated ({_cause(error)})") from error
    reduced = (image.height, image.width) != whole_hw
    upright, turned = _upright(_to_rgb(image))
    pixels = np.ascontiguousarray(np.asarray(upright, dtype=np.uint8))
    return Picture(pixels, (whole_hw[::-1] if turned else whole_hw) if reduced else None)


def decode_raw(payload: bytes, encoding: str, hw: tuple[int, int], *, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8:
    """Bare pixels, row by row without padding.

    Args:
        payload: H·W·channels bytes.
        encoding: ``bgr8``, ``rgb8`` or ``mono8``.
        hw: height and width.
        max_pixels: more are refused.

    Returns:
        uint8 (H, W, 3) RGB, contiguous.

    Raises:
        FrameError: unknown encoding, or a size at odds with ``hw``.
    """
    channels = RAW_CHANNELS.get(encoding)
    if channels is None:
        raise FrameError(f"the encoding {encoding!r} is not one of {', '.join(RAW_CHANNELS)}")
    height, width = hw
    _check_size(height, width, max_pixels)
    if len(payload) != height * width * channels:
        raise FrameError(
            f"the image has {len(payload)} bytes, {encoding} of {width}×{height} has {height * width * channels}"
        )
    pixels = np.frombuffer(payload, np.uint8).reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, ::-1] if encoding == "bgr8" else pixels)


def stored_size(payload: bytes, *, formats: Sequence[str] = FORMATS) -> tuple[str, tuple[int, int]]:
    """An image file's format (Pillow's name) and height and width by its header, before EXIF orientation.

    Raises:
        FrameError: not an image.
    """
    image = _open(payload, formats)
    return str(image.format), (image.height, image.width)


def _open(payload: bytes, formats: Sequence[str]) -> Image.Image:
    if not payload:
        raise FrameError("the image is empty (0 bytes)")
    try:
        return Image.open(BytesIO(payload), formats=tuple(formats))
    except UnidentifiedImageError as error:
        raise FrameError(f"this is not an image of a known format ({', '.join(formats)})") from error
    except _PARSER_FAULTS as error:
        raise FrameError(f"the image's header is damaged ({_cause(error)})") from error


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise FrameError(f"the image has no pixels ({width}×{height})")
    if height * width > max_pixels:
        raise FrameError(
            f"the image claims {width}×{height} = {height * width} pixels, {max_pixels} are allowed; it was not decoded"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    deep = image.mode in _DEEP_GREY_MODES or (image.mode == "I" and image.format in {"PNG", "PPM"})
    if not deep and image.mode not in _EIGHT_BIT_MODES:
        raise FrameError(f"the image's pixel type {image.mode} is not supported; use 8-bit colour or 8/16-bit grey")
    try:
        if deep:
            top_bits = np.asarray(image).astype(np.uint32) >> 8
            grey = Image.fromarray(top_bits.astype(np.uint8))
            grey.info.update(image.info)
            grey.getexif().update(image.getexif())
            return grey.convert("RGB")
        if image.mode == "RGB":
            return image  # convert() would copy it
        if image.mode in {"P", "PA"}:  # by way of RGBA, because a palette may carry transparency
            image = image.convert("RGBA")
        return image.convert("RGB")
    except _PARSER_FAULTS as error:
        raise FrameError(f"the image's pixels cannot be converted ({_cause(error)})") from error


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image turned as its EXIF says, the same object, as most are upright; and whether its sides swapped."""
    turned = False
    with contextlib.suppress(*_PARSER_FAULTS):  # unreadable EXIF says nothing about orientation; the pixels are whole
        turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDES_SWAPPED
        ImageOps.exif_transpose(image, in_place=True)
    return image, turned


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:120] + "…"
