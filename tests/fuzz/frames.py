"""Any message is a frame, a trigger or a reason, and nothing worse: the way from the wire to pixels.

Half of the inputs are arbitrary parts, the others a right header over an arbitrary payload, so that the picture
decoders are reached as well, or the header of a trigger with arbitrary values.
"""

import sys
from functools import partial

import atheris
import msgpack

with atheris.instrument_imports(include=["edge_uad", "PIL"]):
    from edge_uad.errors import FrameError
    from edge_uad.net.wire import (
        ENCODINGS,
        check_header,
        claimed_identity,
        decode_frame,
        decode_message,
        decode_trigger,
    )
    from edge_uad.records import MAX_TRIGGER_ID
    from edge_uad.sources.zmq import _picture

MAX_PIXELS, LEAST_SIDE_PX = 1_000_000, 16
STARTS = (b"", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x89PNG\r\n\x1a\n")


def parts_of(given: atheris.FuzzedDataProvider) -> list[bytes]:
    """A message."""
    if given.ConsumeBool():
        return [given.ConsumeBytes(given.ConsumeIntInRange(0, 300)) for _ in range(given.ConsumeIntInRange(0, 4))]
    if given.ConsumeBool():
        trigger = {"trigger_id": given.ConsumeInt(8), "part_id": given.ConsumeUnicodeNoSurrogates(20) or None}
        if given.ConsumeBool():
            trigger["resynchronise"] = given.PickValueInList([True, False, 1, "true", None])
        if given.ConsumeBool():
            del trigger["trigger_id"]
        return [b"line", msgpack.packb(trigger)]
    header = {
        "frame_id": given.ConsumeInt(8),
        "part_id": given.ConsumeUnicodeNoSurrogates(20) or None,
        "captured_at_ns": given.ConsumeInt(8),
        "encoding": given.PickValueInList(list(ENCODINGS)),
        "height": given.ConsumeIntInRange(0, 70_000),
        "width": given.ConsumeIntInRange(0, 70_000),
    }
    payload = given.PickValueInList(list(STARTS)) + given.ConsumeBytes(4000)
    return [b"line", msgpack.packb(header), payload]


def picture_of(least_side_px: int | None, parts: list[bytes]) -> None:
    """At its full size, or reduced."""
    _picture(decode_frame(parts), MAX_PIXELS, least_side_px)


def trigger_of(parts: list[bytes]) -> None:
    """As a station's own socket and the one for triggers read it: what is accepted is within bounds."""
    trigger_id = decode_trigger(parts).trigger_id
    if trigger_id is not None and not (type(trigger_id) is int and 1 <= trigger_id <= MAX_TRIGGER_ID):
        raise AssertionError(f"the trigger id {trigger_id!r} was accepted")


def header_of(parts: list[bytes]) -> None:
    """A published message, as ``edge-uad watch`` and the Subscriber read it."""
    check_header(decode_message(parts)[1])


def one_input(content: bytes) -> None:
    """What the fuzzer calls; any exception but FrameError is a find."""
    parts = parts_of(atheris.FuzzedDataProvider(content))
    claimed_identity(parts)
    for decode in (header_of, trigger_of, partial(picture_of, None), partial(picture_of, LEAST_SIDE_PX)):
        try:
            decode(parts)
        except FrameError as error:
            if not str(error) or "\n" in str(error):
                raise AssertionError("a reason is one line") from error


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
