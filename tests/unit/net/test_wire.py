"""What travels between processes survives the way, and what is no message of ours is refused with a reason."""

import dataclasses

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.errors import FrameError
from edge_uad.net.wire import (
    ENCODINGS,
    RAW_CHANNELS,
    FrameMessage,
    check_header,
    claimed_identity,
    decode_frame,
    decode_message,
    encode_frame,
    encode_heatmap,
    encode_status,
    encode_verdict,
    header_of,
)
from edge_uad.records import Decision, StationState, StationStatus, Verdict

names = st.text(min_size=1, max_size=64)
counters = st.integers(0, 2**63 - 1)
scores = st.floats(0, 4)
parts = st.none() | st.text(max_size=512)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    judged = draw(st.booleans())
    return Verdict(
        station=draw(names),
        frame_id=draw(counters),
        part_id=draw(parts),
        captured_at_ns=draw(counters),
        decision=draw(st.sampled_from([Decision.NORMAL, Decision.ANOMALOUS])) if judged else Decision.INVALID,
        reason=None if judged else draw(names),
        score=draw(scores) if judged else None,
        threshold=draw(scores),
        p_value=draw(st.floats(0, 1)) if judged else None,
        foreground_ratio=draw(st.floats(0, 1)) if judged else None,
        peak=draw(st.tuples(st.integers(0, 9999), st.integers(0, 9999))) if judged else None,
        heatmap=np.zeros((4, 4), np.float32) if judged else None,
        latency_ms=draw(scores),
        dropped_before=draw(counters),
        model_id=draw(names),
        bank_id=draw(names),
    )


@st.composite
def frame_messages(draw: st.DrawFn) -> FrameMessage:
    encoding = draw(st.sampled_from(ENCODINGS))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    channels = RAW_CHANNELS.get(encoding)
    size = draw(st.integers(0, 99)) if channels is None else height * width * channels
    return FrameMessage(
        station=draw(names),
        frame_id=draw(counters),
        part_id=draw(parts),
        captured_at_ns=draw(counters),
        encoding=encoding,
        height=height,
        width=width,
        payload=b"\x07" * size,
    )


@given(verdicts())
def test_a_verdict_arrives_with_every_field_but_the_heatmap(verdict: Verdict) -> None:
    topic, header, payload = decode_message(encode_verdict(verdict))
    assert topic == f"verdict/{verdict.station}"
    assert payload is None
    expected = {field.name for field in dataclasses.fields(Verdict)} - {"heatmap"}
    assert set(header) == expected
    for name in expected:
        sent = getattr(verdict, name)
        assert header[name] == (list(sent) if isinstance(sent, tuple) else sent)


@given(verdicts())
def test_the_schema_comes_first(verdict: Verdict) -> None:
    assert next(iter(header_of(verdict))) == "schema"
    assert next(iter(msgpack.unpackb(encode_verdict(verdict)[1]))) == "schema"


def test_a_status_arrives_with_every_field() -> None:
    status = StationStatus(
        station="line",
        at_ns=5,
        state=StationState.RECONNECTING,
        message="camera 0 is not there",
        frames_seen=9,
        judged=7,
        dropped=2,
        invalid=1,
        last_frame_age_s=0.5,
        bank_id="b",
        model_id="m",
    )
    topic, header, _ = decode_message(encode_status(status))
    assert topic == "status/line"
    assert header == {**dataclasses.asdict(status), "state": "reconnecting"}


@given(verdicts())
def test_a_heatmap_names_its_verdict_and_carries_its_picture(verdict: Verdict) -> None:
    topic, header, payload = decode_message(encode_heatmap(verdict, b"picture", "jpeg", (48, 64)))
    assert topic == f"heatmap/{verdict.station}"
    assert (header["frame_id"], header["part_id"], header["decision"]) == (
        verdict.frame_id,
        verdict.part_id,
        verdict.decision,
    )
    assert (header["encoding"], header["height"], header["width"], payload) == ("jpeg", 48, 64, b"picture")


@given(frame_messages())
def test_a_frame_arrives_as_it_was_sent(message: FrameMessage) -> None:
    assert decode_frame(encode_frame(message)) == message


GOOD = FrameMessage(
    station="line",
    frame_id=7,
    part_id="SN-1",
    captured_at_ns=123,
    encoding="mono8",
    height=2,
    width=3,
    payload=b"abcdef",
)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frame_id": -1}, "frame_id is -1"),
        ({"frame_id": "7"}, "frame_id is '7'"),
        ({"frame_id": True}, "frame_id is True"),
        ({"captured_at_ns": None}, "captured_at_ns is None"),
        ({"part_id": 5}, "part_id is 5"),
        ({"part_id": "x" * 513}, "part_id"),
        ({"encoding": "gif"}, "'gif', one of jpeg, png"),
        ({"encoding": None}, "encoding is None"),
        ({"encoding": []}, r"encoding is \[\]"),
        ({"height": 0}, "height is 0"),
        ({"height": 3}, "mono8 of 3×3 has 9"),
        ({"width": 2**17}, "width"),
        ({"width": 2.0}, "width is 2.0"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], told: str) -> None:
    station, header, payload = encode_frame(GOOD)
    wrong = msgpack.packb(msgpack.unpackb(header) | change)
    with pytest.raises(FrameError, match=told):
        decode_frame([station, wrong, payload])


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ([], "0 parts"),
        ([b"line"], "1 parts"),
        ([b"line", b"", b"", b""], "4 parts"),
        ([b"", b"\x80", b""], "0 characters"),
        ([b"\xff", b"\x80", b""], "not UTF-8"),
        ([b"x" * 65, b"\x80", b""], "65 characters"),
        ([b"line", b"", b""], "not msgpack"),
        ([b"line", b"\xc1", b""], "not msgpack"),
        ([b"line", b"\x93\x01\x02\x03", b""], "list, a map was expected"),
        ([b"line", b"\x81\x01\x02", b""], "not msgpack"),
        ([b"line", b"\x00" * 70_000, b""], "70000 bytes"),
        ([b"line", b"\xdf\xff\xff\xff\xff", b""], "not msgpack"),
        ([b"line", b"\x80", b""], "frame_id is None"),
    ],
)
def test_what_is_no_frame_message_is_refused(message: list[bytes], told: str) -> None:
    with pytest.raises(FrameError, match=told):
        decode_frame(message)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_arbitrary_bytes_are_refused_and_nothing_worse(message: list[bytes]) -> None:
    for decode in (decode_frame, decode_message):
        try:
            decode(message)
        except FrameError as error:
            assert str(error)  # noqa: PT017  (either outcome is right; only another exception is wrong)
    claimed_identity(message)


def test_a_refused_message_still_says_which_part_it_meant() -> None:
    station, header, payload = encode_frame(GOOD)
    wrong = msgpack.packb(msgpack.unpackb(header) | {"encoding": "gif", "captured_at_ns": "now"})
    claimed = claimed_identity([station, wrong, payload])
    assert (claimed.frame_id, claimed.part_id, claimed.captured_at_ns) == (7, "SN-1", None)


def test_another_schema_is_refused_with_the_remedy() -> None:
    with pytest.raises(FrameError, match=r"schema is 99.*same version on both sides"):
        decode_message([b"verdict/line", msgpack.packb({"schema": 99})])


@pytest.mark.parametrize(
    "header",
    [
        {"decision": "normal", "station": "a", "captured_at_ns": 1, "threshold": 0.5, "latency_ms": 1.0},
        {"decision": "normal", "station": "a", "frame_id": 1, "captured_at_ns": 1, "threshold": 0.5, "latency_ms": "1"},
        {"state": "running", "station": "a"},
        {"state": "running", "station": "a", "at_ns": 1, "last_frame_age_s": "old"},
        {"state": "running", "station": "a", "at_ns": 1, "message": b"bytes"},
        {"state": "running", "station": "a", "at_ns": 1, "unheard_of": b"bytes"},
    ],
)
def test_a_header_that_cannot_be_shown_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(FrameError, match="a message"):
        check_header(header)
