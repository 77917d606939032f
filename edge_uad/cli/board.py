"""What ``watch`` prints: live tables on a terminal, lines elsewhere."""

import time
from collections import deque
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_uad.cli.console import DECISION_STYLES, printable
from edge_uad.net.wire import Json

STATE_STYLES = {"running": "green", "ended": "cyan", "reconnecting": "bold yellow", "silent": "bold red"}
SILENT_AFTER_S = 3.0
"""A daemon publishes its state every second; after so long without one it is shown as silent."""

CLOCK_OFFSET_SHOWN_S = 0.5
"""A sender's clock that differs by less is not remarked on: frames take time to arrive, too."""


class Board:
    """The stations and the last verdicts.

    Args:
        endpoint: shown as the title.
        last: verdicts to keep.
    """

    def __init__(self, endpoint: str, last: int) -> None:
        self._endpoint = endpoint
        self._stations: dict[str, tuple[Json, float]] = {}
        self._verdicts: deque[Json] = deque(maxlen=last)

    def show(self, message: Json | None) -> None:
        """Add a verdict or a station's state; None changes nothing."""
        if message is None:
            return
        if "decision" in message:
            self._verdicts.appendleft(message)
        elif "state" in message:
            self._stations[str(message.get("station"))] = (message, time.monotonic())

    def render(self) -> RenderableType:
        """Both tables, or what is waited for while nothing came."""
        if not self._stations and not self._verdicts:
            return _text(f"waiting for a daemon at {self._endpoint} …", style="dim")
        return Group(self._station_table(), self._verdict_table())

    def _station_table(self) -> Table:
        table = Table(title=_text(self._endpoint), title_justify="left", expand=True)
        table.add_column("station", no_wrap=True)
        table.add_column("state")
        for name in ("seen", "judged", "dropped", "invalid", "last frame"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("bank", no_wrap=True)
        for station, (status, heard_s) in sorted(self._stations.items()):
            silent_s = time.monotonic() - heard_s
            state = "silent" if silent_s > SILENT_AFTER_S else str(status.get("state"))
            message = f"for {silent_s:.0f} s" if state == "silent" else _remarks(status)
            counts = [_text(str(status.get(name, "-"))) for name in ("frames_seen", "judged", "dropped", "invalid")]
            age_s = status.get("last_frame_age_s")
            table.add_row(
                _text(station),
                _text(f"{state} {message}".strip(), style=STATE_STYLES.get(state, "")),
                *counts,
                "-" if age_s is None else f"{age_s:.1f} s ago",
                _text(str(status.get("bank_id", ""))[:12]),
            )
        return table

    def _verdict_table(self) -> Table:
        table = Table(expand=True)
        table.add_column("captured", no_wrap=True)
        table.add_column("station", no_wrap=True)
        table.add_column("frame", justify="right", no_wrap=True)
        table.add_column("decision", no_wrap=True)
        for name in ("score", "threshold", "p", "latency"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("part or reason", overflow="ellipsis")
        for verdict in self._verdicts:
            decision, *numbers = _facts(verdict)
            table.add_row(
                _clock(verdict),
                _text(str(verdict.get("station"))),
                _text(str(verdict.get("frame_id"))),
                _text(decision, style=DECISION_STYLES.get(decision, "")),
                *numbers,
                _text(_part(verdict)),
            )
        return table


def plain_line(message: Json) -> str:
    """One line, for a log."""
    station = str(message.get("station"))
    if "decision" in message:
        decision, score, threshold, p_value, latency = _facts(message)
        return (
            f"{_clock(message)}  {station:<12}  {message.get('frame_id'):>7}  {decision:<9}  "
            f"score {score:>8}  threshold {threshold:>8}  p {p_value:>6}  {latency:>9}  {_part(message)}"
        ).rstrip()
    detail = f": {remarks}" if (remarks := _remarks(message)) else ""
    return f"{datetime.now().astimezone():%H:%M:%S.%f}"[:12] + f"  {station:<12}  {message.get('state')}{detail}"


def _text(text: str, style: str = "") -> Text:
    """A cell that is shown as it is: what came over the network is neither markup nor a terminal's command."""
    return Text(printable(text), style=style)


def _remarks(status: Json) -> str:
    """The source's message, why a new bank was refused, a sender's clock that is wrong."""
    refused = status.get("refused_bank")
    remarks = (
        status.get("message"),
        f"a new bank is refused: {refused}" if refused else None,
        _clock_remark(status.get("sender_clock_offset_s")),
    )
    return "; ".join(str(one) for one in remarks if one)


def _clock_remark(offset_s: float | None) -> str | None:
    if offset_s is None or abs(offset_s) < CLOCK_OFFSET_SHOWN_S:
        return None
    return f"the sender's clock is {abs(offset_s):.1f} s {'ahead' if offset_s > 0 else 'behind'}"


def _facts(verdict: Json) -> tuple[str, str, str, str, str]:
    def shown(key: str, pattern: str) -> str:
        value = verdict.get(key)
        return "-" if value is None else format(value, pattern)

    return (
        str(verdict.get("decision")),
        shown("score", ".5f"),
        shown("threshold", ".5f"),
        shown("p_value", ".3f"),
        shown("latency_ms", ".1f") + " ms",
    )


def _part(verdict: Json) -> str:
    return "  ".join(str(verdict[key]) for key in ("part_id", "reason") if verdict.get(key))


def _clock(verdict: Json) -> str:
    at_s = verdict.get("captured_at_ns", 0) / 1e9
    return f"{datetime.fromtimestamp(at_s).astimezone():%H:%M:%S.%f}"[:12]
