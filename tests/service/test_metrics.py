"""Metrics, health and readiness, asked for over HTTP."""

import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_uad.errors import EndpointError
from edge_uad.outputs.archive import Archive
from edge_uad.outputs.metrics import MAX_CONNECTIONS, Metrics, MetricsServer
from edge_uad.records import StationState, StationStatus
from edge_uad.stages import STAGES
from tests.conftest import edge_uad
from tests.fakes import GREEN, RED, frame, green_inspector, until
from tests.processes import Running
from tests.records import writer

INSPECTOR = green_inspector()
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def status(state: StationState = StationState.RUNNING, message: str | None = None) -> StationStatus:
    return StationStatus(
        station="line",
        at_ns=time.time_ns(),
        state=state,
        message=message,
        frames_seen=9,
        judged=6,
        dropped=3,
        invalid=1,
        last_frame_age_s=0.5,
        bank_id="bank1",
        model_id="model1",
        reconnects=2,
        sender_clock_offset_s=-5.5,
    )


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def answers(port: int) -> bool:
    """Not while all connections are taken."""
    try:
        return get(port, "/healthz")[0] == 503
    except (ConnectionError, urllib.error.URLError):
        return False


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@contextmanager
def serving(metrics: Metrics) -> Iterator[MetricsServer]:
    server = MetricsServer(metrics, "127.0.0.1:*")
    try:
        yield server
    finally:
        server.close()


def test_frames_drops_latency_queues_and_artefacts_are_told() -> None:
    metrics = Metrics()
    metrics.watch_queue("line", lambda: 4)
    metrics.watch_overruns(lambda: {"heatmap/line": 7})
    metrics.watch_skipped(lambda: {"line": 5})
    with serving(metrics) as server:
        for frame_id, colour in enumerate((GREEN, GREEN, RED)):
            one = frame(frame_id, colour)
            server.publish(INSPECTOR.inspect(one), one)
        server.publish_status(status())
        code, text = get(server.port, "/metrics")
    assert code == 200
    told = samples(text)
    assert told[key("edge_uad_frames_total", station="line", decision="normal")] == 2
    assert told[key("edge_uad_frames_total", station="line", decision="anomalous")] == 1
    assert told[key("edge_uad_latency_seconds_count", station="line")] == 3
    assert told[key("edge_uad_drops_total", station="line", cause="frame skipped")] == 3
    assert told[key("edge_uad_drops_total", station="line", cause="subscriber too slow for heatmap")] == 7
    assert told[key("edge_uad_drops_total", station="line", cause="heatmap not drawn")] == 5
    assert told[key("edge_uad_reconnects_total", station="line")] == 2
    assert told[key("edge_uad_queue_frames", station="line")] == 4
    assert 0.5 <= told[key("edge_uad_last_frame_age_seconds", station="line")] < 20
    assert told[key("edge_uad_sender_clock_offset_seconds", station="line")] == -5.5
    assert told[key("edge_uad_station_state", station="line", state="running")] == 1
    assert told[key("edge_uad_station_state", station="line", state="reconnecting")] == 0
    assert told[key("edge_uad_artefacts_info", station="line", bank_id="bank1", model_id="model1")] == 1


def test_every_metric_stands_in_the_documents_table(tmp_path: Path) -> None:
    archive = Archive(writer(tmp_path / "r.sqlite"), None)
    metrics = Metrics()
    metrics.watch_archive(archive)
    archive.close()
    suffixes = {"counter": "_total", "info": "_info"}
    names = {family.name + suffixes.get(family.type, "") for family in metrics.registry.collect()}
    table = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert names == set(re.findall(r"^\| (edge_uad_\w+) \|", table, re.MULTILINE))


def test_what_is_not_written_down_is_told(tmp_path: Path) -> None:
    records = writer(tmp_path / "r.sqlite")
    records.note_lost(5, "the disk was too slow")
    archive = Archive(records, None)
    metrics = Metrics()
    metrics.watch_archive(archive)
    with serving(metrics) as server:
        told = samples(get(server.port, "/metrics")[1])
    archive.close()
    assert told[key("edge_uad_archive_lost_total", what="audit line")] == 5
    assert told[key("edge_uad_archive_lost_total", what="evidence")] == 0
    assert told[key("edge_uad_archive_fault")] == 0


def test_healthy_while_life_signs_come_and_ready_once_an_inference_is_done() -> None:
    metrics = Metrics()
    with serving(metrics) as server:
        assert get(server.port, "/healthz") == (503, "no heartbeat yet\n")
        assert get(server.port, "/readyz") == (503, "no heartbeat yet\n")
        server.publish_status(status(StationState.RECONNECTING, "camera 0 is not there"))
        assert get(server.port, "/healthz") == (200, "line reconnecting: camera 0 is not there\n")
        assert get(server.port, "/readyz") == (503, "the first inference is not done yet\n")
        server.publish_status(replace(status(StationState.RECONNECTING), ready=True))
        assert get(server.port, "/readyz")[0] == 200
        server.publish_status(status(StationState.STOPPING))
        assert get(server.port, "/readyz") == (503, "stopping\n")
        assert get(server.port, "/healthz")[0] == 200


def test_the_warm_up_is_none_of_the_lines_figures() -> None:
    metrics = Metrics()
    with serving(metrics) as server:
        server.publish_status(status())
        metrics.observe_stage("backbone", 9.0)
        server.publish_status(replace(status(), ready=True))
        for _ in range(2):
            metrics.observe_stage("backbone", 0.01)
        told = samples(get(server.port, "/metrics")[1])
    assert told[key("edge_uad_stage_seconds_count", stage="backbone")] == 2


def test_a_loop_that_stands_still_is_not_healthy() -> None:
    metrics = Metrics()
    metrics._statuses["line"] = (status(), time.monotonic() - 60)
    assert metrics.health() == (False, "no heartbeat for 60 s")
    assert metrics.ready() == (False, "no heartbeat for 60 s")


def test_other_paths_and_other_methods_get_nothing() -> None:
    with serving(Metrics()) as server:
        assert get(server.port, "/")[0] == 404
        assert get(server.port, "/../../etc/passwd")[0] == 404
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics", data=b"x")
        with pytest.raises(urllib.error.HTTPError, match="501") as refused:
            urllib.request.urlopen(request, timeout=20)  # noqa: S310  (a URL of our own)
        refused.value.close()


def test_clients_that_dawdle_or_talk_nonsense_hold_up_neither_the_others_nor_the_end() -> None:
    before = threading.active_count()
    with serving(Metrics()) as server:
        dawdling = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS - 1)]
        with socket.create_connection(("127.0.0.1", server.port)) as nonsense:
            nonsense.sendall(b"\xff" * 100 + b"\r\n\r\n")
            nonsense.settimeout(20)
            assert b"400" in nonsense.recv(4096)
        until(lambda: answers(server.port))
    for connection in dawdling:
        connection.close()
    until(lambda: threading.active_count() == before)


def test_an_address_in_use_or_open_to_the_network_is_refused() -> None:
    with serving(Metrics()) as server, pytest.raises(EndpointError, match=r"cannot be bound: Address already in use"):
        MetricsServer(Metrics(), f"127.0.0.1:{server.port}")
    with pytest.raises(EndpointError, match=r"metrics.insecure: true"):
        MetricsServer(Metrics(), "0.0.0.0:9570")
    with pytest.raises(EndpointError, match="needs a host and a port"):
        MetricsServer(Metrics(), "9570")
    with pytest.raises(EndpointError, match=r"metrics.endpoint a\.\.b:9570 cannot be bound"):
        MetricsServer(Metrics(), "a..b:9570", insecure=True)
    MetricsServer(Metrics(), "0.0.0.0:*", insecure=True).close()


def test_binding_asks_no_dns_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """http.server looks up the name of the address that it binds to."""
    asked: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", lambda name="": asked.append(name) or "name")
    MetricsServer(Metrics(), "0.0.0.0:*", insecure=True).close()
    assert asked == []


def test_a_message_that_is_not_utf8_is_answered() -> None:
    metrics = Metrics()
    with serving(metrics) as server:
        server.publish_status(status(message="/parts/bad\udcff is not there"))
        assert get(server.port, "/healthz") == (200, "line running: /parts/bad\\xff is not there\n")


def test_every_stage_is_timed_where_somebody_wants_to_know() -> None:
    told: list[tuple[str, float]] = []
    inspector = green_inspector()
    inspector._embedder._on_stage = lambda stage, seconds: told.append((stage, seconds))
    timed, untimed = inspector.inspect(frame()), INSPECTOR.inspect(frame())
    assert [stage for stage, _ in told] == list(STAGES)
    assert all(seconds >= 0 for _, seconds in told)
    assert timed.score == untimed.score


def test_a_daemon_tells_its_metrics(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "line.yaml"
    config.write_text(
        f"stations: [{{name: line, source: 'ipc://{folder}/in', bank: {tiny_bank}}}]\n"
        f"model: {tiny_model}\nthreads: 1\npublish: {{endpoint: 'ipc://{folder}/out'}}\n"
        f"metrics: {{endpoint: '127.0.0.1:{port}'}}\naudit: {{file: log.jsonl}}\n"
    )
    with Running.edge_uad("serve", "--config", config) as daemon:
        daemon.wait_for(" ready")
        assert get(port, "/readyz")[0] == 200
        edge_uad("send", good_parts, "--to", f"ipc://{folder}/in", "--rate", 50)
        frames = key("edge_uad_frames_total", station="line", decision="normal")
        until(lambda: samples(get(port, "/metrics")[1]).get(frames) == 24)
        text = get(port, "/metrics")[1]
        told = samples(text)
        for stage in (*STAGES, "publish"):
            assert told[key("edge_uad_stage_seconds_count", stage=stage)] == 24
        assert re.search(r'edge_uad_artefacts_info\{bank_id="[0-9a-f]{64}"', text)
        with socket.create_connection(("127.0.0.1", port)):  # one that dawdles does not hold up the stop
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
    assert "24 frames judged: 24 normal" in daemon.everything


def test_a_metrics_address_in_use_is_refused_at_the_start(
    tmp_path: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = tmp_path / "line.yaml"
        config.write_text(
            f"stations: [{{name: line, source: '{good_parts}', bank: {tiny_bank}}}]\n"
            f"model: {tiny_model}\npublish: {{endpoint: 'tcp://127.0.0.1:*'}}\n"
            f"metrics: {{endpoint: '127.0.0.1:{taken.getsockname()[1]}'}}\n"
        )
        refused = edge_uad("serve", "--config", config, expect=2)
    assert "cannot be bound: Address already in use; choose another" in refused.stderr
    assert "Traceback" not in refused.stderr
