"""JPEG bytes → uint8 (H, W, 3) RGB, strictly: a damaged or incomplete picture is refused, never completed by guesses.

libjpeg-turbo decodes (by simplejpeg, which stops at its warnings). It notices a stream that ends early or late, bad
Huffman codes and misplaced restart markers. It does not notice scans that are missing as a whole, nor most runs of
zero bytes inside a scan: those are checked here, on the bytes. JPEG has no checksum: a flipped bit whose scan still
ends in its place goes unnoticed in any decoder.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

from edge_uad.errors import FrameError
from edge_uad.records import UInt8

START = b"\xff\xd8\xff"
"""What a JPEG file begins with."""
MAX_SCANS = 100
"""Progressive encoders write about ten; more only keep a decoder busy."""
ZERO_RUN_BYTES = 16
"""So many zero bytes in a row are damage. In the scans of 3361 photographs there were 4 at most, in re-encodings of
them and of drawings 8, other than where a Huffman table codes flat areas as zeros, and in the refinement scans of
progressive pictures of quality 95 and more of two-level images and drawn ramps, which are refused therefore."""
SCALES = (8, 4, 2, 1)
"""Divisors of the size that the decoder offers at no loss of speed."""
_NEVER = 100
"""A least factor that no scale has: pictures of less than 8 pixels would be decoded at 7/8 otherwise."""

_EOI, _SOS, _DHT, _APP1 = 0xD9, 0xDA, 0xC4, 0xE1
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {_DHT, 0xC8, 0xCC}
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker: after FF neither a stuffed zero, a restart, nor the next FF of fill bytes."""
_COEFFICIENTS = 64
_EOB = 0x00
_STANDARD_ZERO_SYMBOLS = {0x00: 0, 0x01: 0, 0x10: 0x01, 0x11: _EOB}
"""Of the tables in the standard's annex K, which frames of Motion-JPEG use without carrying them."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands before the first scan."""

    hw: tuple[int, int]
    """Height and width as stored, before EXIF orientation."""
    components: tuple[int, ...]
    """The components' ids: one for grey, three for colour, four for CMYK and YCCK."""
    progressive: bool
    has_metadata: bool
    """Whether there is an APP1 segment, which may hold an EXIF orientation."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """One scan: which coefficients of which components, and where its entropy-coded bytes lie."""

    components: tuple[int, ...]
    first: int
    last: int
    high: int
    """Bit position refined by this scan; 0 in the first scan of a coefficient."""
    low: int
    """Bit position that the coefficients are known down to after it."""
    zero_symbols: tuple[tuple[int, int], ...]
    """Per component, what a code of zero bits stands for in its DC and in its AC table."""
    start: int
    end: int


def read_header(payload: bytes) -> JpegHeader:
    """The header of a JPEG file, read from its bytes without decoding.

    Raises:
        FrameError: damaged, or of a kind that is not supported.
    """
    frame: JpegHeader | None = None
    has_metadata = False
    for marker, start, end in _segments(payload, 2):
        if marker in _FRAME_MARKERS:
            if frame is not None:
                raise FrameError("the image's header is damaged (more than one frame header)")
            frame = _frame_header(payload[start:end], marker)
        elif marker == _APP1:
            has_metadata = True
        elif marker in {_SOS, _EOI}:
            break
    if frame is None:
        raise FrameError("the image's header is damaged (no frame header before the first scan)")
    return JpegHeader(frame.hw, frame.components, frame.progressive, has_metadata)


def scale_for(hw: tuple[int, int], least_side_px: int | None) -> int:
    """The divisor, one of ``SCALES``, that leaves both sides ``least_side_px`` pixels; 1 where that is None."""
    if least_side_px is None:
        return 1
    return next((scale for scale in SCALES if min(hw) >= scale * least_side_px), 1)


def decode_jpeg(payload: bytes, header: JpegHeader, *, scale: int = 1) -> UInt8:
    """Decode the first picture of the bytes; what follows its end marker is ignored.

    Args:
        payload: the whole file.
        header: of :func:`read_header`.
        scale: 1, 2, 4 or 8: the sides' divisor, rounded up.

    Returns:
        uint8 (⌈H / scale⌉, ⌈W / scale⌉, 3) RGB, C-contiguous, not turned by EXIF orientation.

    Raises:
        FrameError: damaged, incomplete, or of a kind that is not supported.
    """
    check_scans(payload, header)
    if len(header.components) == 4:
        # Adobe's convention, as Pillow has it: stored inverted
        inverted = np.invert(_decode(payload, header, "CMYK", scale))
        return np.array(Image.fromarray(inverted, "CMYK").convert("RGB"))
    return _decode(payload, header, "RGB", scale)


def check_scans(payload: bytes, header: JpegHeader) -> None:
    """Refuse a picture whose scans are incomplete or overwritten with zeros, by its bytes alone.

    Raises:
        FrameError: as said.
    """
    known: dict[tuple[int, int], int] = {}
    for n_scans, scan in enumerate(_scans(payload), start=1):
        if n_scans > MAX_SCANS:
            raise FrameError(f"the image has more than {MAX_SCANS} scans; it was not decoded")
        for component in scan.components:
            known |= dict.fromkeys(((component, k) for k in range(scan.first, scan.last + 1)), scan.low)
        if payload.find(bytes(ZERO_RUN_BYTES), scan.start, scan.end) >= 0:
            _check_zeros(payload, header, scan)
    if any(known.get((component, k)) != 0 for component in header.components for k in range(_COEFFICIENTS)):
        raise FrameError("the image is damaged or truncated (scans are missing)")


def _decode(payload: bytes, header: JpegHeader, colours: str, scale: int) -> UInt8:
    least_height, least_width = (0, 0) if scale == 1 else (-(-header.hw[0] // scale), -(-header.hw[1] // scale))
    try:
        pixels: UInt8 = simplejpeg.decode_jpeg(
            payload,
            colours,
            min_height=least_height,
            min_width=least_width,
            min_factor=scale if scale > 1 else _NEVER,
            strict=True,
        )
    except (ValueError, MemoryError) as error:
        raise FrameError(f"the image is damaged or truncated ({_plain(error)})") from error
    return pixels


def _check_zeros(payload: bytes, header: JpegHeader, scan: _Scan) -> None:
    """A run of zero bytes: nothing that an encoder writes, or a flat area whose scan must then end to the byte."""
    if header.progressive and scan.first == 0 and scan.high:
        return  # one plain bit per block: zeros are as likely as any, and what they change is the last bit of a mean
    flat = (not header.progressive or scan.first == 0) and all(
        dc == 0 and (header.progressive or ac == _EOB) for dc, ac in scan.zero_symbols
    )
    if not flat:
        raise FrameError(
            f"the image is damaged or truncated ({ZERO_RUN_BYTES} zero bytes in a row in its entropy-coded data)"
        )
    # zeros that took the place of other bytes stand for other blocks than those did: the scan ends early or late;
    # libjpeg-turbo reads up to 8 bytes ahead and does not miss them, so a byte less must be one too few
    last = scan.end - (2 if payload[scan.end - 2 : scan.end] == b"\xff\0" else 1)
    try:
        simplejpeg.decode_jpeg(payload[:last] + b"\xff\xd9", "GRAY", min_height=1, min_width=1, strict=True)
    except ValueError:
        return
    raise FrameError("the image is damaged or truncated (compressed pixels are left over)")


def _scans(payload: bytes) -> Iterator[_Scan]:
    """The scans up to the end marker.

    Raises:
        FrameError: damaged segments, or no end marker.
    """
    zero_symbols = dict(_STANDARD_ZERO_SYMBOLS)
    at = 2
    while True:
        for marker, start, end in _segments(payload, at):
            if marker == _EOI:
                return
            if marker == _DHT:
                zero_symbols |= _zero_symbols(payload[start:end])
            elif marker == _SOS:
                data_end = _end_of_scan(payload, end)
                yield _scan(payload[start:end], zero_symbols, end, data_end)
                at = data_end
                break


def _segments(payload: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Marker, and where its content begins and ends, from an offset to the end marker (which has no content).

    Raises:
        FrameError: a segment reaches beyond the end, or bytes belong to none.
    """
    while True:
        if at + 2 > len(payload):
            raise FrameError("the image is damaged or truncated (no end marker)")
        if payload[at] != 0xFF:
            raise FrameError("the image is damaged or truncated (bytes that belong to no segment)")
        while at + 1 < len(payload) and payload[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = payload[at + 1] if at + 1 < len(payload) else 0
        if marker == _EOI:
            yield marker, at + 2, at + 2
            return
        length = int.from_bytes(payload[at + 2 : at + 4], "big")
        start, end = at + 4, at + 2 + length
        if length < 2 or end > len(payload):
            raise FrameError("the image is damaged or truncated (a segment reaches beyond the end)")
        yield marker, start, end
        at = end


def _frame_header(content: bytes, marker: int) -> JpegHeader:
    if marker in _ARITHMETIC:
        raise FrameError(
            "arithmetic-coded JPEG is not supported, because its damage cannot be seen; use Huffman coding"
        )
    if marker not in {_BASELINE, _EXTENDED, _PROGRESSIVE}:
        raise FrameError("lossless and hierarchical JPEG are not supported; use baseline or progressive JPEG")
    if len(content) < 6 or len(content) != 6 + 3 * content[5]:
        raise FrameError("the image's header is damaged (frame header)")
    if content[0] != 8:
        raise FrameError(f"JPEG of {content[0]} bits is not supported; use 8 bits")
    if content[5] not in {1, 3, 4}:
        raise FrameError(f"JPEG of {content[5]} components is not supported; use grey, colour or CMYK")
    hw = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    return JpegHeader(hw, tuple(content[6::3]), marker == _PROGRESSIVE, has_metadata=False)


def _zero_symbols(content: bytes) -> dict[int, int]:
    """Of each Huffman table in a DHT segment, by its class and id: the symbol whose code is all zero bits."""
    symbols: dict[int, int] = {}
    at = 0
    while at + 17 < len(content):
        symbols[content[at]] = content[at + 17]
        at += 17 + sum(content[at + 1 : at + 17])
    return symbols


def _scan(content: bytes, zero_symbols: dict[int, int], start: int, end: int) -> _Scan:
    if not content or len(content) != 4 + 2 * content[0]:
        raise FrameError("the image is damaged or truncated (scan header)")
    selectors = content[2 : 1 + 2 * content[0] : 2]
    first, last, approximation = content[-3:]
    return _Scan(
        components=tuple(content[1 : 1 + 2 * content[0] : 2]),
        first=first,
        last=min(last, _COEFFICIENTS - 1),
        high=approximation >> 4,
        low=approximation & 15,
        zero_symbols=tuple(
            (zero_symbols.get(one >> 4, 0), zero_symbols.get(0x10 | (one & 15), _EOB)) for one in selectors
        ),
        start=start,
        end=end,
    )


def _end_of_scan(payload: bytes, at: int) -> int:
    """Where the next marker begins that is none of a restart; the end where there is none."""
    found = _SCAN_END.search(payload, at)
    return len(payload) if found is None else found.start()


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
