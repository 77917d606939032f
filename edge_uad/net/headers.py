"""The headers of all messages as pydantic models: what ``wire.py`` validates by, and what the JSON Schema comes from.

Types are strict: no number from a text, no number from a bool. Those of what is published are generated from their
records, so that a field is described in one place.
"""

import reprlib
from dataclasses import MISSING, fields
from enum import Enum
from typing import Annotated, Any, Final, Literal, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict, ValidationError, create_model

from edge_uad.errors import FrameError
from edge_uad.net.wire import MAX_PART_ID_CHARS, Encoding, Heatmap, Json
from edge_uad.records import MAX_TRIGGER_ID, StationStatus, Verdict

MAX_INT = 2**63 - 1
MAX_SIDE_PX = 2**16
_SHOWN_CHARS = 40

_repr = reprlib.Repr()  # bounded in depth and length: what is shown was sent by anyone
_repr.maxlevel, _repr.maxstring, _repr.maxother = 2, _SHOWN_CHARS, _SHOWN_CHARS


class Header(BaseModel):
    """A message's header, validated."""

    model_config = ConfigDict(
        strict=True, frozen=True, allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )

    def record_fields(self) -> dict[str, Any]:
        """The known fields by the names that the record gives them."""
        return {described.alias or name: getattr(self, name) for name, described in type(self).model_fields.items()}


class _PublishedHeader(Header):
    """A later version may add fields within a schema: they are kept, where they are JSON."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]


class Frame(Header):
    """Header of a frame that comes in; other keys are ignored."""

    frame_id: Annotated[int, Field(ge=0, le=MAX_INT)]
    """Counts up; a gap counts as frames lost where the station's source is a SUB socket."""
    part_id: Annotated[str, Field(max_length=MAX_PART_ID_CHARS)] | None = None
    """The line's own name for the part."""
    captured_at_ns: Annotated[int, Field(ge=0, le=MAX_INT)]
    """Unix time of capture, by the sender's clock."""
    encoding: Encoding
    """``jpeg``, ``png``: a file; the others: bare pixels, row by row without padding."""
    height: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
    """In pixels, before EXIF orientation."""
    width: Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]


class Trigger(Header):
    """Header of a trigger that comes in; other keys are ignored."""

    trigger_id: Annotated[int, Field(ge=1, le=MAX_TRIGGER_ID)]
    """The verdict repeats it. One that repeats the newest, or one that waits, is not judged again."""
    part_id: Annotated[str, Field(max_length=MAX_PART_ID_CHARS)] | None = None
    """The line's own name for the part; the verdict repeats it."""


class Resynchronise(Header):
    """Header of the request to count frames and triggers anew; other keys are ignored."""

    resynchronise: Literal[True]


def _model_of(record: type, *, without: frozenset[str] = frozenset()) -> type[Header]:
    """A model with a record's fields; tuples come as lists and enumerations as texts, because msgpack has neither."""
    hints = get_type_hints(record)
    described: dict[str, Any] = {}
    for field in fields(record):
        if field.name in without:
            continue
        default = ... if field.default is MISSING else field.default
        shadows = hasattr(BaseModel, field.name)
        described[field.name + "_" * shadows] = (
            _lenient(hints[field.name]),
            Field(default, alias=field.name) if shadows else default,
        )
    return create_model(record.__name__, __base__=_PublishedHeader, __doc__=record.__doc__, **described)


def _lenient(hint: Any) -> Any:
    is_enum = isinstance(hint, type) and issubclass(hint, Enum)
    parts = getattr(hint, "__args__", ())
    if is_enum or any(get_origin(part) is tuple for part in parts):
        return Annotated[hint, Strict(False)]
    return hint


MODELS: Final[dict[str, type[Header]]] = {
    "Verdict": _model_of(Verdict, without=frozenset({"heatmap"})),
    "Heatmap": _model_of(Heatmap),
    "StationStatus": _model_of(StationStatus),
    "Frame": Frame,
    "Trigger": Trigger,
    "Resynchronise": Resynchronise,
}
"""By the name of the record."""


def validated(kind: str, header: Json) -> Header:
    """A header of that kind.

    Raises:
        FrameError: names the first field that is missing or wrong, its value and what is allowed, in one line.
    """
    try:
        return MODELS[kind].model_validate(header)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(_named, fault["loc"]))
        if fault["type"] == "missing":
            raise FrameError(f"the header has no {name}") from error
        message = fault["msg"]
        raise FrameError(
            f"the header's {name} is {_repr.repr(fault['input'])}: {message[:1].lower()}{message[1:]}"
        ) from error


def faulty_fields(kind: str, header: Json) -> frozenset[int | str]:
    """Names of the fields that ``validated`` would refuse."""
    try:
        MODELS[kind].model_validate(header)
    except ValidationError as error:
        return frozenset(fault["loc"][0] for fault in error.errors(include_url=False, include_context=False))
    return frozenset()


def _named(step: int | str) -> str:
    text = str(step)
    return text if text.isidentifier() or text.isdecimal() else _repr.repr(text)
