"""What travels between processes survives the way, and what is no message of ours is refused with a reason."""

import dataclasses
import os
import re

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.errors import FrameError
from edge_uad.net.wire import (
    ENCODINGS,
    MAX_PART_ID_CHARS,
    RAW_CHANNELS,
    ClaimedIdentity,
    FrameMessage,
    TriggerMessage,
    check_header,
    claimed_identity,
    decode_frame,
    decode_message,
    decode_trigger,
    encode_frame,
    encode_heatmap,
    encode_status,
    encode_trigger,
    encode_verdict,
    header_of,
    status_of,
    valid_text,
    verdict_of,
)
from edge_uad.records import MAX_TRIGGER_ID, Decision, StationState, StationStatus, Verdict

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
        trigger_id=draw(st.none() | st.integers(1, MAX_TRIGGER_ID)),
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
    if verdict.trigger_id is None:
        expected -= {"trigger_id"}
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
        ({"part_id": "x" * 1025}, "part_id"),
        ({"encoding": "gif"}, "encoding is 'gif': input should be 'jpeg', 'png'"),
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
        ([b"line", b"\x80", b""], "the header has no frame_id"),
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


STATUS = StationStatus(
    station="a",
    at_ns=1,
    state=StationState.RUNNING,
    message=None,
    frames_seen=9,
    judged=7,
    dropped=2,
    invalid=1,
    last_frame_age_s=0.5,
    bank_id="b",
    model_id="m",
)
NESTED = b"\x91" * 1000 + b"\x90"
"""A list in a list in a list …: deeper than Python shows or recurses."""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"at_ns": None}, "the header's at_ns is None"),
        ({"last_frame_age_s": "old"}, "the header's last_frame_age_s is 'old'"),
        ({"last_frame_age_s": float("nan")}, "the header's last_frame_age_s is nan"),
        ({"message": b"bytes"}, "the header's message is b'bytes'"),
        ({"state": "asleep"}, "the header's state is 'asleep'"),
        ({"judged": True}, "the header's judged is True"),
        ({"unheard_of": b"bytes"}, "the header's unheard_of"),
        ({"unheard_of": [{"x": b"bytes"}]}, "the header's unheard_of"),
        ({b"bytes": 1}, "the header's"),
        ({"a\nb": b"bytes"}, r"the header's 'a\\nb'"),
    ],
)
def test_a_header_that_cannot_be_shown_is_refused_in_one_line(change: dict[str, object], told: str) -> None:
    with pytest.raises(FrameError, match=told) as error:
        check_header(header_of(STATUS) | change)  # type: ignore[arg-type]  # a key that is no text, among others
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["at_ns", "station", "judged"])
def test_a_header_without_a_field_is_refused(missing: str) -> None:
    header = {key: value for key, value in header_of(STATUS).items() if key != missing}
    with pytest.raises(FrameError, match=f"the header has no {missing}"):
        check_header(header)


def test_a_header_that_is_neither_a_verdict_nor_a_status_is_refused() -> None:
    with pytest.raises(FrameError, match="no decision and no state"):
        check_header({"schema": 1, "station": "a"})


def test_fields_of_a_later_version_are_let_through_and_those_it_added_to_the_record_may_be_missing() -> None:
    header = header_of(STATUS) | {"new": [{"x": 1}]}
    for name in ("reconnects", "ready", "refused_bank"):
        del header[name]
    check_header(header)
    assert status_of(header) == STATUS


@given(verdicts())
def test_a_verdict_is_read_back_whole(verdict: Verdict) -> None:
    assert verdict_of(decode_message(encode_verdict(verdict))[1]) == dataclasses.replace(verdict, heatmap=None)


@pytest.mark.parametrize("name", ["frame_id", "encoding", "state", "unheard_of"])
def test_a_header_nested_without_end_is_refused_and_nothing_worse(name: str) -> None:
    """Shown in an error it would exhaust Python's stack."""
    header = b"\x82\xa6schema\x01" + msgpack.packb(name) + NESTED
    with pytest.raises(FrameError, match="nested more than 8 deep"):
        decode_message([b"status/line", header])
    with pytest.raises(FrameError, match="nested more than 8 deep"):
        decode_frame([b"line", header, b""])
    assert claimed_identity([b"line", header, b""]) == ClaimedIdentity()


@given(st.binary(max_size=40).filter(lambda name: b"\\" not in name))
def test_every_file_name_becomes_valid_text_and_can_be_read_back(name: bytes) -> None:
    text = valid_text(os.fsdecode(name))
    assert re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode()) == name


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_text_becomes_valid_and_valid_text_stays(text: str) -> None:
    valid_text(text).encode()
    assert valid_text(valid_text(text)) == valid_text(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert valid_text(text) == text


@pytest.mark.parametrize(("text", "sent"), [("bad\udcff.png", "bad\\xff.png"), ("bad\ud800.png", "bad\\ud800.png")])
def test_names_that_are_not_utf8_leave_as_valid_text(text: str, sent: str) -> None:
    status = dataclasses.replace(STATUS, station=text, message=text)
    topic, header, _ = decode_message(encode_status(status))
    assert (topic, header["message"]) == (f"status/{sent}", sent)
    assert decode_frame(encode_frame(dataclasses.replace(GOOD, part_id=text))).part_id == sent


@given(st.integers(1, MAX_TRIGGER_ID), st.none() | st.text(max_size=50))
def test_a_trigger_arrives_as_it_was_sent(trigger_id: int, part_id: str | None) -> None:
    sent = TriggerMessage(station="line", trigger_id=trigger_id, part_id=part_id)
    arrived = decode_trigger(encode_trigger(sent))
    assert arrived == dataclasses.replace(sent, part_id=None if part_id is None else valid_text(part_id))
    count_anew = TriggerMessage(station="line", trigger_id=None)
    assert decode_trigger(encode_trigger(count_anew)) == count_anew


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({}, "no trigger_id"),
        ({"trigger_id": 0}, "greater than or equal to 1"),
        ({"trigger_id": 2**32}, "less than or equal to 4294967295"),
        ({"trigger_id": True}, "valid integer"),
        ({"trigger_id": "7"}, "valid integer"),
        ({"trigger_id": 7, "part_id": 7}, "valid string"),
        ({"trigger_id": 7, "part_id": "x" * (MAX_PART_ID_CHARS + 1)}, "at most 1024 characters"),
        ({"resynchronise": 1}, "is not true"),
        ({"resynchronise": False}, "is not true"),
        ({"resynchronise": True, "trigger_id": 7}, "both"),
    ],
)
def test_what_is_no_trigger_is_refused(header: dict[str, object], told: str) -> None:
    with pytest.raises(FrameError, match=told):
        decode_trigger([b"line", msgpack.packb(header)])


def test_a_trigger_has_two_parts_and_a_station() -> None:
    good = encode_trigger(TriggerMessage(station="line", trigger_id=1))
    for parts in (good[:1], [*good, b""], [b"", good[1]], [b"\xff", good[1]], [b"line", b"\xc1"]):
        with pytest.raises(FrameError):
            decode_trigger(parts)
