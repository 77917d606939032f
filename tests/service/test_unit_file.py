"""The systemd unit: valid, hardened, and of one mind with the exit codes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_uad import errors
from edge_uad.runtime.daemon import CLOSE_S, RELEASE_S
from edge_uad.runtime.settings import Settings

UNIT = Path(__file__).parents[2] / "systemd" / "edge-uad.service"
MAX_EXPOSURE = 2.0


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_a_restart_is_not_tried_where_it_will_not_help() -> None:
    in_tree = {errors.UsageError.exit_code, errors.ArtefactError.exit_code, errors.ProviderError.exit_code}
    assert {int(code) for code in setting("RestartPreventExitStatus")[0].split()} == in_tree
    assert setting("Restart") == ["on-failure"]


def test_a_reload_sends_the_signal_that_the_daemon_handles() -> None:
    assert setting("ExecReload") == ["kill -HUP $MAINPID"]


def test_systemd_waits_longer_than_a_stop_may_take() -> None:
    longest_s = Settings.model_fields["stop_timeout_s"].default + 2 * RELEASE_S + CLOSE_S
    assert float(setting("TimeoutStopSec")[0]) > longest_s


def test_the_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE))
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_is_hardened() -> None:
    done = analyze("security", "--offline=true", UNIT)
    match = re.search(r"Overall exposure level for edge-uad\.service: ([\d.]+)", done.stdout)
    assert match is not None, done.stdout + done.stderr
    assert float(match[1]) <= MAX_EXPOSURE
