"""The daemon as a process: real model, real bank, real sockets and signals."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.processes import PATIENCE_S, Running

ANY_PORT = "tcp://127.0.0.1:*"


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path, because a Unix socket's address is."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def serve(tiny_model: Path, tiny_bank: Path) -> list[object]:
    """The arguments of a daemon of one station, all but its source."""
    return ["serve", "--bank", tiny_bank, "--model", tiny_model, "--publish", ANY_PORT, "--threads", 1]


@pytest.fixture
def manager(run_dir: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """A service manager: the environment that it starts a daemon in, and what it heard."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(run_dir / "notify"))
        environ = os.environ | {"NOTIFY_SOCKET": str(run_dir / "notify"), "WATCHDOG_USEC": "1000000"}

        def listen() -> None:
            while (message := listening.recv(4096)) != b"END":
                heard.append(message.decode())

        thread = threading.Thread(target=listen)
        thread.start()
        yield environ, heard
        listening.sendto(b"END", str(run_dir / "notify"))
        thread.join(PATIENCE_S)


def published_on(daemon: Running) -> str:
    return daemon.wait_for(r"verdicts on (\S+)")[1]


def test_every_part_of_a_line_gets_its_verdict_in_order(
    serve: list[object], run_dir: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> None:
    """Good parts, scratched ones and a torn file, pushed through a socket; a subscriber hears all of it."""
    torn = run_dir / "torn.png"
    torn.write_bytes((good_parts / "0.png").read_bytes()[:500])
    frames_in = f"ipc://{run_dir}/in"
    with Running.edge_uad(*serve, "--source", frames_in, "--heatmap", "always") as daemon:
        with Running.edge_uad("watch", published_on(daemon), "--json", "--count", 29, "--timeout", 60) as watch:
            watch.wait_for('"state": "running"')
            sent = edge_uad("send", good_parts, scratched_parts, torn, "--to", frames_in)
            assert "29 frames sent to" in sent.stderr
            watch.ends(code=0)
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    messages = [json.loads(line) for line in watch.out]
    verdicts = [message for message in messages if "decision" in message]
    assert [one["frame_id"] for one in verdicts] == list(range(29))
    assert [one["decision"] for one in verdicts] == ["normal"] * 24 + ["anomalous"] * 4 + ["invalid"]
    assert [one["part_id"] for one in verdicts[24:]] == ["0.png", "1.png", "2.png", "3.png", "torn.png"]
    assert "truncated" in verdicts[28]["reason"]
    assert {one["bank_id"] for one in messages} == {PatchBank.load(tiny_bank).manifest.bank_id}
    assert "29 frames judged: 24 normal, 4 anomalous, 1 invalid; 0 dropped" in daemon.everything
    assert "Traceback" not in daemon.everything


def test_inspect_and_serve_agree(
    serve: list[object], run_dir: Path, scratched_parts: Path, tiny_model: Path, tiny_bank: Path
) -> None:
    with Running.edge_uad(*serve, "--source", f"ipc://{run_dir}/in") as daemon:
        with Running.edge_uad("watch", published_on(daemon), "--json", "--count", 4, "--timeout", 60) as watch:
            watch.wait_for('"state": "running"')
            edge_uad("send", scratched_parts, "--to", f"ipc://{run_dir}/in", "--rate", 50)
            watch.ends(code=0)
        daemon.signal(signal.SIGINT)
        daemon.ends(code=0)
    served = [message for message in map(json.loads, watch.out) if "decision" in message]
    done = edge_uad("inspect", scratched_parts, "--bank", tiny_bank, "--model", tiny_model, "--json")
    inspected = [json.loads(line) for line in done.stdout.splitlines()]
    for one, other in zip(served, inspected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)
        assert (one["decision"], one["peak"], one["threshold"]) == (
            other["decision"],
            other["peak"],
            other["threshold"],
        )


def test_a_folder_is_judged_once_and_the_daemon_ends_by_itself(serve: list[object], good_parts: Path) -> None:
    done = edge_uad(*serve, "--source", good_parts, "--station", "press-3")
    assert done.stdout == ""
    assert "press-3: ended: all 24 files have been read" in done.stderr
    assert "press-3  24 frames judged: 24 normal, 0 anomalous, 0 invalid; 0 dropped" in done.stderr


def test_a_camera_that_is_not_there_is_waited_for(
    serve: list[object], manager: tuple[dict[str, str], list[str]]
) -> None:
    environ, heard = manager
    with Running.edge_uad(*serve, "--camera", 97, environ=environ) as daemon:
        with Running.edge_uad("watch", published_on(daemon)) as watch:
            watch.wait_for("line +reconnecting: camera 97: /dev/video97 is not there; is it plugged in")
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
        daemon.wait_for(" ready")
        daemon.wait_for("line  camera 97, latest, bank ")
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    told = [message for message in heard if not message.startswith("STATUS=")]
    assert told[0] == "READY=1"
    assert told.count("WATCHDOG=1") >= 1
    assert "STOPPING=1" in told
    assert any("line reconnecting (camera 97: /dev/video97 is not there" in message for message in heard)


def test_a_source_that_never_answers_does_not_hold_up_the_stop(
    tiny_model: Path, tiny_bank: Path, run_dir: Path
) -> None:
    """A server that takes the connection and then says nothing: FFmpeg waits inside ``open``."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = run_dir / "line.yaml"
        config.write_text(
            f"stations:\n"
            f"  - {{name: dead, source: 'http://127.0.0.1:{silent.getsockname()[1]}/1', bank: {tiny_bank}}}\n"
            f"model: {tiny_model}\n"
            f"stop_timeout_s: 0.1\n"
        )
        with Running.edge_uad("serve", "--config", config, "--publish", ANY_PORT) as daemon:
            silent.settimeout(PATIENCE_S)
            connection, _ = silent.accept()
            daemon.wait_for(" ready")
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
            connection.close()
    assert "dead: the source does not return its thread; it is left behind" in daemon.everything


def test_two_stations_of_a_config_share_a_daemon(
    tiny_model: Path, tiny_bank: Path, run_dir: Path, good_parts: Path, scratched_parts: Path
) -> None:
    config = run_dir / "line.yaml"
    config.write_text(
        f"stations:\n"
        f"  - {{name: top, source: {good_parts}, bank: {tiny_bank}}}\n"
        f"  - {{name: side, source: '{scratched_parts}/*.png', bank: {tiny_bank}}}\n"
        f"model: {tiny_model}\n"
        f"publish: {{endpoint: 'ipc://{run_dir}/out'}}\n"
    )
    done = edge_uad("serve", "--config", config)
    assert "top   24 frames judged: 24 normal, 0 anomalous, 0 invalid" in done.stderr
    assert "side  4 frames judged: 0 normal, 4 anomalous, 0 invalid" in done.stderr


def test_live_frames_that_come_too_fast_are_dropped_and_counted(
    serve: list[object], run_dir: Path, good_parts: Path
) -> None:
    with (
        Running.edge_uad(*serve, "--source", f"ipc://{run_dir}/in", "--mode", "latest") as daemon,
        Running.edge_uad("watch", published_on(daemon), "--json") as watch,
    ):
        watch.wait_for('"state": "running"')
        edge_uad("send", *[good_parts] * 5, "--to", f"ipc://{run_dir}/in")
        watch.wait_for('"frames_seen": 120, ')
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
        watch.wait_for('"state": "stopping"')
        watch.signal(signal.SIGINT)
        watch.ends(code=0)
    messages = [json.loads(line) for line in watch.out]
    verdicts = [message for message in messages if "decision" in message]
    last = [message for message in messages if "state" in message][-1]
    assert len(verdicts) + sum(one["dropped_before"] for one in verdicts) == 120
    assert (last["frames_seen"], last["judged"], last["dropped"]) == (120, len(verdicts), 120 - len(verdicts))


@pytest.fixture
def right(tiny_model: Path, tiny_bank: Path, good_parts: Path) -> dict[str, Any]:
    """Options that a daemon starts with."""
    return {"--source": good_parts, "--bank": tiny_bank, "--model": tiny_model, "--publish": ANY_PORT}


def refused(code: int, *arguments: object) -> str:
    """The one sentence of a daemon that does not start."""
    done = edge_uad(*arguments, expect=code)
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


def test_an_endpoint_in_use_is_refused(serve: list[object], good_parts: Path, run_dir: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as other:
        other.bind(f"ipc://{run_dir}/taken")
        told = refused(2, *serve, "--source", good_parts, "--publish", f"ipc://{run_dir}/taken")
        assert told.startswith(f"edge-uad: ipc://{run_dir}/taken is in use by another program; stop it, or choose")
        told = refused(2, *serve, "--source", f"ipc://{run_dir}/taken")
        assert told.startswith(f"edge-uad: ipc://{run_dir}/taken is in use by another program; stop it, or give")


@pytest.mark.parametrize(
    ("code", "options", "told"),
    [
        (2, {"--source": None}, "name one source of frames"),
        (2, {"--camera": "0"}, "name one source of frames"),
        (2, {"--bank": None}, "--bank is missing; build one"),
        (2, {"--source": "nowhere/"}, "nowhere/: there is no such file or folder"),
        (2, {"--source": "tcp://0.0.0.0:5560"}, "can be reached from the network without keys"),
        (2, {"--publish": "tcp://*:5570"}, "can be reached from the network without keys"),
        (2, {"--mode": "newest"}, "stations[0].mode: input should be 'auto', 'latest' or 'every', not 'newest'"),
        (2, {"--provider": "gpu"}, "provider: input should be 'cpu', 'cuda', 'tensorrt' or 'openvino', not 'gpu'"),
        (3, {"--bank": "/nowhere/bank.safetensors"}, "bank"),
        (3, {"--model": "/nowhere/m.onnx"}, "/nowhere/m.onnx"),
    ],
)
def test_what_cannot_be_served_is_one_sentence_with_its_exit_code(
    right: dict[str, Any], code: int, options: dict[str, str | None], told: str
) -> None:
    arguments = [item for name, value in (right | options).items() if value is not None for item in (name, value)]
    assert told in refused(code, "serve", *arguments)


def test_a_bank_of_another_model_is_refused_with_both_ids(
    other_tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    told = refused(3, "serve", "--source", good_parts, "--bank", tiny_bank, "--model", other_tiny_model)
    manifest = PatchBank.load(tiny_bank).manifest
    assert manifest.model_id[:8] in told
    assert "rerun edge-uad build-bank" in told


def test_a_config_with_an_unknown_key_is_refused_by_name(run_dir: Path) -> None:
    config = run_dir / "line.yaml"
    config.write_text("stations:\n  - {name: line, source: '0', bankk: b.safetensors}\n")
    assert "line.yaml: stations[0].bankk: there is no such key; did you mean bank?" in refused(
        2, "serve", "--config", config
    )
    assert "--camera and --config cannot be combined" in refused(2, "serve", "--config", config, "--camera", 0)


def test_watch_without_a_daemon_says_so(run_dir: Path) -> None:
    told = refused(1, "watch", f"ipc://{run_dir}/nobody", "--count", 1, "--timeout", 0.3)
    assert "0 of 1 verdicts came from" in told
    assert "is edge-uad serve running there?" in told


def test_send_without_a_daemon_says_so(run_dir: Path, good_parts: Path) -> None:
    done = edge_uad("send", good_parts, "--to", f"ipc://{run_dir}/nobody", "--timeout", 0.3, expect=1)
    assert "frame 0 was not taken within 0.3 s: no daemon takes frames at" in done.stderr
    assert "Traceback" not in done.stderr
