"""``edge-uad keys``: makes a pair of CURVE key files."""

from pathlib import Path
from typing import Annotated

import typer

from edge_uad.cli.console import note, print_line


def keys(
    folder: Annotated[Path, typer.Argument(help="Where the two files are written; created, private, if missing.")],
    *,
    name: Annotated[str, typer.Option("--name", help="The files' name: whose key it is.")] = "line",
) -> None:
    """Make a pair of CURVE key files: NAME.key to share, NAME.key_secret to keep (mode 0600).

    The daemon and every client each get their own pair. The daemon's config names its secret file and a folder with
    the clients' public files (curve: server_key, client_keys); a client names the daemon's public file and its own
    secret one (--server-key, --client-key).

    Example: [bold]edge-uad keys /etc/edge-uad/keys --name line[/bold]
    """
    from edge_uad.net.keys import write_key_pair

    public, secret = write_key_pair(folder, name)
    print_line(str(public))
    print_line(str(secret))
    note(f"share {public.name} with the other side; keep {secret.name} where only its owner can read it")
