"""``edge-uad watch``: what a daemon says, live."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Annotated

import typer

from edge_uad.cli.board import Board, plain_line
from edge_uad.cli.console import console, warn
from edge_uad.cli.options import JsonOption
from edge_uad.endpoints import DEFAULT_VERDICT_ENDPOINT
from edge_uad.errors import EdgeUadError, FrameError
from edge_uad.wire import MAX_IMAGE_BYTES, Json, decode_message

POLL_MS = 200
REDRAWS_HZ = 8
RECEIVE_QUEUE_MESSAGES = 10_000

Show = Callable[[Json | None], None]


def watch(
    endpoint: Annotated[str, typer.Argument(help="Where the daemon publishes.")] = DEFAULT_VERDICT_ENDPOINT,
    *,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many verdicts.")] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", min=0, help="Stop after so many seconds; an error if --count is not met."),
    ] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=200, help="Verdicts shown in the table.")] = 15,
    as_json: JsonOption = False,
) -> None:
    """Show verdicts and station states as they come.

    A table on a terminal, else one line each; with --json each message's header.

    Example: [bold]edge-uad watch --json --count 60[/bold]
    """
    messages = _messages(endpoint, timeout_s)
    seen = 0
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(messages), _screen(endpoint, last, as_json) as show:
        for message in messages:
            show(message)
            seen += message is not None and "decision" in message
            if seen == count:
                return
    if count is not None:
        raise EdgeUadError(f"{seen} of {count} verdicts came from {endpoint}; is edge-uad serve running there?")


class _PlainLines:
    """Every verdict, and every change of a station's state."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[object, object]] = {}

    def __call__(self, message: Json | None) -> None:
        if message is None:
            return
        standing = (message.get("state"), message.get("message"))
        station = str(message.get("station"))
        if "decision" not in message and self._told.get(station) == standing:
            return
        if "decision" not in message:
            self._told[station] = standing
        _print_line(plain_line(message))


def _print_json(message: Json | None) -> None:
    if message is not None:
        _print_line(json.dumps(message, ensure_ascii=False))


def _print_line(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def _messages(endpoint: str, timeout_s: float | None) -> Generator[Json | None]:
    """Headers as they come; None where none came for a moment."""
    import zmq

    from edge_uad.endpoints import split_endpoint

    split_endpoint(endpoint)
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_IMAGE_BYTES)
        for topic in (b"verdict/", b"status/"):
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.connect(endpoint)
        while until_s is None or time.monotonic() < until_s:
            yield _header(socket.recv_multipart()) if socket.poll(POLL_MS) else None


def _header(parts: list[bytes]) -> Json | None:
    try:
        return decode_message(parts)[1]
    except FrameError as error:
        warn(str(error))
        return None


@contextlib.contextmanager
def _screen(endpoint: str, last: int, as_json: bool) -> Iterator[Show]:
    if as_json:
        yield _print_json
    elif not console.is_terminal:
        yield _PlainLines()
    else:
        from rich.live import Live

        board = Board(endpoint, last)
        with Live(get_renderable=board.render, console=console, refresh_per_second=REDRAWS_HZ):
            yield board.show
