"""Triggers over real sockets: a sender triggers a daemon's folder, film and pushed frames, with keys and without."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from edge_uad.errors import EdgeUadError, EndpointError
from edge_uad.net.keys import load_client_keys, load_server_keys, write_key_pair
from edge_uad.net.wire import TriggerMessage
from edge_uad.records import Trigger
from edge_uad.sources.sender import FrameSender, frame_message
from edge_uad.sources.triggers.receiver import NOT_ACCEPTED, TriggerReceiver
from edge_uad.sources.zmq import ZmqSource
from tests.fakes import until
from tests.lines import Line
from tests.processes import PATIENCE_S, Running
from tests.sources import PushedSource

ANY_PORT = "tcp://127.0.0.1:*"
LONG_MS = 60_000


@pytest.fixture
def config(tiny_model: Path, tiny_bank: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the config file of one station named line, from its keys and the endpoint for triggers."""

    def write(*, triggers: str | None = ANY_PORT, **station: object) -> Path:
        content = {
            "stations": [{"name": "line", "bank": str(tiny_bank), "deadline_ms": LONG_MS, **station}],
            "model": str(tiny_model),
            "threads": 1,
            "publish": {"endpoint": ANY_PORT},
            "triggers": {"endpoint": triggers},
        }
        path = tmp_path / "line.yaml"
        path.write_text(json.dumps(content))  # JSON is YAML
        return path

    return write


@contextmanager
def watched(daemon: Running, count: int) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Hear the verdicts of a daemon; the function waits for ``count`` of them."""
    endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
    with Running.edge_uad("watch", endpoint, "--json", "--count", count, "--timeout", 60) as watch:
        watch.wait_for('"state": "running"')

        def verdicts() -> list[dict[str, Any]]:
            watch.ends(code=0)
            return [one for one in map(json.loads, watch.out) if "decision" in one]

        yield verdicts


def sent(number: int) -> TriggerMessage:
    return TriggerMessage(station="line", trigger_id=number, part_id=f"SN-{number}")


def test_a_folder_hands_out_a_picture_for_each_trigger_and_the_rest_is_told(
    good_parts: Path, config: Callable[..., Path]
) -> None:
    """24 pictures, 25 triggers: the last one finds none."""
    path = config(source=str(good_parts), trigger="software", queue_frames=32)
    with Running.edge_uad("serve", "--config", path) as daemon, watched(daemon, 25) as verdicts:
        with FrameSender(daemon.wait_for(r"triggers on (\S+)")[1]) as sender:
            for number in range(1, 26):
                sender.send_trigger(sent(number), timeout_s=PATIENCE_S)
            sender.flush(PATIENCE_S)
        found = verdicts()
        daemon.ends(code=0)  # its source has ended
    assert [(one["trigger_id"], one["part_id"]) for one in found] == [(n, f"SN-{n}") for n in range(1, 26)]
    assert [one["decision"] for one in found] == ["normal"] * 24 + ["invalid"]
    assert [one["frame_id"] for one in found] == [*range(24), -1]
    assert found[24]["reason"] == "no image"
    assert "Traceback" not in daemon.everything


@pytest.mark.parametrize("mode", ["software", "hardware"])
def test_a_sender_triggers_and_pushes_on_one_socket(
    mode: str, good_parts: Path, scratched_parts: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    """In order: each trigger before its frame. SIGTERM answers the trigger that waits."""
    frames_in = f"ipc://{tmp_path}/in"
    path = config(triggers=None, source=frames_in, trigger=mode)
    pictures = [good_parts / "0.png", scratched_parts / "0.png", good_parts / "1.png"]
    with Running.edge_uad("serve", "--config", path) as daemon, watched(daemon, 4) as verdicts:
        with FrameSender(frames_in) as sender:
            for number, picture in enumerate(pictures, start=1):
                sender.send_trigger(sent(number), timeout_s=PATIENCE_S)
                message = frame_message(
                    picture, station="line", frame_id=100 + number, part_id="of the frame", encoding="as-is"
                )
                sender.send(message, timeout_s=PATIENCE_S)
            sender.send_trigger(sent(4), timeout_s=PATIENCE_S)
            sender.flush(PATIENCE_S)
        daemon.signal(signal.SIGTERM)
        found = verdicts()
        daemon.ends(code=0)
    assert [(one["trigger_id"], one["part_id"]) for one in found] == [(n, f"SN-{n}") for n in range(1, 5)]
    assert [one["frame_id"] for one in found] == [101, 102, 103, -1]
    assert [one["decision"] for one in found] == ["normal", "anomalous", "normal", "invalid"]
    assert found[3]["reason"] == "stopping"


def test_what_is_no_trigger_on_a_stations_own_socket_is_told_and_disturbs_none() -> None:
    source = ZmqSource("line", ANY_PORT)
    line = Line(source, trigger_mode="hardware", queue_frames=1, deadline_ms=LONG_MS)
    with line.running():
        until(lambda: source.bound_endpoint is not None)
        assert source.bound_endpoint is not None
        with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
            sender.connect(source.bound_endpoint)
            for header in ({"trigger_id": 1}, {"trigger_id": 0, "part_id": "SN-0"}, {"trigger_id": 2}):
                sender.send_multipart([b"line", msgpack.packb(header)])
            sender.send_multipart([b"other", msgpack.packb({"trigger_id": 3})])
            sender.send_multipart([b"line", msgpack.packb({"resynchronise": True})])
            line.sink.wait_for(lambda: len(line.sink.verdicts) == 4)
    told = {(one.trigger_id, one.part_id): one.reason or "" for one in line.sink.verdicts}
    assert "greater than or equal to 1" in told.pop((None, "SN-0"))
    assert "for station 'other'" in told.pop((None, None))
    assert told == {(2, None): NOT_ACCEPTED, (1, None): "aborted"}


def test_a_station_that_is_not_triggered_says_of_a_trigger_what_it_always_said() -> None:
    source = ZmqSource("line", ANY_PORT)
    line = Line(source)
    with line.running():
        until(lambda: source.bound_endpoint is not None)
        assert source.bound_endpoint is not None
        with FrameSender(source.bound_endpoint) as sender:
            sender.send_trigger(sent(1), timeout_s=PATIENCE_S)
            line.sink.wait_for(lambda: len(line.sink.verdicts) == 1)
    [verdict] = line.sink.verdicts
    assert "2 parts" in (verdict.reason or "")
    assert verdict.trigger_id is None


class Target:
    """Accepts what it is told to."""

    def __init__(self, *, accepts: bool = True) -> None:
        self._accepts = accepts
        self.triggers: list[Trigger] = []
        self.refused: list[tuple[int, str]] = []
        self.resynchronised = threading.Event()

    def trigger(self, trigger: Trigger) -> bool:
        self.triggers.append(trigger)
        return self._accepts

    def resynchronise(self) -> None:
        self.resynchronised.set()

    def refuse_trigger(self, trigger: Trigger, reason: str) -> bool:
        self.refused.append((trigger.trigger_id, reason))
        return True


@contextmanager
def receiving(receiver: TriggerReceiver) -> Iterator[TriggerReceiver]:
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.request_stop()
        assert receiver.join(PATIENCE_S)


def test_each_trigger_reaches_its_station_and_nonsense_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    willing, full = Target(), Target(accepts=False)
    with receiving(TriggerReceiver(ANY_PORT, {"a": willing, "b": full})) as receiver:
        with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
            sender.connect(receiver.endpoint)
            for parts in (
                [b"a"],
                [b"a", b"\xc1"],
                [b"a", b"", b"", b"", b""],
                [b"c", msgpack.packb({"trigger_id": 1})],
            ):
                sender.send_multipart(parts)
            until(lambda: receiver.n_refused == 4)
        with FrameSender(receiver.endpoint) as friend:
            before_ns = time.monotonic_ns()
            for station in ("a", "b"):
                friend.send_trigger(TriggerMessage(station=station, trigger_id=7, part_id="SN-7"), timeout_s=PATIENCE_S)
            friend.send_trigger(TriggerMessage(station="a", trigger_id=None), timeout_s=PATIENCE_S)
            assert willing.resynchronised.wait(PATIENCE_S)
    [trigger] = willing.triggers
    assert (trigger.trigger_id, trigger.part_id) == (7, "SN-7")
    assert before_ns <= trigger.received_mono_ns <= time.monotonic_ns()
    assert full.refused == [(7, NOT_ACCEPTED)]
    assert receiver.n_refused == 4
    assert len(caplog.records) == 1  # the others within ten seconds are counted alone


def test_the_socket_for_triggers_lets_known_keys_in_alone(tmp_path: Path) -> None:
    server_public, server_secret = write_key_pair(tmp_path, "line")
    _, known = write_key_pair(tmp_path / "clients", "plc")
    _, unknown = write_key_pair(tmp_path / "elsewhere", "stranger")
    target = Target()
    keys = load_server_keys(server_secret, tmp_path / "clients")
    with receiving(TriggerReceiver(ANY_PORT, {"line": target}, keys=keys)) as receiver:
        for own in (load_client_keys(server_public, unknown), None):
            with (
                FrameSender(receiver.endpoint, keys=own) as stranger,
                pytest.raises(EdgeUadError, match="trigger 1 was not taken"),
            ):
                stranger.send_trigger(sent(1), timeout_s=0.4)
        with FrameSender(receiver.endpoint, keys=load_client_keys(server_public, known)) as friend:
            friend.send_trigger(sent(2), timeout_s=PATIENCE_S)
            until(lambda: bool(target.triggers))
    assert [one.trigger_id for one in target.triggers] == [2]


def test_beyond_loopback_the_socket_for_triggers_needs_keys_and_a_taken_one_is_an_error() -> None:
    with pytest.raises(EndpointError, match="insecure"):
        TriggerReceiver("tcp://0.0.0.0:5565", {})
    with (
        receiving(TriggerReceiver(ANY_PORT, {})) as receiver,
        pytest.raises(EndpointError, match=r"change triggers\.endpoint"),
    ):
        TriggerReceiver(receiver.endpoint, {})


def test_a_flood_of_triggers_is_answered_as_far_as_there_is_room() -> None:
    """Ten thousand triggers for a camera that is silent: memory and the line's answers stay bounded."""
    line = Line(PushedSource(), trigger_mode="software", queue_frames=4, deadline_ms=LONG_MS)
    with line.running():
        until(lambda: line.stations[0].trigger_ready)
        with receiving(TriggerReceiver(ANY_PORT, {"line": line.stations[0]})) as receiver:
            with FrameSender(receiver.endpoint) as sender:
                for number in range(1, 10_001):
                    sender.send_trigger(sent(number), timeout_s=PATIENCE_S)
                sender.flush(PATIENCE_S)
            until(lambda: len(line.sink.verdicts) + receiver.n_refused == 10_000 - 4)
    stopped = [one for one in line.sink.verdicts if one.reason == "stopping"]
    assert [one.trigger_id for one in stopped] == [1, 2, 3, 4]
    assert {one.reason for one in line.sink.verdicts} == {"stopping", NOT_ACCEPTED}
