"""``edge-uad watch``: a daemon's verdicts and station states as they are published."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.board import Board, plain_line
from edge_uad.cli.console import console, print_json, print_line, warn
from edge_uad.cli.options import ClientKeyOption, JsonOption, ServerKeyOption
from edge_uad.errors import EdgeUadError, FrameError
from edge_uad.net.endpoints import DEFAULT_VERDICT_ENDPOINT
from edge_uad.net.wire import MAX_IMAGE_BYTES, Json, check_header, decode_message

if TYPE_CHECKING:
    from edge_uad.net.keys import ClientKeys

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
    server_key: ServerKeyOption = None,
    client_key: ClientKeyOption = None,
) -> None:
    """Show verdicts and station states as they come.

    A table on a terminal, else one line each; with --json each message's header.

    Example: [bold]edge-uad watch --json --count 60[/bold]
    """
    from edge_uad.net.keys import load_client_keys

    messages = _messages(endpoint, timeout_s, load_client_keys(server_key, client_key))
    seen = 0
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(messages), _screen(endpoint, last, as_json) as show:
        for message in messages:
            show(message)
            seen += message is not None and "decision" in message
            if seen == count:
                return
    if count is not None:
        remedy = "is edge-uad serve running there?" + (" does it know this --client-key?" if client_key else "")
        raise EdgeUadError(f"{seen} of {count} verdicts came from {endpoint}; {remedy}")


class _PlainLines:
    """Every verdict, and every change of a station's state."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[object, ...]] = {}

    def __call__(self, message: Json | None) -> None:
        if message is None:
            return
        clock_s = round(message.get("sender_clock_offset_s") or 0.0)
        state = (message.get("state"), message.get("message"), message.get("refused_bank"), clock_s)
        station = str(message.get("station"))
        if "decision" not in message and self._printed.get(station) == state:
            return
        if "decision" not in message:
            self._printed[station] = state
        print_line(plain_line(message))


def _print_json(message: Json | None) -> None:
    if message is not None:
        print_json(message)


def _messages(endpoint: str, timeout_s: float | None, keys: "ClientKeys | None") -> Generator[Json | None]:
    """Headers as they come; None where none came for a moment."""
    import zmq

    from edge_uad.net.endpoints import connect
    from edge_uad.net.keys import use_client_keys

    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_IMAGE_BYTES)
        for topic in (b"verdict/", b"status/"):
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        use_client_keys(socket, keys)
        connect(socket, endpoint)
        while until_s is None or time.monotonic() < until_s:
            yield _header(socket.recv_multipart()) if socket.poll(POLL_MS) else None


def _header(parts: list[bytes]) -> Json | None:
    try:
        header = decode_message(parts)[1]
        check_header(header)
    except FrameError as error:
        warn(str(error))
        return None
    return header


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
