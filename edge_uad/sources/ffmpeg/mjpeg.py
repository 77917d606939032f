"""Motion JPEG: each packet is a JPEG file of its own, decoded as strictly as a still.

FFmpeg's own decoder is not used for them: it fills what is missing with the picture before.
"""

import re

from edge_uad.errors import FrameError
from edge_uad.records import UInt8
from edge_uad.sources.decode import decode_image

_SOI, _EOI, _DHT, _SOS = 0xD8, 0xD9, 0xC4, 0xDA
_SECOND_PICTURE = re.compile(rb"\xff\xd9\x00*\xff\xd8\xff")

# Annex K.3 of the JPEG standard: the tables that Motion JPEG leaves out. Each begins with its class and number,
# then says how many codes there are of each length 1..16, then what they stand for.
_DC_VALUES = bytes(range(12))
_AC_LUMA_VALUES = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8"
    "a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_AC_CHROMA_VALUES = bytes.fromhex(
    "000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a3536373839"
    "3a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6"
    "a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa"
)
_TABLES = b"".join(
    (
        b"\x00" + bytes.fromhex("00010501010101010100000000000000") + _DC_VALUES,
        b"\x10" + bytes.fromhex("0002010303020403050504040000017d") + _AC_LUMA_VALUES,
        b"\x01" + bytes.fromhex("00030101010101010101010000000000") + _DC_VALUES,
        b"\x11" + bytes.fromhex("00020102040403040705040400010277") + _AC_CHROMA_VALUES,
    )
)
STANDARD_HUFFMAN_SEGMENT = bytes((0xFF, _DHT)) + (len(_TABLES) + 2).to_bytes(2, "big") + _TABLES
"""A DHT segment."""


def decode_packet(payload: bytes) -> UInt8:
    """Decode one packet.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        FrameError: it is damaged, or holds two fields of an interlaced picture.
    """
    if _SECOND_PICTURE.search(payload):
        raise FrameError("the packet holds more than one picture; interlaced video is not supported")
    return decode_image(with_huffman_tables(payload), formats=("JPEG",))


def with_huffman_tables(payload: bytes) -> bytes:
    """The JPEG with the standard Huffman tables, where it comes without any, as in many AVI files and cameras."""
    at = 2
    while at + 4 <= len(payload) and payload[at] == 0xFF:
        marker = payload[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _DHT:
            return payload
        if marker == _SOS:
            return payload[:at] + STANDARD_HUFFMAN_SEGMENT + payload[at:]
        at += 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
    return payload
