"""How the threads of ONNX Runtime wait: for a moment, and with every session alike."""

import onnxruntime as ort
import pytest

from edge_uad.inference import search
from edge_uad.inference.backbones.onnx import session_options
from edge_uad.inference.cpu_sessions import SPIN_DURATION, SPIN_US, SPINNING, STOP_AFTER_RUN, cpu_session_options

BOUNDED = {SPINNING: "1", SPIN_DURATION: str(SPIN_US), STOP_AFTER_RUN: "1"}


def entries_of(options: ort.SessionOptions) -> dict[str, str]:
    """The entries that were set, of those that say how threads wait."""
    found = {}
    for name in BOUNDED:
        try:
            found[name] = options.get_session_config_entry(name)
        except RuntimeError:  # not set
            continue
    return found


@pytest.mark.parametrize("version", ["1.26.0", "1.27.1", "1.32.0", "2.0.0"])
def test_threads_spin_for_a_moment_and_not_beyond_the_end_of_a_run(version: str) -> None:
    options = cpu_session_options(3, version=version)
    assert options.intra_op_num_threads == 3
    assert entries_of(options) == BOUNDED


@pytest.mark.parametrize("version", ["1.22.0", "1.25.1"])
def test_they_never_spin_where_it_would_have_no_bound(version: str) -> None:
    assert entries_of(cpu_session_options(0, version=version)) == {SPINNING: "0"}


def test_the_backbone_and_the_search_wait_alike() -> None:
    assert entries_of(session_options(1)) == entries_of(cpu_session_options(1))
    assert entries_of(search.open_session(1).get_session_options()) == entries_of(cpu_session_options(1))


def test_the_runtime_takes_the_duration_as_it_is_meant(capfd: pytest.CaptureFixture[str]) -> None:
    """Of a value that it cannot use it says so, and spins for as long as it likes."""
    assert complaints(SPIN_US, capfd) == ""
    assert "Invalid value for session.intra_op.spin_duration_us" in complaints("a moment", capfd)


def complaints(spin_us: int | str, capfd: pytest.CaptureFixture[str]) -> str:
    options = ort.SessionOptions()
    options.add_session_config_entry(SPINNING, "1")
    options.add_session_config_entry(SPIN_DURATION, str(spin_us))
    ort.InferenceSession(search.NEAREST_GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])
    return capfd.readouterr().err
