"""The promise of the threshold: good parts are rejected as often as asked, and no oftener."""

import json
from pathlib import Path

import pytest

from edge_uad.sources.folder import image_files
from tests.conftest import edge_uad

stats = pytest.importorskip("scipy.stats", reason="the [evaluate] extra is not installed")

N_LEARNED = 159
FALSE_ALARM_RATE = 0.05
COVERAGE = 0.99


@pytest.mark.timeout(300)
def test_the_realised_false_alarm_rate_is_the_asked_one(default_model_224: Path, tiles: Path, tmp_path: Path) -> None:
    learned = tmp_path / "learned"
    learned.mkdir()
    for file in image_files(str(tiles / "train" / "good"))[::4][:N_LEARNED]:
        (learned / file.name).symlink_to(file)
    bank = tmp_path / "bank.safetensors"
    rate = ("--false-alarm-rate", FALSE_ALARM_RATE)
    edge_uad("build-bank", learned, "--model", default_model_224, "--out", bank, *rate, timeout_s=240)
    good = tiles / "test" / "good"
    done = edge_uad("inspect", good, "--bank", bank, "--model", default_model_224, "--json", timeout_s=240)
    held_out = [json.loads(line) for line in done.stdout.splitlines()]
    false_alarms = sum(verdict["decision"] == "anomalous" for verdict in held_out)
    # The threshold is itself drawn from N_LEARNED good parts. Of such thresholds the number of false alarms among
    # n new good parts is beta-binomial: the binomial interval, widened by what the calibration cannot know.
    allowed = N_LEARNED + 1 - round((N_LEARNED + 1) * (1 - FALSE_ALARM_RATE))
    false_alarms_of = stats.betabinom(len(held_out), allowed, N_LEARNED + 1 - allowed)
    low, high = false_alarms_of.interval(COVERAGE)
    assert low <= false_alarms <= high
    assert all(verdict["decision"] != "invalid" for verdict in held_out)
