"""``edge-uad send``: sends images to a daemon as frames, to try a line without a camera."""

import time
from typing import Annotated

import typer

from edge_uad.cli.console import TerminalProgress, note
from edge_uad.cli.options import ClientKeyOption, ServerKeyOption
from edge_uad.errors import UsageError
from edge_uad.net.endpoints import DEFAULT_FRAME_ENDPOINT
from edge_uad.net.wire import DEFAULT_STATION, MAX_STATION_CHARS


def send(
    images: Annotated[list[str], typer.Argument(help="Images, folders or quoted globs.")],
    *,
    to: Annotated[str, typer.Option("--to", help="Where a daemon takes frames.")] = DEFAULT_FRAME_ENDPOINT,
    rate_hz: Annotated[
        float | None,
        typer.Option("--rate", min=0.001, help="Frames per second.", show_default="as fast as they are taken"),
    ] = None,
    station: Annotated[str, typer.Option("--station", help="The station they are for.")] = DEFAULT_STATION,
    encoding: Annotated[
        str, typer.Option("--encoding", help="as-is (JPEG and PNG untouched, others as PNG), jpeg, png or rgb8.")
    ] = "as-is",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="How long a daemon may take to accept a frame.")
    ] = 30.0,
    server_key: ServerKeyOption = None,
    client_key: ClientKeyOption = None,
) -> None:
    """Send images to a daemon as if a camera had taken them.

    A file that holds no picture is sent as it is; its verdict is invalid.

    Example: [bold]edge-uad send parts/ --to tcp://127.0.0.1:5560 --rate 10[/bold]
    """
    from edge_uad.net.keys import load_client_keys
    from edge_uad.sources.folder import image_files, part_name, root_of
    from edge_uad.sources.sender import SEND_ENCODINGS, FrameSender, frame_message

    if encoding not in SEND_ENCODINGS:
        raise UsageError(f"--encoding is {encoding!r}; one of {', '.join(SEND_ENCODINGS)} was expected")
    if not 0 < len(station) <= MAX_STATION_CHARS:
        raise UsageError(f"--station has {len(station)} characters; 1 to {MAX_STATION_CHARS} are allowed")
    keys = load_client_keys(server_key, client_key)
    files = [(file, root_of(named)) for named in images for file in image_files(named)]
    started_s = time.monotonic()
    with FrameSender(to, keys=keys) as sender, TerminalProgress().step("sending", len(files), "frames") as done:
        for frame_id, (file, root) in enumerate(files):
            if rate_hz is not None:
                _sleep_until(started_s + frame_id / rate_hz)
            part_id = part_name(file, root)
            message = frame_message(file, station=station, frame_id=frame_id, part_id=part_id, encoding=encoding)
            sender.send(message, timeout_s=timeout_s)
            done(1)
        sender.flush(timeout_s)
    elapsed_s = time.monotonic() - started_s
    note(f"{len(files)} frames sent to {to} in {elapsed_s:.1f} s")


def _sleep_until(mono_s: float) -> None:
    time.sleep(max(mono_s - time.monotonic(), 0))
