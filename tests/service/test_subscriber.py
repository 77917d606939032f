"""A subscriber notices silence and loss, over real sockets and with a real daemon."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import zmq

from edge_uad import Decision, GapError, SilenceError, Subscriber, Verdict, load_client_keys, part_ok
from edge_uad.net.endpoints import bind
from edge_uad.net.keys import load_server_keys, write_key_pair
from edge_uad.net.wire import encode_status, encode_verdict
from edge_uad.outputs.zmq import ZmqPublisher
from edge_uad.records import StationState, StationStatus, UnreadableFrame
from tests.conftest import edge_uad
from tests.fakes import GREEN, RED, frame, green_inspector, until
from tests.processes import Running

ANY_PORT = "tcp://127.0.0.1:*"
INSPECTOR = green_inspector()
PATIENCE_S = 20.0


def verdict(sequence: int | None, station: str = "line") -> Verdict:
    return replace(INSPECTOR.inspect(frame(7, GREEN, station=station)), sequence=sequence)


def status(judged: int, station: str = "line", state: StationState = StationState.RUNNING) -> StationStatus:
    return StationStatus(
        station=station,
        at_ns=time.time_ns(),
        state=state,
        message=None,
        frames_seen=judged,
        judged=judged,
        dropped=0,
        invalid=0,
        last_frame_age_s=None,
        bank_id="b",
        model_id="m",
    )


class Daemon:
    """A socket that says what a daemon would say."""

    def __init__(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        self._socket = socket
        self.endpoint = endpoint

    def say(self, *records: Verdict | StationStatus | list[bytes]) -> None:
        for record in records:
            if isinstance(record, Verdict):
                record = encode_verdict(record)  # noqa: PLW2901  (as it is sent)
            elif isinstance(record, StationStatus):
                record = encode_status(record)  # noqa: PLW2901
            self._socket.send_multipart(record)

    def wait_for_subscriptions(self, topics: int) -> None:
        for _ in range(topics):
            assert self._socket.poll(20_000)
            assert self._socket.recv()[:1] == b"\x01"


@contextmanager
def talking(
    stations: list[str] | None = None, *, silent_after_s: float = PATIENCE_S
) -> Iterator[tuple[Daemon, Subscriber]]:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        daemon = Daemon(socket, bind(socket, ANY_PORT, remedy="-"))
        with Subscriber(daemon.endpoint, stations=stations, silent_after_s=silent_after_s) as subscriber:
            daemon.wait_for_subscriptions(2 * len(stations or [""]))
            yield daemon, subscriber


def sequences(subscriber: Subscriber, count: int) -> list[int | str | None]:
    """Numbers of the next verdicts, and what was raised between them."""
    heard: list[int | str | None] = []
    while len(heard) < count:
        try:
            received = subscriber.receive(PATIENCE_S)
            assert received is not None
            heard.append(received.sequence)
        except GapError as gap:
            heard.append(f"{gap.missed} missed")
    return heard


def test_only_a_normal_verdict_lets_a_part_pass() -> None:
    unreadable = UnreadableFrame(station="line", frame_id=1, captured_at_ns=1, captured_mono_ns=1, reason="damaged")
    decisions = {one.decision: part_ok(one) for one in map(INSPECTOR.inspect, (frame(), frame(1, RED), unreadable))}
    assert decisions == {Decision.NORMAL: True, Decision.ANOMALOUS: False, Decision.INVALID: False}
    assert not part_ok(None)


def test_verdicts_come_as_records() -> None:
    sent = verdict(1)
    with talking() as (daemon, subscriber):
        daemon.say(status(0), sent)
        assert next(subscriber) == replace(sent, heatmap=None)
        assert subscriber.statuses["line"].judged == 0


def test_no_verdict_in_time_is_none() -> None:
    with talking() as (daemon, subscriber):
        daemon.say(status(0))
        assert subscriber.receive(0.05) is None


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ([verdict(5), verdict(6), verdict(9)], [5, 6, "2 missed", 9]),
        ([status(4), verdict(5)], [5]),
        ([status(4), verdict(4), verdict(5)], [4, 5]),  # counted by the heartbeat before it was sent
        ([status(4), verdict(7)], ["2 missed", 7]),
        ([status(0), verdict(1), status(3), status(3), verdict(4)], [1, "2 missed", 4]),  # none follows the lost ones
        ([status(0), status(1), verdict(1), status(1), verdict(2)], [1, 2]),
        ([verdict(8), status(8), status(0), verdict(1)], [8, 1]),  # a daemon restarted
        ([verdict(8), status(8), status(0), verdict(3)], [8, "2 missed", 3]),
        ([verdict(8), verdict(2)], [8, "1 missed", 2]),  # restarted, and no heartbeat since
        ([status(0), verdict(None), verdict(None), status(2), status(2), verdict(None)], [None] * 3),
        ([status(0), verdict(None), status(2), status(2), verdict(None)], [None, "1 missed", None]),
    ],
)
def test_verdicts_that_do_not_arrive_are_noticed_before_the_next_one(
    said: list[Verdict | StationStatus], heard: list[int | str | None]
) -> None:
    with talking() as (daemon, subscriber):
        daemon.say(*said)
        assert sequences(subscriber, len(heard)) == heard
        missed = sum(int(one.split()[0]) for one in heard if isinstance(one, str))
        assert subscriber.missed["line"] == missed


def test_stations_are_counted_apart_and_others_are_left_out() -> None:
    with talking(["line", "lid"]) as (daemon, subscriber):
        daemon.say(
            verdict(1), verdict(5, "lid"), verdict(1, "line2"), status(9, "line2"), verdict(2), verdict(6, "lid")
        )
        assert [(one.station, one.sequence) for one in (next(subscriber) for _ in range(4))] == [
            ("line", 1),
            ("lid", 5),
            ("line", 2),
            ("lid", 6),
        ]
        assert list(subscriber.statuses) == []


@pytest.mark.parametrize(
    "message",
    [
        [b"verdict/line"],
        [b"verdict/line", b"nonsense"],
        [b"verdict/line", msgpack.packb({"schema": 99})],
        [b"verdict/line", msgpack.packb({"schema": 1, "decision": "normal"})],
        [b"status/line", b"\x82\xa6schema\x01\xa5state" + b"\x91" * 1000 + b"\x90"],
    ],
)
def test_a_message_that_is_not_valid_is_counted_and_its_verdict_is_missed(message: list[bytes]) -> None:
    with talking() as (daemon, subscriber):
        daemon.say(verdict(1), message, verdict(3))
        assert sequences(subscriber, 3) == [1, "1 missed", 3]
        assert subscriber.refused == 1


def test_received_and_missed_are_all_that_was_published() -> None:
    """ZeroMQ's own queues are full, and it drops without a word."""
    n = 20_000
    one = frame(3)
    sink = ZmqPublisher(ANY_PORT, heatmap="never", queue_messages=10)
    judged = INSPECTOR.inspect(one)
    received = 0
    with Subscriber(sink.endpoint, silent_after_s=PATIENCE_S, queue_messages=10) as subscriber:
        while not subscriber.statuses:
            sink.publish_status(status(0))
            subscriber.receive(0.01)
        for number in range(1, n + 1):
            sink.publish(replace(judged, sequence=number), one)
        gaps = []
        while received + subscriber.missed["line"] < n:
            sink.publish_status(status(n))
            try:
                received += subscriber.receive(0.01) is not None
            except GapError as gap:
                gaps.append(gap.missed)
        assert received + subscriber.missed["line"] == n
    sink.close()
    assert sum(gaps) == subscriber.missed["line"] > 0


def test_a_daemon_that_was_never_there_is_silent_again_and_again() -> None:
    with Subscriber("tcp://127.0.0.1:9", silent_after_s=0.2) as subscriber:
        for _ in range(2):
            before_s = time.monotonic()
            with pytest.raises(SilenceError, match=r"no heartbeat from tcp://127.0.0.1:9 for 0.2 s; is edge-uad serve"):
                next(subscriber)
            assert time.monotonic() - before_s >= 0.2
        assert subscriber.receive(0.01) is None


def test_a_station_that_was_asked_for_and_never_speaks_is_named() -> None:
    with talking(["line", "lid"], silent_after_s=0.5) as (daemon, subscriber):
        daemon.say(status(0))
        with pytest.raises(
            SilenceError, match=r"\(lid was never heard\)|line was last running, lid was never heard"
        ) as error:
            next(subscriber)
        assert "lid" in error.value.stations


def test_verdicts_without_heartbeats_are_no_sign_of_health() -> None:
    with talking(silent_after_s=0.5) as (daemon, subscriber):
        daemon.say(status(0))
        with pytest.raises(SilenceError, match="line was last running"):  # noqa: PT012  (a verdict every 0.1 s)
            for number in range(1, 200):
                daemon.say(verdict(number))
                subscriber.receive(0.1)
                time.sleep(0.01)


def test_a_program_that_was_busy_for_long_hears_what_came_meanwhile_and_no_silence() -> None:
    with talking(silent_after_s=0.3) as (daemon, subscriber):
        daemon.say(status(0))
        assert subscriber.receive(0.01) is None
        daemon.say(verdict(1), status(1))
        time.sleep(0.5)
        assert next(subscriber).sequence == 1
        assert subscriber.receive(0.0) is None


def test_closed_it_ends() -> None:
    with talking() as (_, subscriber):
        subscriber.close()
        assert list(subscriber) == []
        with pytest.raises(ValueError, match="closed"):
            subscriber.receive(0)


def test_a_daemon_with_keys(tmp_path: Path) -> None:
    server_public, server_secret = write_key_pair(tmp_path, "line")
    _, client_secret = write_key_pair(tmp_path / "clients", "plc")
    sink = ZmqPublisher(ANY_PORT, heatmap="never", keys=load_server_keys(server_secret, tmp_path / "clients"))
    with Subscriber(sink.endpoint, keys=load_client_keys(server_public, client_secret)) as subscriber:
        one = frame(3)
        got: list[Verdict | None] = []

        def heard() -> bool:
            sink.publish(INSPECTOR.inspect(one), one)
            got.append(subscriber.receive(0.01))
            return got[-1] is not None

        until(heard)
    sink.close()


def test_a_daemon_that_is_killed(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    folder = tmp_path_factory.mktemp("line")
    options = ["--bank", tiny_bank, "--model", tiny_model, "--publish", f"ipc://{folder}/out", "--threads", 1]
    with Subscriber(f"ipc://{folder}/out", silent_after_s=3) as subscriber:
        for signalled, last in ((signal.SIGKILL, "running"), (signal.SIGTERM, "stopping")):
            with Running.edge_uad("serve", "--source", f"ipc://{folder}/in", *options) as daemon:
                daemon.wait_for(" ready")
                until(lambda: _running(subscriber))
                edge_uad("send", good_parts, "--to", f"ipc://{folder}/in")
                heard = [next(subscriber) for _ in range(24)]
                assert [one.sequence for one in heard] == list(range(1, 25))
                assert all(map(part_ok, heard))
                daemon.signal(signalled)
                with pytest.raises(SilenceError, match=rf"for 3 s \(line was last {last}\)"):
                    next(subscriber)
    assert not subscriber.missed


def _running(subscriber: Subscriber) -> bool:
    try:
        assert subscriber.receive(0.05) is None
    except SilenceError:
        return False
    return "line" in subscriber.statuses and subscriber.statuses["line"].ready
