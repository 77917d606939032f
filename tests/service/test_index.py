"""A bank that is searched in lists: built, inspected with, served, and changed for one without."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from edge_uad.inference.bank import PatchBank
from tests.conftest import edge_uad
from tests.processes import Running

ANY_PORT = "tcp://127.0.0.1:*"
HOW = ("--false-alarm-rate", "0.05", "--coreset", "1")


@pytest.fixture(scope="session")
def banks(tiny_model: Path, good_parts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bank with an index, and the same without."""
    folder = tmp_path_factory.mktemp("indexed")
    for choice in ("always", "never"):
        built = edge_uad(
            "build-bank", good_parts, "--model", tiny_model, "--out", folder / choice, "--index", choice, *HOW
        )
        assert ("search     searched by an index, " in built.stdout) == (choice == "always")
    return folder / "always", folder / "never"


def judged(messages: list[str]) -> list[tuple[str, str, float]]:
    """Part, decision and score of each verdict."""
    found: list[dict[str, Any]] = [json.loads(line) for line in messages]
    return [(Path(one["part_id"]).name, one["decision"], one["score"]) for one in found if "decision" in one]


def test_a_bank_with_an_index_judges_as_the_exact_one(
    tiny_model: Path, banks: tuple[Path, Path], good_parts: Path, scratched_parts: Path
) -> None:
    indexed, exact = (PatchBank.load(bank).manifest for bank in banks)
    assert indexed.index is not None
    assert exact.index is None
    assert indexed.threshold == exact.threshold
    done = [
        edge_uad("inspect", good_parts, scratched_parts, "--bank", bank, "--model", tiny_model, "--json")
        for bank in banks
    ]
    told = f"the bank is searched by an index, {indexed.index.lists_read} of {indexed.index.n_lists} lists"
    assert [told in one.stderr for one in done] == [True, False]
    by_index, by_all = (judged(one.stdout.splitlines()) for one in done)
    assert [one[:2] for one in by_index] == [one[:2] for one in by_all]
    assert {decision for _, decision, _ in by_all} == {"normal", "anomalous"}
    for (_, _, score), (_, _, least) in zip(by_index, by_all, strict=True):
        assert score >= least - 1e-6
    alone = edge_uad(
        "inspect", good_parts, scratched_parts, "--bank", banks[0], "--model", tiny_model, "--json", "--threads", 1
    )
    assert judged(alone.stdout.splitlines()) == by_index


def test_the_daemon_judges_as_inspect_and_changes_between_banks_with_and_without(
    tiny_model: Path,
    banks: tuple[Path, Path],
    good_parts: Path,
    scratched_parts: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run_dir = tmp_path_factory.mktemp("run")  # a short path, because a Unix socket's address is
    bank, frames_in = run_dir / "bank", f"ipc://{run_dir}/in"
    ids = [PatchBank.load(one).manifest.bank_id for one in banks]
    parts = (good_parts, scratched_parts)
    serve = ["serve", "--bank", bank, "--model", tiny_model, "--publish", ANY_PORT]
    shutil.copy(banks[0], bank)
    with Running.edge_uad(*serve, "--source", frames_in) as daemon:
        daemon.wait_for(f"bank {ids[0][:12]} is searched by an index, ")
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with Running.edge_uad("watch", endpoint, "--json") as watch:
            watch.wait_for('"state": "running"')
            for turn, one in enumerate((0, 1, 0)):
                if turn:
                    shutil.copy(banks[one], run_dir / "new")
                    (run_dir / "new").replace(bank)
                    daemon.signal(signal.SIGHUP)
                    daemon.wait_for(f"bank {ids[one][:12]} follows bank")
                edge_uad("send", *parts, "--to", frames_in, "--encoding", "as-is")
                watch.wait_for(f'"judged": {28 * (turn + 1)}, ')
            daemon.signal(signal.SIGTERM)
            daemon.ends(code=0)
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
    messages = [line for line in watch.out if "decision" in json.loads(line)]
    assert [json.loads(line)["bank_id"] for line in messages] == [ids[one] for one in (0, 1, 0) for _ in range(28)]
    for turn, one in enumerate((0, 1, 0)):
        inspected = edge_uad("inspect", *parts, "--bank", banks[one], "--model", tiny_model, "--json")
        assert judged(messages[28 * turn : 28 * (turn + 1)]) == judged(inspected.stdout.splitlines())
