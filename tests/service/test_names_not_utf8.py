"""Paths whose bytes are not UTF-8 go through a daemon: to verdicts, heartbeats, the log and the service manager."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.store import Table
from tests.conftest import edge_uad
from tests.processes import Running

ANY_PORT = "tcp://127.0.0.1:*"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose own name is not UTF-8, either; short enough for a socket's path."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("n")) + b"/dir\xff"))
    folder.mkdir()
    return folder


def test_frames_from_a_folder(folder: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path) -> None:
    parts = folder / "parts"
    parts.mkdir()
    shutil.copy(good_parts / "0.png", os.fsencode(parts) + b"/bad\xff.png")
    Path(os.fsdecode(os.fsencode(parts) + b"/bad\xfe.png")).write_bytes(b"no picture")
    config = folder / "line.yaml"  # its folder's name becomes part of every path in it
    config.write_text(
        f"stations: [{{name: line, source: parts, bank: {tiny_bank}}}]\nmodel: {tiny_model}\nthreads: 1\n"
        f"publish: {{endpoint: '{ANY_PORT}'}}\nrecords: {{file: records.sqlite}}\n"
    )
    with Running.edge_uad("serve", "--config", config) as daemon:
        daemon.ends(code=0)
    assert "2 frames judged: 1 normal, 0 anomalous, 1 invalid" in daemon.everything
    assert "Traceback" not in daemon.everything
    with RecordReader(folder / "records.sqlite") as reader:
        entries = [row.parsed() for row in reader.rows(Table.VERDICTS)]
    assert [(entry["part_id"], entry["decision"]) for entry in entries] == [
        ("bad\\xfe.png", "invalid"),
        ("bad\\xff.png", "normal"),
    ]


def test_a_status_message_about_a_bank(folder: Path, tiny_model: Path, tiny_bank: Path) -> None:
    """A bank that is refused while the line runs is named in every heartbeat, a camera to the service manager, too."""
    bank = folder / "bank.safetensors"
    shutil.copy(tiny_bank, bank)
    manager = folder.parent / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(manager))
        notifications.settimeout(60)
        options = ["--bank", bank, "--model", tiny_model, "--publish", ANY_PORT, "--threads", 1]
        with Running.edge_uad(
            "serve", "--camera", "/dev/none\udcff", *options, environ=os.environ | {"NOTIFY_SOCKET": str(manager)}
        ) as daemon:
            endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
            with Running.edge_uad("watch", endpoint, "--json") as watch:
                watch.wait_for(r'"state": "reconnecting", "message": "[^"]*/dev/none\\\\xff')
                while b"/dev/none\\xff" not in notifications.recv(4096):
                    pass
                bank.write_bytes(b"no bank")
                refused = json.loads(watch.wait_for(r'^.*"refused_bank": "[^"]+".*$')[0])
                assert f"{folder.parent}/dir\\xff/bank.safetensors" in refused["refused_bank"]
                watch.wait_for('"frames_seen": 0')
                watch.signal(signal.SIGINT)
                watch.ends(code=0)
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
    assert "Traceback" not in daemon.everything


def test_frames_sent(folder: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path) -> None:
    shutil.copy(good_parts / "0.png", os.fsencode(folder) + b"/bad\xff.png")
    frames_in = f"ipc://{folder.parent}/in"
    options = ["--bank", tiny_bank, "--model", tiny_model, "--publish", ANY_PORT, "--threads", 1]
    with Running.edge_uad("serve", "--source", frames_in, *options) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with Running.edge_uad("watch", endpoint, "--json", "--count", 1, "--timeout", 60) as watch:
            watch.wait_for('"state": "running"')
            edge_uad("send", folder, "--to", frames_in)
            watch.ends(code=0)
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    [verdict] = [json.loads(line) for line in watch.out if "decision" in line]
    assert (verdict["part_id"], verdict["decision"]) == ("bad\\xff.png", "normal")
