"""What a subscriber hears, over real sockets."""

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from PIL import Image

from edge_uad.errors import EndpointError
from edge_uad.inference.overlay import LONGEST_SIDE_PX
from edge_uad.net.wire import decode_message
from edge_uad.outputs.heatmaps import WAITING_PER_STATION, Overlay
from edge_uad.outputs.zmq import DEFAULT_QUEUE_MESSAGES, HeatmapPolicy, ZmqPublisher
from edge_uad.records import Frame, StationState, StationStatus, UInt8, UnreadableFrame, Verdict
from edge_uad.sources.decode import decode_image
from edge_uad.stages import PUBLISHING_STAGES, StageTimer
from tests.fakes import RED, frame, green_inspector
from tests.processes import Running

REPO = Path(__file__).parents[2]
ANY_PORT = "tcp://127.0.0.1:*"
INSPECTOR = green_inspector()
DRAW: Overlay = partial(INSPECTOR.overlay, longest_side_px=LONGEST_SIDE_PX)


def status(frames_seen: int = 0) -> StationStatus:
    return StationStatus(
        station="line",
        at_ns=time.time_ns(),
        state=StationState.RUNNING,
        message=None,
        frames_seen=frames_seen,
        judged=0,
        dropped=0,
        invalid=0,
        last_frame_age_s=None,
        bank_id="b",
        model_id="m",
    )


@contextmanager
def publisher(
    heatmap: HeatmapPolicy = "anomalous",
    endpoint: str = ANY_PORT,
    queue_messages: int = DEFAULT_QUEUE_MESSAGES,
    draw: Overlay = DRAW,
    on_stage: StageTimer | None = None,
) -> Iterator[ZmqPublisher]:
    made = ZmqPublisher(
        endpoint, overlays={"line": lambda: draw}, heatmap=heatmap, queue_messages=queue_messages, on_stage=on_stage
    )
    try:
        yield made
    finally:
        made.close()


@contextmanager
def subscriber(to: ZmqPublisher, *topics: str) -> Iterator[zmq.Socket[bytes]]:
    """Subscribed for sure: status messages are sent until one arrives, and the rest of them is skipped."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 20_000)
        for topic in (*topics, "status/"):
            socket.subscribe(topic)
        socket.connect(to.endpoint)
        while not socket.poll(10):
            to.publish_status(status())
        to.publish_status(status(frames_seen=-1))
        while decode_message(socket.recv_multipart())[1].get("frames_seen") != -1:
            pass
        yield socket


def judged(one: Frame | UnreadableFrame) -> tuple[Verdict, Frame | UnreadableFrame]:
    return INSPECTOR.inspect(one), one


GOOD = frame(1)
BAD = frame(2, RED)
TORN = UnreadableFrame(station="line", frame_id=3, captured_at_ns=1, captured_mono_ns=1, reason="torn")


def heard(heatmap: HeatmapPolicy) -> list[tuple[str, dict[str, Any], bytes | None]]:
    with publisher(heatmap) as sink, subscriber(sink, "verdict/", "heatmap/") as socket:
        for one in (GOOD, BAD, TORN):
            sink.publish(*judged(one))
        sink.close()  # what was asked for is drawn and sent first
        messages = []
        while socket.poll(200):
            messages.append(decode_message(socket.recv_multipart()))
        return messages


@pytest.mark.parametrize(
    ("policy", "drawn"),
    [
        ("never", []),
        ("anomalous", [2]),
        ("always", [1, 2]),
    ],
)
def test_each_verdict_is_followed_by_its_heatmap_where_one_is_asked_for(
    policy: HeatmapPolicy, drawn: list[int]
) -> None:
    messages = heard(policy)
    told = [(topic, header["frame_id"]) for topic, header, _ in messages]
    assert [frame_id for topic, frame_id in told if topic == "heatmap/line"] == drawn
    assert all(told.index(("verdict/line", one)) < told.index(("heatmap/line", one)) for one in drawn)
    verdicts = [header for topic, header, _ in messages if topic == "verdict/line"]
    assert [(one["frame_id"], one["decision"]) for one in verdicts] == [(1, "normal"), (2, "anomalous"), (3, "invalid")]
    assert verdicts[2]["reason"] == "torn"


def test_a_heatmap_is_the_overlay_as_a_picture() -> None:
    [(header, payload)] = [
        (header, payload) for topic, header, payload in heard("anomalous") if topic == "heatmap/line"
    ]
    assert payload is not None
    image = decode_image(payload, formats=("JPEG",), stored_hw=(header["height"], header["width"]))
    expected = INSPECTOR.overlay(BAD, INSPECTOR.inspect(BAD))
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 8
    assert (header["frame_id"], header["decision"], header["encoding"]) == (2, "anomalous", "jpeg")


def test_a_large_heatmap_is_scaled_down_for_people() -> None:
    large = Frame(
        station="line",
        frame_id=1,
        captured_at_ns=1,
        captured_mono_ns=1,
        image=np.asarray(Image.new("RGB", (3000, 1500), RED)),
    )
    with publisher("always") as sink, subscriber(sink, "heatmap/") as socket:
        sink.publish(*judged(large))
        _, header, payload = decode_message(socket.recv_multipart())
    assert (header["height"], header["width"]) == (512, 1024)
    assert payload is not None
    assert decode_image(payload).shape == (512, 1024, 3)


def test_the_line_never_waits_for_a_picture() -> None:
    """The first drawing does not come back for now: verdicts go on, what is too much is counted, the rest is drawn."""
    begun, go_on = threading.Event(), threading.Event()

    def draw(one: Frame, verdict: Verdict) -> UInt8:
        begun.set()
        assert go_on.wait(20)
        return DRAW(one, verdict)

    verdict = INSPECTOR.inspect(GOOD)
    with publisher("always", draw=draw) as sink, subscriber(sink, "verdict/", "heatmap/") as socket:
        sink.publish(replace(verdict, frame_id=0), GOOD)
        assert begun.wait(20)
        for number in range(1, 20):
            sink.publish(replace(verdict, frame_id=number), GOOD)
        for number in range(20):
            topic, header, _ = decode_message(socket.recv_multipart())
            assert (topic, header["frame_id"]) == ("verdict/line", number)
        sink.publish_status(status())
        assert decode_message(socket.recv_multipart())[1]["heatmaps_skipped"] == 19 - WAITING_PER_STATION
        assert sink.skipped == {"line": 19 - WAITING_PER_STATION}
        go_on.set()
        for number in range(1 + WAITING_PER_STATION):
            topic, header, _ = decode_message(socket.recv_multipart())
            assert (topic, header["frame_id"]) == ("heatmap/line", number)


def test_a_drawing_that_fails_is_counted_and_the_next_one_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    def draw(one: Frame, verdict: Verdict) -> UInt8:
        if verdict.frame_id == 1:
            raise ValueError("no such colour")
        return DRAW(one, verdict)

    with publisher("always", draw=draw) as sink, subscriber(sink, "heatmap/") as socket:
        sink.publish(*judged(GOOD))
        sink.publish(*judged(BAD))
        assert decode_message(socket.recv_multipart())[1]["frame_id"] == 2
    assert sink.skipped == {"line": 1}
    assert "line: frame 1 could not be drawn" in caplog.text


def test_a_drawing_that_never_ends_does_not_hold_up_the_close() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def draw(one: Frame, verdict: Verdict) -> UInt8:
        begun.set()
        go_on.wait()
        return DRAW(one, verdict)

    with publisher("always", draw=draw) as sink, subscriber(sink, "heatmap/") as socket:
        for one in (GOOD, BAD):
            sink.publish(*judged(one))
        assert begun.wait(20)
        sink.close()
        assert sink.skipped == {"line": 1}  # the one behind it
        go_on.set()  # it comes back after all, and sends nothing on a socket that is closed
        assert not socket.poll(200)


def test_publishing_drawing_and_encoding_are_timed() -> None:
    told: list[str] = []
    with publisher(on_stage=lambda stage, _: told.append(stage)) as sink:
        sink.publish(*judged(GOOD))
        assert told == ["publish"]
        sink.publish(*judged(BAD))
        sink.close()
    assert sorted(told) == sorted(("publish", *PUBLISHING_STAGES))


def test_without_a_subscriber_nothing_waits_and_nothing_is_counted() -> None:
    verdict = INSPECTOR.inspect(GOOD)
    with publisher("never") as sink:
        for _ in range(5000):
            sink.publish(verdict, GOOD)
        assert not sink.overruns


def test_a_stalled_subscriber_slows_nobody_and_is_told_of() -> None:
    """The other one gets every message, in order; the stalled one gets what its queues held, and then nothing."""
    verdict = INSPECTOR.inspect(GOOD)
    with publisher("never", queue_messages=16) as sink, subscriber(sink, "verdict/") as stalled:
        with subscriber(sink, "verdict/") as other:
            sent = 0
            while not sink.overruns["verdict/line"] or sent % 5000:
                sink.publish(replace(verdict, frame_id=sent), GOOD)
                assert decode_message(other.recv_multipart())[1]["frame_id"] == sent
                sent += 1
            sink.publish_status(status())
            told = decode_message(other.recv_multipart())[1]
        assert told["verdict_overruns"] == sink.overruns["verdict/line"] >= 1
        assert told["heatmap_overruns"] == 0
        got = []
        while stalled.poll(200):
            got += [
                header["frame_id"]
                for _, header, _ in [decode_message(stalled.recv_multipart())]
                if "decision" in header
            ]
        assert got == list(range(len(got)))
        assert 16 <= len(got) < sent
        # it has caught up, and takes part again
        sink.publish(replace(verdict, frame_id=sent), GOOD)
        assert decode_message(stalled.recv_multipart())[1]["frame_id"] == sent


def test_an_endpoint_in_use_or_open_to_the_network_is_refused() -> None:
    with (
        publisher() as first,
        pytest.raises(EndpointError, match=re.escape(f"{first.endpoint} is in use by another program; stop it, or")),
    ):
        ZmqPublisher(first.endpoint)
    with pytest.raises(EndpointError, match="insecure: true"):
        ZmqPublisher("tcp://0.0.0.0:5570")


def test_what_is_queued_at_the_close_still_arrives() -> None:
    verdict = INSPECTOR.inspect(GOOD)
    with publisher("never") as sink, subscriber(sink, "verdict/") as socket:
        for _ in range(100):
            sink.publish(verdict, GOOD)
        sink.close()
        for _ in range(100):
            assert decode_message(socket.recv_multipart())[1]["decision"] == "normal"


def test_the_subscriber_of_the_readme_passes_good_parts_and_rejects_all_others() -> None:
    """Silence, too: at first there is no daemon."""
    with publisher("always") as sink, Running(REPO / "examples" / "subscriber.py", "ipc:///nowhere") as lonely:
        with Running(REPO / "examples" / "subscriber.py", sink.endpoint) as program:
            first, *others = [judged(frame(0)), judged(GOOD), judged(BAD), judged(TORN)]
            while not program.out:  # until it has subscribed
                sink.publish(*first)
                time.sleep(0.01)
            for verdict, one in others:
                sink.publish(verdict, one)
            program.wait_for("line 3")
            said = [line for line in program.out if not line.endswith("line 0 None normal")]
            assert said == [
                "pass line 1 None normal",
                "REJECT line 2 None anomalous",
                "REJECT line 3 None invalid",
            ]
        lonely.wait_for("REJECT: no daemon")


def test_the_subscriber_of_the_readme_has_twenty_lines_and_needs_two_packages() -> None:
    source = (REPO / "examples" / "subscriber.py").read_text()
    assert len(source.splitlines()) <= 20
    imported = set(re.findall(r"^import (\w+)", source, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"msgpack", "zmq"}
    assert "from " not in source.replace("from the", "")
