"""docs/wire.schema.json is generated from the records, and real messages are valid by it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import msgpack
import pytest

from edge_uad.inference.inspector import Inspector
from edge_uad.net.schema import rendered, wire_schema
from edge_uad.net.wire import (
    FrameMessage,
    TriggerMessage,
    encode_frame,
    encode_heatmap,
    encode_status,
    encode_trigger,
    encode_verdict,
)
from edge_uad.records import MAX_TRIGGER_ID, Frame, StationState, StationStatus, UnreadableFrame
from tests.fakes import GREEN, RED, frame, green_inspector, picture

FILE = Path(__file__).parents[3] / "docs" / "wire.schema.json"
INSPECTOR: Inspector = green_inspector()


def check(kind: str, header: object) -> None:
    """Raise where the header is not valid as that kind."""
    schema = wire_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(header, {"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})


def test_the_documented_schema_is_the_generated_one() -> None:
    printed = subprocess.run([sys.executable, "-m", "edge_uad.net.schema"], capture_output=True, text=True, check=True)
    assert printed.stdout == rendered()
    assert FILE.read_text(encoding="utf-8") == rendered(), (
        "a record changed; run: python -m edge_uad.net.schema > docs/wire.schema.json"
    )


@pytest.mark.parametrize("one", [frame(1, GREEN), frame(2, RED), None], ids=["normal", "anomalous", "invalid"])
def test_published_verdicts_and_heatmaps_are_valid(one: Frame | None) -> None:
    unreadable = UnreadableFrame(station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=1, reason="damaged")
    verdict = INSPECTOR.inspect(one or unreadable)
    check("Verdict", msgpack.unpackb(encode_verdict(verdict)[1]))
    check("Heatmap", msgpack.unpackb(encode_heatmap(verdict, b"picture", "jpeg", (9, 9))[1]))


@pytest.mark.parametrize("state", list(StationState))
def test_published_heartbeats_are_valid(state: StationState) -> None:
    check("StationStatus", msgpack.unpackb(encode_status(_status(state))[1]))


@pytest.mark.parametrize("part_id", [None, "SN-1"])
def test_frames_sent_are_valid(part_id: str | None) -> None:
    message = FrameMessage(
        station="line",
        frame_id=1,
        part_id=part_id,
        captured_at_ns=1,
        encoding="rgb8",
        height=2,
        width=3,
        payload=picture(hw=(2, 3)).tobytes(),
    )
    check("Frame", msgpack.unpackb(encode_frame(message)[1]))


@pytest.mark.parametrize("trigger_id", [None, 1, MAX_TRIGGER_ID])
def test_triggers_and_their_verdicts_are_valid(trigger_id: int | None) -> None:
    kind = "Resynchronise" if trigger_id is None else "Trigger"
    check(kind, msgpack.unpackb(encode_trigger(TriggerMessage(station="line", trigger_id=trigger_id))[1]))
    header = msgpack.unpackb(encode_verdict(INSPECTOR.inspect(replace(frame(1), trigger_id=trigger_id)))[1])
    assert header.get("trigger_id", "left out") == (trigger_id or "left out")
    check("Verdict", header)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Verdict", {"trigger_id": "7"}),
        ("Trigger", {"trigger_id": 0}),
        ("Trigger", {"trigger_id": MAX_TRIGGER_ID + 1}),
        ("Trigger", {"part_id": "x" * 1025}),
        ("Resynchronise", {"resynchronise": False}),
        ("Verdict", {"decision": "perhaps"}),
        ("Verdict", {"schema": 2}),
        ("Verdict", {"peak": [1]}),
        ("Verdict", {"frame_id": "1"}),
        ("Heatmap", {"width": None}),
        ("StationStatus", {"state": "asleep"}),
        ("Frame", {"height": 0}),
        ("Frame", {"encoding": "gif"}),
    ],
)
def test_what_the_program_refuses_the_schema_refuses(kind: str, change: dict[str, Any]) -> None:
    header = _valid()[kind]
    check(kind, header)
    with pytest.raises(jsonschema.ValidationError):
        check(kind, header | change)


@pytest.mark.parametrize("kind", ["Verdict", "Heatmap", "StationStatus"])
def test_every_published_field_is_required(kind: str) -> None:
    header = _valid()[kind]
    for name in header:
        with pytest.raises(jsonschema.ValidationError):
            check(kind, {key: value for key, value in header.items() if key != name})


def _valid() -> dict[str, dict[str, Any]]:
    verdict = INSPECTOR.inspect(frame(1, RED))
    sent = FrameMessage(
        station="a",
        frame_id=1,
        part_id=None,
        captured_at_ns=1,
        encoding="mono8",
        height=1,
        width=1,
        payload=b"\0",
    )
    return {
        "Verdict": msgpack.unpackb(encode_verdict(verdict)[1]),
        "Heatmap": msgpack.unpackb(encode_heatmap(verdict, b"", "jpeg", (1, 1))[1]),
        "StationStatus": msgpack.unpackb(encode_status(_status(StationState.RUNNING))[1]),
        "Frame": msgpack.unpackb(encode_frame(sent)[1]),
        "Trigger": msgpack.unpackb(encode_trigger(TriggerMessage(station="a", trigger_id=1, part_id="b"))[1]),
        "Resynchronise": msgpack.unpackb(encode_trigger(TriggerMessage(station="a", trigger_id=None))[1]),
    }


def _status(state: StationState) -> StationStatus:
    return StationStatus(
        station="line",
        at_ns=1,
        state=state,
        message=None,
        frames_seen=0,
        judged=0,
        dropped=0,
        invalid=0,
        last_frame_age_s=None,
        bank_id="b",
        model_id="m",
    )
