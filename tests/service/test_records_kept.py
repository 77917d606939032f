"""A daemon that writes down what it says and keeps what it rejects; and the judging again of what it kept."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_uad.errors import ArtefactError
from edge_uad.inference.bank import PatchBank
from edge_uad.net.wire import Json
from edge_uad.outputs.record_reader import RecordReader
from edge_uad.outputs.store import RecordStore, Table
from edge_uad.runtime.assemble import load_inspector
from edge_uad.runtime.backbones import load_backbone
from tests.conftest import edge_uad
from tests.fakes import until
from tests.processes import Running

REPO = Path(__file__).parents[2]


def config_for(folder: Path, source: object, bank: Path, model: Path, *more: str) -> Path:
    config = folder / "line.yaml"
    lines = [
        f"stations: [{{name: line, source: '{source}', bank: {bank}}}]",
        f"model: {model}",
        "threads: 1",
        "publish: {endpoint: 'tcp://127.0.0.1:*'}",
        *more,
    ]
    config.write_text("\n".join(lines) + "\n")
    return config


def entries_of(path: Path) -> list[Json]:
    with RecordReader(path) as reader:
        return [row.parsed() for row in reader.rows(Table.VERDICTS)]


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path, scratched_parts: Path
) -> Path:
    """A folder with the records and the evidence of 5 good parts, 4 scratched ones and a torn file."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "parts").mkdir()
    for index in range(5):
        (folder / "parts" / f"a{index}.png").symlink_to(good_parts / f"{index}.png")
    for index in range(4):
        (folder / "parts" / f"b{index}.png").symlink_to(scratched_parts / f"{index}.png")
    (folder / "parts" / "c.png").write_bytes((good_parts / "0.png").read_bytes()[:500])
    more = ("records: {file: records.sqlite}", "evidence: {folder: evidence}")
    done = edge_uad("serve", "--config", config_for(folder, folder / "parts", tiny_bank, tiny_model, *more))
    assert "10 frames judged: 5 normal, 4 anomalous, 1 invalid" in done.stderr
    return folder


def test_every_verdict_is_logged_and_the_rejected_frames_are_kept(kept: Path, tiny_bank: Path) -> None:
    entries = entries_of(kept / "records.sqlite")
    assert [entry["part_id"] for entry in entries] == [
        *(f"a{n}.png" for n in range(5)),
        *(f"b{n}.png" for n in range(4)),
        "c.png",
    ]
    assert [entry["evidence"] is not None for entry in entries] == [False] * 5 + [True] * 4 + [False]
    assert {entry["bank_id"] for entry in entries} == {PatchBank.load(tiny_bank).manifest.bank_id}
    for entry in entries[5:9]:
        with Image.open(kept / "evidence" / entry["evidence"]) as image:
            original = np.asarray(Image.open(kept / "parts" / entry["part_id"]))
            assert np.array_equal(np.asarray(image), original)


def test_replay_finds_nothing_changed_by_the_same_bank(kept: Path, tiny_bank: Path, tiny_model: Path) -> None:
    done = edge_uad("replay", kept / "records.sqlite", "--bank", tiny_bank, "--model", tiny_model, "--json")
    assert "10 verdicts: 0 changed, 0 altered, 6 not kept, 4 same" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["outcome"] for line in lines] == ["not kept"] * 5 + ["same"] * 4 + ["not kept"]
    assert all(line["now"]["score"] == pytest.approx(line["logged"]["score"], abs=1e-6) for line in lines[5:9])


def test_replay_tells_what_another_bank_says_and_exits_with_4(
    kept: Path, tiny_model: Path, scratched_parts: Path, tmp_path: Path
) -> None:
    """A bank that was built from scratched parts takes them for good."""
    other = tmp_path / "other.safetensors"
    edge_uad("build-bank", scratched_parts, "--model", tiny_model, "--out", other, "--false-alarm-rate", 0.3)
    done = edge_uad("replay", kept / "records.sqlite", "--bank", other, "--model", tiny_model, expect=4)
    changed = [line for line in done.stdout.splitlines() if line.startswith("changed")]
    assert changed
    assert all("anomalous" in line and "→ normal" in line for line in changed)
    assert f"{len(changed)} changed" in done.stderr


def test_replay_finds_a_kept_frame_that_was_altered(
    kept: Path, tiny_bank: Path, tiny_model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "evidence"
    (copy / "line").mkdir(parents=True)
    files = sorted((kept / "evidence" / "line").iterdir())
    for path in files[1:]:
        (copy / "line" / path.name).write_bytes(path.read_bytes())
    altered = np.asarray(Image.open(files[1])).copy()
    altered[0, 0, 0] ^= 1
    Image.fromarray(altered).save(copy / "line" / files[1].name)
    (copy / "line" / files[2].name).write_bytes(b"torn")
    told = edge_uad(
        "replay", kept / "records.sqlite", "--bank", tiny_bank, "--model", tiny_model, "--evidence", copy, expect=4
    )
    assert "0 changed, 2 altered, 7 not kept, 1 same" in told.stderr
    assert "is not the frame that was judged" in told.stdout


def test_replay_does_not_look_outside_the_evidence_folder(
    kept: Path, tiny_bank: Path, tiny_model: Path, tmp_path: Path
) -> None:
    entries = entries_of(kept / "records.sqlite")
    outside = {
        **entries[5],
        "evidence": os.path.relpath(kept / "evidence" / entries[5]["evidence"], tmp_path / "evidence"),
    }
    (tmp_path / "log").write_text(json.dumps(outside) + "\n")
    (tmp_path / "evidence").mkdir()
    done = edge_uad("replay", tmp_path / "log", "--bank", tiny_bank, "--model", tiny_model)
    assert "1 verdicts: 0 changed, 0 altered, 1 not kept, 0 same" in done.stderr


def test_what_was_no_picture_is_kept_as_it_came(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    torn = folder / "torn.png"
    torn.write_bytes((good_parts / "0.png").read_bytes()[:500])
    more = ("records: {file: records.sqlite}", "evidence: {folder: evidence}")
    config = config_for(folder, f"ipc://{folder}/in", tiny_bank, tiny_model, *more)
    with Running.edge_uad("serve", "--config", config) as daemon:
        edge_uad("send", torn, "--to", f"ipc://{folder}/in")
        until(lambda: len(entries_of(folder / "records.sqlite")) == 1)
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    [entry] = entries_of(folder / "records.sqlite")
    assert entry["decision"] == "invalid"
    assert (folder / "evidence" / entry["evidence"]).read_bytes() == torn.read_bytes()
    done = edge_uad("replay", folder / "records.sqlite", "--bank", tiny_bank, "--model", tiny_model)
    assert "1 verdicts: 0 changed, 0 altered, 0 not kept, 1 same" in done.stderr
    (folder / "evidence" / entry["evidence"]).write_bytes(b"other")
    edge_uad("replay", folder / "records.sqlite", "--bank", tiny_bank, "--model", tiny_model, expect=4)


FULL_DISK = """
import resource, sys
from edge_uad.__main__ import main
room = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
main()
"""


def test_a_full_disk_stops_the_records_and_not_the_line(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    """The daemon may make the file 24 KiB larger: the kernel says no after some dozens of verdicts."""
    folder = tmp_path_factory.mktemp("full")
    frames_in = f"ipc://{folder}/in"
    more = ("records: {file: records.sqlite, commit_s: 0}", "evidence: {folder: evidence, decisions: [anomalous]}")
    config = config_for(folder, frames_in, tiny_bank, tiny_model, *more)
    RecordStore(folder / "records.sqlite").close()
    room = (folder / "records.sqlite").stat().st_size + 24 * 1024
    with Running("-c", FULL_DISK, room, "serve", "--config", config) as daemon:
        endpoint = daemon.wait_for(r"verdicts on (\S+)")[1]
        with Running.edge_uad("watch", endpoint, "--json") as watch:
            watch.wait_for('"state": "running"')
            for _ in range(3):
                edge_uad("send", good_parts, "--to", frames_in, "--rate", 50)
            watch.wait_for("records are not written: disk I/O error")
            until(lambda: sum('"frame_id": 23' in line for line in watch.out) == 3)
            watch.signal(signal.SIGINT)
            watch.ends(code=0)
        daemon.signal(signal.SIGTERM)
        daemon.ends(code=0)
    assert "72 frames judged: 72 normal, 0 anomalous, 0 invalid; 0 dropped" in daemon.everything
    assert "is not written: disk I/O error; inspection goes on" in daemon.everything
    missing = int(daemon.wait_for(r"lacks? the last (\d+) verdicts")[1])
    whole = entries_of(folder / "records.sqlite")
    assert [entry["frame_id"] for entry in whole] == [n % 24 for n in range(len(whole))]
    assert len(whole) + missing == 72
    assert len(whole) > 10
    edge_uad("records", "verify", folder / "records.sqlite")


def test_records_that_cannot_be_written_are_refused_at_the_start(
    tmp_path: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    (tmp_path / "records.sqlite").write_text("notes\n")
    config = config_for(tmp_path, good_parts, tiny_bank, tiny_model, "records: {file: records.sqlite}")
    refused = edge_uad("serve", "--config", config, expect=2)
    assert "records.sqlite is not a records file of edge-uad" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_config_of_before_starts_and_its_log_is_taken_over(
    tmp_path: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path, kept: Path
) -> None:
    """The section audit of earlier versions: the records are kept beside the log that it names."""
    log = tmp_path / "verdicts.jsonl"
    edge_uad("records", "export", kept / "records.sqlite", "--out", log)
    edge_uad("records", "import", log)
    audit = "audit: {file: verdicts.jsonl, max_bytes: 65536, max_files: 2, fsync_s: 0.5}"
    done = edge_uad("serve", "--config", config_for(tmp_path, good_parts, tiny_bank, tiny_model, audit))
    path = tmp_path / "verdicts.sqlite"
    assert f"audit.file is now records.file: {path}; take an old log over with: edge-uad records import" in done.stderr
    assert [entry["part_id"] for entry in entries_of(path)[:10]] == [
        entry["part_id"] for entry in entries_of(kept / "records.sqlite")
    ]
    assert len(entries_of(path)) == 10 + 24
    edge_uad("records", "verify", path)


def test_what_was_in_use_is_in_the_records(kept: Path, tiny_bank: Path) -> None:
    manifest = PatchBank.load(tiny_bank).manifest
    with RecordReader(kept / "records.sqlite") as reader:
        found = {table: [row.parsed() for row in reader.rows(table)] for table in Table}
    assert [bank["bank_id"] for bank in found[Table.BANKS]] == [manifest.bank_id]
    assert found[Table.BANKS][0]["threshold"] == manifest.threshold
    assert found[Table.RECIPES][0]["settings"]["stations"][0]["name"] == "line"
    kinds = [event["event"] for event in found[Table.EVENTS]]
    assert (kinds[0], kinds[-1]) == ("start", "stop")
    assert {"state", "bank"} <= set(kinds)


def test_replay_takes_records_exports_and_logs_alike(kept: Path, tiny_bank: Path, tiny_model: Path) -> None:
    exported = kept / "exported.jsonl"
    edge_uad("records", "export", kept / "records.sqlite", "--out", exported)
    done = edge_uad("replay", exported, kept / "records.sqlite", "--bank", tiny_bank, "--model", tiny_model)
    assert "20 verdicts: 0 changed, 0 altered, 12 not kept, 8 same" in done.stderr


def test_banks_and_model_must_lie_in_artefacts_dir_where_one_is_named(
    tmp_path: Path, tiny_model: Path, tiny_bank: Path, good_parts: Path
) -> None:
    inside = tmp_path / "artefacts"
    inside.mkdir()
    bank, model = inside / "bank.safetensors", inside / "model.onnx"
    bank.write_bytes(tiny_bank.read_bytes())
    model.write_bytes(tiny_model.read_bytes())
    current = inside / "current.safetensors"
    current.symlink_to("bank.safetensors")
    confined = "artefacts_dir: artefacts"
    edge_uad("serve", "--config", config_for(tmp_path, good_parts, current, model, confined))
    current.unlink()
    current.symlink_to(tiny_bank)
    for a_bank, a_model in ((current, model), (bank, tiny_model), (inside / ".." / ".." / tiny_bank, model)):
        refused = edge_uad("serve", "--config", config_for(tmp_path, good_parts, a_bank, a_model, confined), expect=3)
        assert "outside artefacts_dir" in refused.stderr
        assert "Traceback" not in refused.stderr
    directory = edge_uad("serve", "--config", config_for(tmp_path, good_parts, inside, model, confined), expect=3)
    assert "is not a regular file" in directory.stderr


def test_a_bank_that_is_swapped_for_a_link_is_refused_at_the_next_look(
    tmp_path: Path, tiny_model: Path, tiny_bank: Path
) -> None:
    """What hot swap calls is the same as what the start calls."""
    bank = tmp_path / "bank.safetensors"
    bank.write_bytes(tiny_bank.read_bytes())
    backbone = load_backbone(tiny_model, threads=1)
    assert load_inspector(backbone, bank, within=tmp_path).bank_id
    bank.unlink()
    bank.symlink_to(tiny_bank)
    with pytest.raises(ArtefactError, match="outside artefacts_dir"):
        load_inspector(backbone, bank, within=tmp_path)
