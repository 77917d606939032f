"""What an H.264 or HEVC packet shows of damage and loss before it is decoded.

FFmpeg decodes on where H.264 pictures are missing, from whatever reference pictures it has left, and marks
nothing. ``frame_num`` of the slice headers counts the reference pictures, so a gap in it is a loss.
Inside a NAL unit three bytes 00 00 00, 00 00 01 or 00 00 02 cannot occur (an encoder escapes them): a
region of zeros, as a bad sector or an unwritten block leaves it, is damage.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

_SLICE, _IDR_SLICE, _SPS, _PPS = 1, 5, 7, 8
"""H.264 nal_unit_type."""
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""Whose parameter sets describe chroma and scaling lists."""
_HEADER_BYTES = 64
"""More than the part of a slice header that is read here."""

_START_CODE = re.compile(rb"\x00\x00\x01")
_ILLEGAL_IN_STREAM = re.compile(rb"\x00\x00(?:\x02|\x00+[^\x00\x01])", re.DOTALL)
"""In a byte stream zeros may stand before a start code or at the end."""
_ILLEGAL_IN_UNIT = re.compile(rb"\x00\x00[\x00-\x02]", re.DOTALL)


class NalDamageError(ValueError):
    """The packet cannot be what an encoder wrote; the text says why."""


class NalReader:
    """Splits packets into NAL units and checks their framing.

    Args:
        extradata: the decoder configuration of the container; None or empty for byte streams.
        hevc: HEVC instead of H.264.
    """

    def __init__(self, extradata: bytes | None, *, hevc: bool) -> None:
        configured = extradata is not None and len(extradata) > (22 if hevc else 6) and extradata[0] == 1
        self._length_bytes = 0
        """Of the field before each unit; 0 for start codes."""
        if configured and extradata is not None:
            self._length_bytes = (extradata[21 if hevc else 4] & 3) + 1

    def units(self, packet: bytes) -> list[bytes]:
        """The packet's NAL units.

        Raises:
            NalDamageError: the packet is damaged.
        """
        if self._length_bytes:
            return list(self._by_length(packet))
        if _ILLEGAL_IN_STREAM.search(packet):
            raise NalDamageError("part of its data is overwritten")
        return list(split_byte_stream(packet))

    def _by_length(self, packet: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(packet):
            length = int.from_bytes(packet[at : at + self._length_bytes], "big")
            at += self._length_bytes
            unit = packet[at : at + length]
            if not length or len(unit) < length:
                raise NalDamageError("its parts do not have the lengths that it states")
            if _ILLEGAL_IN_UNIT.search(unit):
                raise NalDamageError("part of its data is overwritten")
            yield unit
            at += length


def split_byte_stream(data: bytes) -> Iterator[bytes]:
    """The NAL units between start codes, without trailing zeros."""
    codes = list(_START_CODE.finditer(data))
    for code, following in zip_longest(codes, codes[1:]):
        unit = data[code.end() : len(data) if following is None else following.start()].rstrip(b"\0")
        if unit:
            yield unit


@dataclass(frozen=True, slots=True)
class _Sps:
    frame_num_bits: int
    separate_planes: bool
    gaps_allowed: bool
    """The encoder leaves pictures out on purpose (temporal layers)."""


class FrameNumCheck:
    """Notices H.264 reference pictures that never came.

    Args:
        extradata: the decoder configuration of the container, with its parameter sets; may be empty.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._sps: dict[int, _Sps] = {}
        self._sps_of_pps: dict[int, int] = {}
        self._last: int | None = None
        """frame_num of the newest reference picture; None: any may follow."""
        for unit in _configured_units(extradata or b""):
            self._learn(unit)

    def gap(self, units: list[bytes]) -> bool:
        """Whether reference pictures are missing before the picture of these NAL units."""
        for unit in units:
            self._learn(unit)
        for unit in units:
            if unit[0] & 31 in {_SLICE, _IDR_SLICE}:
                return self._follow(unit)
        return False

    def _follow(self, unit: bytes) -> bool:
        try:
            bits = _Bits(unit[1:_HEADER_BYTES])
            bits.unsigned()  # first_mb_in_slice
            bits.unsigned()  # slice_type
            sps = self._sps[self._sps_of_pps[bits.unsigned()]]
            if sps.separate_planes:
                bits.read(2)
            frame_num = bits.read(sps.frame_num_bits)
        except (KeyError, IndexError):
            return False  # the decoder has no parameters for it either, and says so
        last, is_idr, is_reference = self._last, unit[0] & 31 == _IDR_SLICE, bool(unit[0] >> 5 & 3)
        if is_reference:
            self._last = frame_num
        if last is None or is_idr or sps.gaps_allowed:
            return False
        return frame_num not in {last, (last + 1) % (1 << sps.frame_num_bits)}

    def _learn(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind not in {_SPS, _PPS}:
            return
        try:
            if kind == _SPS:
                number, sps = _read_sps(_Bits(unit[1:]))
                self._sps[number] = sps
            else:
                bits = _Bits(unit[1:_HEADER_BYTES])
                number = bits.unsigned()
                self._sps_of_pps[number] = bits.unsigned()
        except IndexError:
            return  # cut short: the decoder refuses it


def _configured_units(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an avcC record or of a byte stream."""
    if not extradata.startswith(b"\1"):
        yield from split_byte_stream(extradata)
        return
    at = 5
    for mask in (31, 255):  # SPS, then PPS
        if at >= len(extradata):
            return
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            unit = extradata[at + 2 : at + 2 + length]
            at += 2 + length
            if unit:
                yield unit


def _read_sps(bits: "_Bits") -> tuple[int, _Sps]:
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    number = bits.unsigned()
    separate_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.unsigned()
        separate_planes = chroma == 3 and bits.read(1) == 1
        bits.unsigned()  # bit_depth_luma
        bits.unsigned()  # bit_depth_chroma
        bits.read(1)  # transform bypass
        if bits.read(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.unsigned() + 4
    order = bits.unsigned()  # pic_order_cnt_type
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.read(1)
        bits.unsigned()
        bits.unsigned()
        for _ in range(bits.unsigned()):
            bits.unsigned()
    bits.unsigned()  # max_num_ref_frames
    return number, _Sps(frame_num_bits, separate_planes, gaps_allowed=bits.read(1) == 1)


def _skip_scaling_list(bits: "_Bits", size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


class _Bits:
    """Bits of a NAL unit's payload, escapes removed. IndexError past its end."""

    def __init__(self, payload: bytes) -> None:
        plain = payload.replace(b"\0\0\3", b"\0\0")
        self._digits = "".join(f"{byte:08b}" for byte in plain)
        self._at = 0

    def read(self, count: int) -> int:
        digits = self._digits[self._at : self._at + count]
        if len(digits) < count:
            raise IndexError(count)
        self._at += count
        return int(digits, 2) if count else 0

    def unsigned(self) -> int:
        """An Exp-Golomb number."""
        one = self._digits.find("1", self._at)
        if one < 0:
            raise IndexError(self._at)
        zeros, self._at = one - self._at, one
        return self.read(zeros + 1) - 1

    def signed(self) -> int:
        """A signed Exp-Golomb number."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)
