"""Does an ONNX file keep tensors in other files? Read from protobuf's wire format, as the runtime has no ``onnx``.

A model's id is the hash of its file: weights that lie elsewhere, which ONNX Runtime and OpenVINO would read, are not
covered by it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 100
"""Of nested messages, as protobuf has it."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
"""Fields of a TensorProto: where its data lie elsewhere, and whether they do."""
_TENSOR: Mapping[int, Any] = {}
_SPARSE_TENSOR: Mapping[int, Any] = {1: _TENSOR, 2: _TENSOR}
_ATTRIBUTE: dict[int, Any] = {5: _TENSOR, 10: _TENSOR, 22: _SPARSE_TENSOR, 23: _SPARSE_TENSOR}
_NODE: Mapping[int, Any] = {5: _ATTRIBUTE}
_GRAPH: Mapping[int, Any] = {1: _NODE, 5: _TENSOR, 15: _SPARSE_TENSOR}
_ATTRIBUTE |= {6: _GRAPH, 11: _GRAPH}
_FUNCTION: Mapping[int, Any] = {7: _NODE, 11: _ATTRIBUTE}
_TRAINING: Mapping[int, Any] = {1: _GRAPH, 2: _GRAPH}
_MODEL: Mapping[int, Any] = {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION}
"""By message, the fields that can hold tensors, and the message in each."""


def has_external_data(model: memoryview) -> bool:
    """Whether any tensor of a serialised ONNX model, uint8 (n,), lies in another file.

    Raises:
        ValueError: not protobuf.
    """
    return _holds_external(model, _MODEL, 0)


def _holds_external(message: memoryview, kind: Mapping[int, Any], depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("messages are nested too deep")
    for field, value in _fields(message):
        if kind is _TENSOR:
            # a location of 0, the default, may be written out
            if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0):
                return True
        elif field in kind and isinstance(value, memoryview) and _holds_external(value, kind[field], depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of each field; fixed ones as bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            number, at = _varint(message, at)
            yield field, number
            continue
        if wire_type == _BYTES:
            length, at = _varint(message, at)
        elif wire_type in {_FIXED32, _FIXED64}:
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")
        if length > len(message) - at:
            raise ValueError("a field ends beyond its message")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next field begins."""
    number = 0
    for index in range(_MAX_VARINT_BYTES):
        if at + index >= len(message):
            break
        byte = message[at + index]
        number |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return number, at + index + 1
    raise ValueError("a number does not end")
