"""Bytes → uint8 (H, W, 3) RGB, strictly: whatever is not a whole picture is refused with its reason.

A reason names no file; the caller adds which frame or file it belongs to. JPEG is decoded by
:mod:`edge_uad.sources.jpeg`, the other formats by Pillow's classes, one per format: ``Image.open`` would apply Pillow's
pixel limit, which is one for the whole process, while the limit here is checked on every call.
"""

import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from edge_uad.errors import FrameError
from edge_uad.net.wire import MAX_IMAGE_BYTES, RAW_CHANNELS
from edge_uad.records import UInt8
from edge_uad.sources import jpeg

MAX_IMAGE_PIXELS = 100_000_000
"""Larger pictures are refused by their header, before a byte of them is decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""The suffixes of picture files in a folder, in lower case."""

_OPENERS: dict[str, Callable[[BytesIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
_STARTS = {
    jpeg.START: "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    **{b"P" + digit: "PPM" for digit in (b"1", b"2", b"3", b"4", b"5", b"6")},
}
PARSER_FAULTS = (
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
    Image.DecompressionBombError,  # Pillow compares TIFF and WebP with its own limit all the same
    Warning,
)
"""What Pillow's parsers raise on a broken file; there is no common root below Exception."""
_EIGHT_BIT_MODES = frozenset({"L", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "P", "PA", "1", "CMYK"})
_DEEP_GREY_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})
"""EXIF orientations by a quarter turn."""
_LOW_LEVEL = 64
"""Of 8 bits: where a 16-bit picture stays below it, its two highest bits are never used."""

_COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _STRIP_BYTES = 259, 262, 273, 279
_TILE_OFFSETS, _TILE_BYTES, _JPEG_TABLES, _BITS_PER_SAMPLE, _MAX_SAMPLE = 324, 325, 347, 258, 281
_WHITE_IS_ZERO = 0
_PNG_END = b"IEND\xaeB`\x82"
_PNG_DEPTH_AT = 24
"""Offset of the bit depth in a PNG's IHDR, which always comes first."""
_FAX_COMPRESSIONS = frozenset({2, 3, 4, 32771})
_OLD_JPEG, _JPEG = 6, 7
_DEFLATE_COMPRESSIONS = frozenset({8, 32946})
_DECLARED_DEPTHS = {(1 << bits) - 1: bits for bits in range(9, 16)}
"""Bits per sample by the largest value that they can hold. Other values of MaxSampleValue are a picture's own maximum,
which must not change its brightness."""

log = logging.getLogger("edge_uad.sources.decode")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What was decoded, and of how large a picture."""

    image: UInt8
    """uint8 (H, W, 3) RGB, contiguous, EXIF orientation applied."""
    taken_hw: tuple[int, int] | None
    """The whole picture's height and width, where the image was decoded at a part of that."""
    unused_bits: int = 0
    """How many of the highest bits of its 16-bit samples are zero in every pixel, where that is two or more."""


class UnusedBitsWarning:
    """Counts 16-bit pictures whose highest bits are never used, and warns at the first one of a source.

    Args:
        source: what the pictures come from, for the message.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.n_pictures = 0
        """16-bit pictures with unused high bits so far."""

    def note(self, picture: Picture, name: str) -> None:
        """Count a picture; ``name`` is its file or frame."""
        if not picture.unused_bits:
            return
        self.n_pictures += 1
        if self.n_pictures == 1:
            log.warning(
                "%s: the 16-bit picture %s uses only the lower %d bits and comes out dark; where the camera has so "
                "many, write its samples shifted to 16 bits, or as TIFF with MaxSampleValue %d",
                self._source,
                name,
                16 - picture.unused_bits,
                (1 << (16 - picture.unused_bits)) - 1,
            )

    @property
    def summary(self) -> str | None:
        """One sentence with the count; None where there was no such picture."""
        if not self.n_pictures:
            return None
        return f"{self._source}: {self.n_pictures} 16-bit pictures never use their highest bits and came out dark"


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

    Grey becomes three equal channels, of deeper samples the top 8 bits are kept, alpha is dropped, CMYK is converted,
    EXIF orientation is applied; of several pages or animation frames the first is taken. A TIFF's depth is its
    BitsPerSample, or its MaxSampleValue where that is 2ⁿ − 1; of a 16-bit PNG it is 16 whatever sBIT says, because PNG
    wants samples scaled to all 16 bits.

    Args:
        payload: the whole file.
        formats: the names of the formats accepted, of ``FORMATS``.
        stored_hw: the height and width that the sender declared, before EXIF orientation; checked where given.
        max_pixels: more are refused before decoding.
        least_side_px: decode a JPEG at 1/2, 1/4 or 1/8 of its size, the smallest whose sides both have so many
            pixels; None: at its full size. Other formats come in full.

    Raises:
        FrameError: with the reason in one sentence.
    """
    kind = _format_of(payload, formats)
    if kind == "JPEG":
        return _decode_jpeg(payload, stored_hw, max_pixels, least_side_px)
    image = _open(payload, kind)
    _check_size((image.height, image.width), max_pixels, stored_hw)
    try:
        if kind == "PNG":  # load() skips the check sums of the picture's own chunks, verify() does not
            image.verify()
            if _PNG_END not in payload:
                raise FrameError("the image is damaged or truncated (no end chunk)")
            image = _open(payload, kind)
        elif kind == "TIFF":
            _check_tiff(image, payload)
        image.load()
    except PARSER_FAULTS as error:
        raise FrameError(f"the image is damaged or truncated ({_cause(error)})") from error
    pixels, unused_bits = _to_rgb(image, sixteen_bit=_has_16_bits(image, payload))
    return Picture(_upright(pixels, _orientation(image)), None, unused_bits)


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
    _check_size(hw, max_pixels)
    if len(payload) != height * width * channels:
        raise FrameError(
            f"the image has {len(payload)} bytes, {encoding} of {width}×{height} has {height * width * channels}"
        )
    pixels: UInt8 = np.frombuffer(payload, np.uint8).reshape(height, width, channels)
    if channels == 1:
        return _grey_as_rgb(pixels)
    return bgr_to_rgb(pixels) if encoding == "bgr8" else pixels


def bgr_to_rgb(pixels: UInt8) -> UInt8:
    """uint8 (H, W, 3) with the channels the other way round, contiguous; by OpenCV, ten times as fast as by numpy."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def stored_size(payload: bytes, *, formats: Sequence[str] = FORMATS) -> tuple[str, tuple[int, int]]:
    """An image file's format (one of ``FORMATS``) and height and width by its header, before EXIF orientation.

    Raises:
        FrameError: not an image.
    """
    kind = _format_of(payload, formats)
    if kind == "JPEG":
        return kind, jpeg.read_header(payload).hw
    image = _open(payload, kind)
    return kind, (image.height, image.width)


def _format_of(payload: bytes, formats: Sequence[str]) -> str:
    if not payload:
        raise FrameError("the image is empty (0 bytes)")
    is_webp = payload[:4] == b"RIFF" and payload[8:12] == b"WEBP"
    kind = "WEBP" if is_webp else next((name for start, name in _STARTS.items() if payload.startswith(start)), None)
    if kind is None or kind not in formats:
        raise FrameError(f"this is not an image of a known format ({', '.join(formats)})")
    return kind


def _open(payload: bytes, kind: str) -> Image.Image:
    try:
        return _OPENERS[kind](BytesIO(payload))
    except PARSER_FAULTS as error:
        if kind == "TIFF" and "unknown pixel mode" in str(error):
            raise FrameError(
                "the TIFF's samples are of a kind that is not supported; use 8-bit grey or colour, or 16-bit grey"
            ) from error
        if "not identified by this driver" in str(error):  # what Pillow says of a picture of zero size
            raise FrameError(f"the image's header is damaged (no pixels, or not a {kind} after all)") from error
        raise FrameError(f"the image's header is damaged ({_cause(error)})") from error


def _check_size(hw: tuple[int, int], max_pixels: int, stored_hw: tuple[int, int] | None = None) -> None:
    height, width = hw
    if height < 1 or width < 1:
        raise FrameError(f"the image has no pixels ({width}×{height})")
    if height * width > max_pixels:
        raise FrameError(
            f"the image claims {width}×{height} = {height * width} pixels, {max_pixels} are allowed; it was not decoded"
        )
    if stored_hw is not None and hw != stored_hw:
        raise FrameError(f"the image is {width}×{height} pixels, its message declares {stored_hw[1]}×{stored_hw[0]}")


def _decode_jpeg(
    payload: bytes, stored_hw: tuple[int, int] | None, max_pixels: int, least_side_px: int | None
) -> Picture:
    header = jpeg.read_header(payload)
    _check_size(header.hw, max_pixels, stored_hw)
    scale = jpeg.scale_for(header.hw, least_side_px)
    pixels = jpeg.decode_jpeg(payload, header, scale=scale)
    orientation = 1
    if header.has_metadata:
        try:
            orientation = _orientation(JpegImagePlugin.JpegImageFile(BytesIO(payload)))
        except PARSER_FAULTS:  # unreadable metadata say nothing about orientation; the pixels are whole
            orientation = 1
    taken_hw = header.hw if pixels.shape[:2] != header.hw else None
    if taken_hw is not None and orientation in _SIDES_SWAPPED:
        taken_hw = taken_hw[::-1]
    return Picture(_upright(pixels, orientation), taken_hw)


def _check_tiff(image: Image.Image, payload: bytes) -> None:
    """What libtiff decodes without noticing damage: JPEG strips, deflate streams short of their checksum, fax codes.

    Raises:
        FrameError: damaged, or compressed in a way that hides damage.
    """
    compression = _tag(image, _COMPRESSION, 1)
    if compression in _FAX_COMPRESSIONS:
        raise FrameError("fax-compressed TIFF is not supported, because its damage cannot be seen; use LZW or deflate")
    if compression == _OLD_JPEG:
        raise FrameError("TIFF with old-style JPEG (compression 6) is not supported; use JPEG, LZW or deflate")
    if compression == _JPEG:
        tables = _tags(image).get(_JPEG_TABLES, b"")
        for strip in _strips(image, payload):
            stream = tables.removesuffix(b"\xff\xd9") + strip[2:] if tables else strip
            jpeg.decode_jpeg(stream, jpeg.read_header(stream))
    elif compression in _DEFLATE_COMPRESSIONS:
        most = image.height * image.width * 32
        for strip in _strips(image, payload):
            inflater = zlib.decompressobj()
            inflater.decompress(strip, most)
            if not inflater.eof:
                raise FrameError("the image is damaged or truncated (a deflate stream has no end)")


def _strips(image: Image.Image, payload: bytes) -> list[bytes]:
    tags = _tags(image)
    offsets, lengths = (_TILE_OFFSETS, _TILE_BYTES) if _TILE_OFFSETS in tags else (_STRIP_OFFSETS, _STRIP_BYTES)
    return [
        payload[offset : offset + length]
        for offset, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=True)
    ]


def _tags(image: Image.Image) -> TiffImagePlugin.ImageFileDirectory_v2:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        raise TypeError(f"{type(image).__name__} has no TIFF tags")
    return image.tag_v2


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A tag's number, the first one where it has one per sample."""
    value = _tags(image).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _to_rgb(image: Image.Image, *, sixteen_bit: bool) -> tuple[UInt8, int]:
    """uint8 (H, W, 3), and how many high bits of 16 are unused."""
    deep = image.mode in _DEEP_GREY_MODES or (image.mode == "I" and image.format in {"PNG", "PPM"})
    if not deep and image.mode not in _EIGHT_BIT_MODES:
        raise FrameError(f"the image's pixel type {image.mode} is not supported; use 8-bit colour or 8/16-bit grey")
    try:
        if deep:
            return _grey_to_rgb(image)
        if image.format == "TIFF" and _depth(image) != _tag(image, _BITS_PER_SAMPLE, 1):
            raise FrameError(
                f"the TIFF holds {_depth(image)} bits in {_tag(image, _BITS_PER_SAMPLE, 1)}-bit colour samples "
                "(MaxSampleValue), which is not supported; use 8 bits, or samples shifted to 16"
            )
        if image.mode in {"P", "PA"}:  # by way of RGBA, because a palette may carry transparency
            image = image.convert("RGBA")
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except PARSER_FAULTS as error:
        raise FrameError(f"the image's pixels cannot be converted ({_cause(error)})") from error
    return pixels, _unused_bits(pixels) if sixteen_bit else 0


def _grey_to_rgb(image: Image.Image) -> tuple[UInt8, int]:
    samples = np.asarray(image).astype(np.uint16)
    bits, white_is_zero = 16, False
    if image.format == "TIFF":
        bits, white_is_zero = _depth(image), _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    if samples.max() >> bits:
        raise FrameError(f"the TIFF has samples up to {samples.max()}, more than the {bits} bits that it declares")
    unused_bits = _unused_bits((samples >> 8).astype(np.uint8)) if bits == 16 else 0
    grey = (samples >> (bits - 8)).astype(np.uint8)
    return _grey_as_rgb(255 - grey if white_is_zero else grey), unused_bits


def _grey_as_rgb(grey: UInt8) -> UInt8:
    """Three equal channels: uint8 (H, W, 3) of (H, W) or (H, W, 1)."""
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)


def _depth(image: Image.Image) -> int:
    """A TIFF's bits per sample in use."""
    bits = _tag(image, _BITS_PER_SAMPLE, 1)
    return _DECLARED_DEPTHS.get(_tag(image, _MAX_SAMPLE, 0), bits) if bits == 16 else bits


def _has_16_bits(image: Image.Image, payload: bytes) -> bool:
    """Whether the file's samples have 16 bits; of colour Pillow takes the upper 8 while it reads."""
    if image.format == "TIFF":
        return _tag(image, _BITS_PER_SAMPLE, 1) == 16
    return image.format == "PNG" and payload[_PNG_DEPTH_AT] == 16


def _unused_bits(top_bits: UInt8) -> int:
    level = int(top_bits.max())
    return 8 - level.bit_length() if level < _LOW_LEVEL else 0


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except PARSER_FAULTS:  # as above
        return 1


def _upright(pixels: UInt8, orientation: int) -> UInt8:
    """The picture turned as its EXIF orientation demands: uint8 (H, W, 3), C-contiguous."""
    if orientation in _SIDES_SWAPPED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:120] + "…"
