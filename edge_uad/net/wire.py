"""Records ↔ multipart bytes: the one place that knows the message schema.

Out: ``[topic, header, payload?]``, topic ``verdict/<station>``, ``heatmap/<station>`` or ``status/<station>``.
In: ``[station, header, image]``. Headers are msgpack maps; outgoing ones have ``schema`` first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import msgpack

from edge_uad.errors import FrameError
from edge_uad.records import WIRE_SCHEMA, StationStatus, Verdict

DEFAULT_STATION = "line"
"""What a line of one station is called unless it is told otherwise."""
MAX_HEADER_BYTES = 64 * 1024
MAX_IMAGE_BYTES = 256 * 1024 * 1024
MAX_STATION_CHARS = 64
MAX_PART_ID_CHARS = 512
ENCODINGS = ("jpeg", "png", "bgr8", "rgb8", "mono8")
RAW_CHANNELS = {"bgr8": 3, "rgb8": 3, "mono8": 1}

Json = dict[str, Any]
_Field = TypeVar("_Field")


def header_of(record: Verdict | StationStatus) -> Json:
    """A record's fields as plain values, ``schema`` first, the heatmap left out.

    The same map is the wire's header, a line of ``inspect --json`` and a line of ``watch --json``.
    """
    header: Json = {"schema": record.schema}
    for field in fields(record):
        if field.name not in {"schema", "heatmap"}:
            header[field.name] = _plain(getattr(record, field.name))
    return header


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)  # StrEnum → str
    return list(value) if isinstance(value, tuple) else value


def encode_verdict(verdict: Verdict) -> list[bytes]:
    """``[verdict/<station>, header]``."""
    return [f"verdict/{verdict.station}".encode(), msgpack.packb(header_of(verdict))]


def encode_status(status: StationStatus) -> list[bytes]:
    """``[status/<station>, header]``."""
    return [f"status/{status.station}".encode(), msgpack.packb(header_of(status))]


def encode_heatmap(verdict: Verdict, picture: bytes, encoding: str, hw: tuple[int, int]) -> list[bytes]:
    """``[heatmap/<station>, header, picture]``: an encoded overlay of ``hw`` pixels, with its verdict's key facts."""
    header = {
        "schema": verdict.schema,
        "station": verdict.station,
        "frame_id": verdict.frame_id,
        "part_id": verdict.part_id,
        "captured_at_ns": verdict.captured_at_ns,
        "decision": str(verdict.decision),
        "score": verdict.score,
        "threshold": verdict.threshold,
        "encoding": encoding,
        "height": hw[0],
        "width": hw[1],
    }
    return [f"heatmap/{verdict.station}".encode(), msgpack.packb(header), picture]


def decode_message(parts: Sequence[bytes]) -> tuple[str, Json, bytes | None]:
    """Topic, header and payload of a published message.

    Raises:
        FrameError: not one of ours, or of another schema.
    """
    if not 2 <= len(parts) <= 3:
        raise FrameError(f"a message of {len(parts)} parts came where [topic, header, payload?] was expected")
    header = _unpack_map(parts[1])
    if header.get("schema") != WIRE_SCHEMA:
        raise FrameError(
            f"the message's schema is {header.get('schema')!r}, this edge-uad reads {WIRE_SCHEMA}; "
            "run the same version on both sides"
        )
    try:
        topic = parts[0].decode()
    except UnicodeDecodeError as error:
        raise FrameError("the message's topic is not UTF-8") from error
    return topic, header, parts[2] if len(parts) == 3 else None


_NUMBER = (int, float)
_SHOWN_FIELDS: dict[str, tuple[type, ...]] = {
    "station": (str,),
    "frame_id": (int,),
    "captured_at_ns": (int,),
    "decision": (str,),
    "threshold": _NUMBER,
    "latency_ms": _NUMBER,
    "state": (str,),
    "at_ns": (int,),
}
_SHOWN_IF_ANY: dict[str, tuple[type, ...]] = {
    "part_id": (str,),
    "reason": (str,),
    "message": (str,),
    "score": _NUMBER,
    "p_value": _NUMBER,
    "last_frame_age_s": _NUMBER,
}
_REQUIRED = {
    "decision": ("station", "frame_id", "captured_at_ns", "threshold", "latency_ms"),
    "state": ("station", "at_ns"),
}


def check_header(header: Json) -> None:
    """Check what a verdict or a heartbeat must have before it is shown.

    Raises:
        FrameError: a field is missing, or of the wrong kind.
    """
    for kind, names in _REQUIRED.items():
        missing = [name for name in names if kind in header and name not in header]
        if missing:
            raise FrameError(f"a message with {kind} came without {missing[0]}")
    for name, value in header.items():
        kinds = _SHOWN_FIELDS.get(name) or (*_SHOWN_IF_ANY.get(name, ()), type(None))
        known = name in _SHOWN_FIELDS or name in _SHOWN_IF_ANY
        if (known and not isinstance(value, kinds)) or isinstance(value, bytes):
            raise FrameError(f"a message came whose {name} is {_shown(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMessage:
    """A frame as it comes in, checked but not decoded."""

    station: str
    frame_id: int
    part_id: str | None
    captured_at_ns: int
    encoding: str
    height: int
    width: int
    payload: bytes


def encode_frame(message: FrameMessage) -> list[bytes]:
    """``[station, header, image]``."""
    header = {
        "frame_id": message.frame_id,
        "part_id": message.part_id,
        "captured_at_ns": message.captured_at_ns,
        "encoding": message.encoding,
        "height": message.height,
        "width": message.width,
    }
    return [message.station.encode(), msgpack.packb(header), message.payload]


def decode_frame(parts: Sequence[bytes]) -> FrameMessage:
    """Check an incoming message field by field.

    Raises:
        FrameError: what is missing, of the wrong kind, too large or at odds with the rest.
    """
    if len(parts) != 3:
        raise FrameError(f"a message of {len(parts)} parts came where [station, header, image] was expected")
    station_bytes, header_bytes, payload = parts
    try:
        station = station_bytes.decode()
    except UnicodeDecodeError as error:
        raise FrameError("the station's name is not UTF-8") from error
    if not 0 < len(station) <= MAX_STATION_CHARS:
        raise FrameError(f"the station's name has {len(station)} characters, 1 to {MAX_STATION_CHARS} are allowed")
    if len(payload) > MAX_IMAGE_BYTES:
        raise FrameError(f"the image has {len(payload)} bytes, {MAX_IMAGE_BYTES} are allowed")
    header = _unpack_map(header_bytes)
    message = FrameMessage(
        station=station,
        frame_id=_whole(header, "frame_id", 0, 2**63 - 1),
        part_id=_part_id(header),
        captured_at_ns=_whole(header, "captured_at_ns", 0, 2**63 - 1),
        encoding=_encoding(header),
        height=_whole(header, "height", 1, 2**16),
        width=_whole(header, "width", 1, 2**16),
        payload=payload,
    )
    _check_raw_size(message)
    return message


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedIdentity:
    """What a message that was refused still says of itself; None where that is unreadable, too."""

    frame_id: int | None = None
    part_id: str | None = None
    captured_at_ns: int | None = None


def claimed_identity(parts: Sequence[bytes]) -> ClaimedIdentity:
    """Which frame a refused message meant to be, so that its verdict can name the part."""
    if len(parts) < 2:
        return ClaimedIdentity()
    try:
        header = _unpack_map(parts[1])
    except FrameError:
        return ClaimedIdentity()
    return ClaimedIdentity(
        frame_id=_if_valid(lambda: _whole(header, "frame_id", 0, 2**63 - 1)),
        part_id=_if_valid(lambda: _part_id(header)),
        captured_at_ns=_if_valid(lambda: _whole(header, "captured_at_ns", 0, 2**63 - 1)),
    )


def _if_valid(read: Callable[[], _Field]) -> _Field | None:
    try:
        return read()
    except FrameError:
        return None


def _unpack_map(packed: bytes) -> Json:
    if len(packed) > MAX_HEADER_BYTES:
        raise FrameError(f"the header has {len(packed)} bytes, {MAX_HEADER_BYTES} are allowed")
    try:
        header = msgpack.unpackb(packed, strict_map_key=True, max_ext_len=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise FrameError("the header is not msgpack") from error
    if not isinstance(header, dict):
        raise FrameError(f"the header is a {type(header).__name__}, a map was expected")
    return header


def _whole(header: Json, key: str, low: int, high: int) -> int:
    value = header.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FrameError(f"the header's {key} is {_shown(value)}, a whole number from {low} to {high} was expected")
    return value


def _part_id(header: Json) -> str | None:
    value = header.get("part_id")
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_PART_ID_CHARS):
        raise FrameError(
            f"the header's part_id is {_shown(value)}, a text of at most {MAX_PART_ID_CHARS} characters was expected"
        )
    return value


def _encoding(header: Json) -> str:
    value = header.get("encoding")
    if value not in ENCODINGS:
        raise FrameError(f"the header's encoding is {_shown(value)}, one of {', '.join(ENCODINGS)} was expected")
    return str(value)


def _check_raw_size(message: FrameMessage) -> None:
    channels = RAW_CHANNELS.get(message.encoding)
    if channels is None:
        return
    expected = message.height * message.width * channels
    if len(message.payload) != expected:
        raise FrameError(
            f"the image has {len(message.payload)} bytes, "
            f"{message.encoding} of {message.width}×{message.height} has {expected}"
        )


def _shown(value: object, limit: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
