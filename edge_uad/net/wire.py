"""Records ↔ multipart bytes: the one place that knows the message schema.

Out: ``[topic, header, payload?]``, topic ``verdict/<station>``, ``heatmap/<station>`` or ``status/<station>``.
In: ``[station, header, image]``, for triggers ``[station, header]``. Headers are msgpack maps; outgoing ones have
``schema`` first. What a header must hold is validated by the pydantic models of ``headers.py``, from which
docs/wire.schema.json is generated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgpack

from edge_uad.errors import FrameError
from edge_uad.records import WIRE_SCHEMA, Decision, StationStatus, Verdict

if TYPE_CHECKING:
    from edge_uad.net.headers import Header

DEFAULT_STATION = "line"
"""Name of the station of a line that has only one and names none."""
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADER_DEPTH = 8
MAX_IMAGE_BYTES = 256 * 1024 * 1024
MAX_STATION_CHARS = 64
MAX_PART_ID_CHARS = 1024
"""Enough for any file name: 255 bytes, none of them UTF-8, are 1020 characters after ``valid_text``."""
Encoding = Literal["jpeg", "png", "bgr8", "rgb8", "mono8"]
LEFT_OUT_WHERE_NONE = frozenset({"trigger_id"})
"""Fields that a header has only where they say something."""
ENCODINGS: tuple[str, ...] = get_args(Encoding)
RAW_CHANNELS = {"bgr8": 3, "rgb8": 3, "mono8": 1}

Json = dict[str, Any]

_OTHER_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Header of ``heatmap/<station>``: the verdict it belongs to, and how its picture is encoded."""

    station: str
    frame_id: int
    part_id: str | None
    captured_at_ns: int
    decision: Decision
    score: float | None
    threshold: float
    encoding: str
    """``jpeg``."""
    height: int
    """Of the picture, in pixels."""
    width: int
    schema: int = WIRE_SCHEMA


def valid_text(text: str) -> str:
    r"""The text as valid UTF-8, for names that come from the file system.

    Python keeps each byte of a file name that is not UTF-8 as a lone surrogate; such a byte becomes ``\xff``, any
    other lone surrogate ``\ud800``. Text that is valid already is returned as it is, control characters included.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        escaped = _OTHER_SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text


def header_of(record: Verdict | StationStatus | Heatmap) -> Json:
    """A record's fields as plain values of valid UTF-8, ``schema`` first, the heatmap left out.

    The same map is the wire's header, a line of ``inspect --json`` and a line of ``watch --json``.
    """
    header: Json = {"schema": record.schema}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name not in {"schema", "heatmap"} and not (value is None and field.name in LEFT_OUT_WHERE_NONE):
            header[field.name] = _plain(value)
    return header


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return valid_text(str(value))  # StrEnum → str
    return list(value) if isinstance(value, tuple) else value


def encode_verdict(verdict: Verdict) -> list[bytes]:
    """``[verdict/<station>, header]``."""
    return [_topic("verdict", verdict.station), msgpack.packb(header_of(verdict))]


def encode_status(status: StationStatus) -> list[bytes]:
    """``[status/<station>, header]``."""
    return [_topic("status", status.station), msgpack.packb(header_of(status))]


def encode_heatmap(verdict: Verdict, picture: bytes, encoding: str, hw: tuple[int, int]) -> list[bytes]:
    """``[heatmap/<station>, header, picture]``.

    Args:
        verdict: the frame's.
        picture: the frame with its heat drawn over it, an encoded file.
        encoding: of ``picture``.
        hw: its height and width in pixels.
    """
    heatmap = Heatmap(
        station=verdict.station,
        frame_id=verdict.frame_id,
        part_id=verdict.part_id,
        captured_at_ns=verdict.captured_at_ns,
        decision=verdict.decision,
        score=verdict.score,
        threshold=verdict.threshold,
        encoding=encoding,
        height=hw[0],
        width=hw[1],
        schema=verdict.schema,
    )
    return [_topic("heatmap", verdict.station), msgpack.packb(header_of(heatmap)), picture]


def _topic(kind: str, station: str) -> bytes:
    return f"{kind}/{valid_text(station)}".encode()


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


def check_header(header: Json) -> None:
    """Check a published verdict's or status's header: the fields of its record, and plain JSON values in new ones.

    Raises:
        FrameError: a field is missing or of the wrong type, or it is neither a verdict nor a status.
    """
    _validated(_kind_of(header), header)


def verdict_of(header: Json) -> Verdict:
    """The verdict that a header of ``verdict/<station>`` holds; its heatmap is None, fields unknown here are dropped.

    Raises:
        FrameError: a field is missing or of the wrong type.
    """
    return Verdict(heatmap=None, **_validated("Verdict", header).record_fields())


def status_of(header: Json) -> StationStatus:
    """The heartbeat that a header of ``status/<station>`` holds; fields unknown here are dropped.

    Raises:
        FrameError: a field is missing or of the wrong type.
    """
    return StationStatus(**_validated("StationStatus", header).record_fields())


def _kind_of(header: Json) -> str:
    if "decision" in header:
        return "Verdict"
    if "state" in header:
        return "StationStatus"
    raise FrameError("the header is neither a verdict's nor a status's: it has no decision and no state")


@cache
def _headers() -> ModuleType:
    from edge_uad.net import headers  # noqa: PLC0415  (pydantic takes 0.1 s, and --help imports this module)

    return headers


def _validated(kind: str, header: Json) -> "Header":
    validated: Header = _headers().validated(kind, header)
    return validated


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMessage:
    """An incoming frame, checked but not decoded."""

    station: str
    frame_id: int
    part_id: str | None
    captured_at_ns: int
    encoding: str
    height: int
    width: int
    payload: bytes


def encode_frame(message: FrameMessage) -> list[bytes]:
    """``[station, header, image]``; a ``part_id`` that is not UTF-8 goes through ``valid_text``."""
    header = {
        "frame_id": message.frame_id,
        "part_id": None if message.part_id is None else valid_text(message.part_id),
        "captured_at_ns": message.captured_at_ns,
        "encoding": message.encoding,
        "height": message.height,
        "width": message.width,
    }
    return [message.station.encode(), msgpack.packb(header), message.payload]


def decode_frame(parts: Sequence[bytes]) -> FrameMessage:
    """Check an incoming message; keys of its header that are not known are ignored.

    Raises:
        FrameError: a field is missing, of the wrong type, too large or at odds with the rest.
    """
    if len(parts) != 3:
        raise FrameError(f"a message of {len(parts)} parts came where [station, header, image] was expected")
    station_bytes, header_bytes, payload = parts
    station = _station_of(station_bytes)
    if len(payload) > MAX_IMAGE_BYTES:
        raise FrameError(f"the image has {len(payload)} bytes, {MAX_IMAGE_BYTES} are allowed")
    header = _validated("Frame", _unpack_map(header_bytes))
    message = FrameMessage(station=station, payload=payload, **header.record_fields())
    _check_raw_size(message)
    return message


def _station_of(name: bytes) -> str:
    try:
        station = name.decode()
    except UnicodeDecodeError as error:
        raise FrameError("the station's name is not UTF-8") from error
    if not 0 < len(station) <= MAX_STATION_CHARS:
        raise FrameError(f"the station's name has {len(station)} characters, 1 to {MAX_STATION_CHARS} are allowed")
    return station


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMessage:
    """An incoming trigger, or the request to count frames and triggers anew."""

    station: str
    trigger_id: int | None
    """1 to 2³² − 1; None: count anew."""
    part_id: str | None = None


def encode_trigger(message: TriggerMessage) -> list[bytes]:
    """``[station, header]``; a ``part_id`` that is not UTF-8 goes through ``valid_text``."""
    header: Json = {"resynchronise": True}
    if message.trigger_id is not None:
        part_id = None if message.part_id is None else valid_text(message.part_id)
        header = {"trigger_id": message.trigger_id, "part_id": part_id}
    return [message.station.encode(), msgpack.packb(header)]


def decode_trigger(parts: Sequence[bytes]) -> TriggerMessage:
    """Check an incoming trigger; keys of its header that are not known are ignored.

    Raises:
        FrameError: a field is missing, of the wrong type or out of bounds.
    """
    if len(parts) != 2:
        raise FrameError(f"a message of {len(parts)} parts came where [station, header] was expected")
    station, header = _station_of(parts[0]), _unpack_map(parts[1])
    if "resynchronise" in header:
        if "trigger_id" in header:
            raise FrameError("the header has both a trigger_id and resynchronise; send two messages")
        if header["resynchronise"] is not True:  # pydantic takes 1 for it
            raise FrameError("the header's resynchronise is not true; leave it out of a trigger")
        return TriggerMessage(station=station, trigger_id=None)
    return TriggerMessage(station=station, **_validated("Trigger", header).record_fields())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedIdentity:
    """Fields of a refused message that are valid by themselves; None for the others."""

    frame_id: int | None = None
    part_id: str | None = None
    captured_at_ns: int | None = None


def claimed_identity(parts: Sequence[bytes]) -> ClaimedIdentity:
    """Which frame a refused message was meant to be, so that its *invalid* verdict can name the part."""
    if len(parts) < 2:
        return ClaimedIdentity()
    try:
        header = _unpack_map(parts[1])
    except FrameError:
        return ClaimedIdentity()
    faulty = _headers().faulty_fields("Frame", header)
    return ClaimedIdentity(
        **{field.name: None if field.name in faulty else header.get(field.name) for field in fields(ClaimedIdentity)}
    )


def _unpack_map(packed: bytes) -> Json:
    if len(packed) > MAX_HEADER_BYTES:
        raise FrameError(f"the header has {len(packed)} bytes, {MAX_HEADER_BYTES} are allowed")
    try:
        header = msgpack.unpackb(packed, strict_map_key=True, max_ext_len=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise FrameError("the header is not msgpack") from error
    if not isinstance(header, dict):
        raise FrameError(f"the header is a {type(header).__name__}, a map was expected")
    _check_depth(header)
    return header


def _check_depth(header: Json) -> None:
    """What is nested deeper than Python recurses could not even be shown in an error."""
    level: list[Any] = [header]
    for _ in range(MAX_HEADER_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise FrameError(f"the header is nested more than {MAX_HEADER_DEPTH} deep")


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
