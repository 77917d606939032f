"""What ``watch`` puts on a terminal and into a log."""

import time
from typing import Any

from rich.console import Console

from edge_uad.cli.board import Board, plain_line

VERDICT: dict[str, Any] = {
    "schema": 1,
    "station": "press-3",
    "frame_id": 41,
    "part_id": "SN-[41]",
    "captured_at_ns": time.time_ns(),
    "decision": "anomalous",
    "reason": None,
    "score": 0.51234,
    "threshold": 0.3,
    "p_value": 0.04,
    "latency_ms": 87.65,
}
INVALID = VERDICT | {"frame_id": 42, "decision": "invalid", "reason": "torn", "score": None, "p_value": None}
STATUS: dict[str, Any] = {
    "schema": 1,
    "station": "press-3",
    "state": "reconnecting",
    "message": "camera 0 is not there",
    "frames_seen": 12,
    "judged": 10,
    "dropped": 2,
    "invalid": 1,
    "last_frame_age_s": 3.5,
    "bank_id": "b" * 64,
}


def shown(*messages: dict[str, Any], last: int = 5) -> list[str]:
    board = Board("tcp://127.0.0.1:5570", last)
    for message in messages:
        board.show(message)
    console = Console(width=140, record=True, file=None, force_terminal=False, quiet=False)
    with console.capture() as capture:
        console.print(board.render())
    return capture.get().splitlines()


def test_before_anything_came_the_board_says_what_it_waits_for() -> None:
    assert shown() == ["waiting for a daemon at tcp://127.0.0.1:5570 …"]


def test_the_board_shows_stations_and_the_last_verdicts_newest_first() -> None:
    lines = shown(STATUS, *[VERDICT | {"frame_id": number} for number in range(10)], INVALID, last=3)
    station = next(line for line in lines if "reconnecting" in line)
    for fact in ("press-3", "reconnecting camera 0 is not there", "12", "10", "2", "1", "3.5 s ago", "bbbbbbbbbbbb"):
        assert fact in station
    verdicts = [line for line in lines if "anomalous" in line or ("invalid " in line and "torn" in line)]
    assert len(verdicts) == 3
    assert "torn" in verdicts[0]
    for fact in ("anomalous", "0.51234", "0.30000", "0.040", "87.7 ms", "SN-[41]"):
        assert fact in verdicts[1]
    assert "   9 " in verdicts[1]
    assert "   8 " in verdicts[2]


def test_a_refused_bank_is_shown_beside_what_the_source_says() -> None:
    status = STATUS | {"state": "running", "message": None, "refused_bank": "it is torn"}
    assert "running a new bank is refused: it is torn" in next(line for line in shown(status) if "press-3" in line)
    assert plain_line(status).endswith("  press-3       running: a new bank is refused: it is torn")
    both = plain_line(STATUS | {"refused_bank": "it is torn"})
    assert both.endswith("reconnecting: camera 0 is not there; a new bank is refused: it is torn")


def test_the_log_has_one_aligned_line_each() -> None:
    lines = [plain_line(VERDICT), plain_line(INVALID)]
    assert lines[0].index("score") == lines[1].index("score")
    assert lines[0].endswith(
        "press-3            41  anomalous  score  0.51234  threshold  0.30000  p  0.040    87.7 ms  SN-[41]"
    )
    assert lines[1].endswith("SN-[41]  torn")
    assert plain_line(STATUS).endswith("  press-3       reconnecting: camera 0 is not there")
