"""The bank is replaced under a running daemon: real files, real signals, real sockets."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.processes import Running

ANY_PORT = "tcp://127.0.0.1:*"


@pytest.fixture(scope="session")
def two_banks(
    tiny_model: Path, tiny_bank: Path, good_parts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A bank, and a smaller one of the same parts."""
    other = tmp_path_factory.mktemp("bank") / "other.safetensors"
    edge_uad("build-bank", f"{good_parts}/1*.png", "--model", tiny_model, "--out", other, "--false-alarm-rate", 0.2)
    return tiny_bank, other


@pytest.fixture
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path, because a Unix socket's address is."""
    return tmp_path_factory.mktemp("run")


def test_banks_change_under_load_and_a_bad_one_is_refused(
    tiny_model: Path, two_banks: tuple[Path, Path], good_parts: Path, scratched_parts: Path, run_dir: Path
) -> None:
    tiny_bank, other_bank = two_banks
    first, second = (PatchBank.load(path).manifest.bank_id for path in (tiny_bank, other_bank))
    bank = run_dir / "bank.safetensors"
    shutil.copy(tiny_bank, bank)
    frames_in = f"ipc://{run_dir}/in"
    serve = ["serve", "--bank", bank, "--model", tiny_model, "--publish", ANY_PORT, "--threads", 1]
    with Running.edge_uad(*serve, "--source", frames_in) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with Running.edge_uad("watch", endpoint, "--json") as watch:
            watch.wait_for('"state": "running"')
            # long enough for both changes, however fast the machine judges
            parts = [good_parts, scratched_parts] * 12
            with Running.edge_uad("send", *parts, "--to", frames_in, "--rate", 30) as sender:
                shutil.copy(other_bank, run_dir / "new")
                (run_dir / "new").replace(bank)  # seen by itself
                watch.wait_for(f'"decision": .*"bank_id": "{second}"')
                shutil.copy(tiny_bank, run_dir / "new")
                (run_dir / "new").replace(bank)
                daemon.signal(signal.SIGHUP)  # or at once
                daemon.wait_for(f"bank {first[:12]} follows bank {second[:12]}")
                sender.ends(code=0)
            watch.wait_for('"judged": 336, ')
            bank.write_bytes(b"no bank at all")
            daemon.signal(signal.SIGHUP)
            watch.wait_for('"refused_bank": ".*cannot be read as a bank')
            edge_uad("send", good_parts, "--to", frames_in)
            watch.wait_for('"judged": 360, ')
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
    messages = [json.loads(line) for line in watch.out]
    verdicts = [message for message in messages if "decision" in message]
    assert [one["frame_id"] for one in verdicts] == [*range(336), *range(24)]
    assert {one["bank_id"] for one in verdicts} == {first, second}
    changes = [
        one["bank_id"] for at, one in enumerate(verdicts) if one["bank_id"] != verdicts[at - 1]["bank_id"] or not at
    ]
    assert changes in ([first, second, first], [second, first])
    assert [one["bank_id"] for one in verdicts[-24:]] == [first] * 24
    assert f"a new bank is refused, bank {first[:12]} goes on" in daemon.everything
    assert "360 frames judged" in daemon.everything
    assert "0 invalid; 0 dropped" in daemon.everything
