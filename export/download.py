"""One file from one address: resumed where it can be, bounded in size and silence, whole or not at all."""

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from edge_uad.errors import WeightsError

TIMEOUT_S = 20.0
"""For connecting, and for each silence of the server."""
MAX_BYTES = 2 * 2**30
ATTEMPTS = 4
"""Per call; each goes on where the one before was cut off."""
_CHUNK_BYTES = 256 * 1024
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416


class EncryptedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects over HTTP, but never from https to an address without it."""

    def redirect_request(  # noqa: PLR0917  # the base class's signature
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows, or None where the base class refuses it.

        Raises:
            URLError: the address may not be followed.
        """
        if urlsplit(newurl).scheme not in ({"https"} if req.type == "https" else {"https", "http"}):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class CutOffError(WeightsError):
    """The connection ended early; what came is kept, and the next attempt goes on from there."""


def download(url: str, part: Path, *, console: Console, timeout_s: float = TIMEOUT_S) -> None:
    """Fetch ``url`` into ``part``, going on from what an earlier call left there.

    What was left is continued where the server's ETag or date, kept beside it, is still the same; where the server
    sends neither, or another, the download starts anew.

    Args:
        url: http or https.
        part: complete when this returns; after an error it holds what came so far.
        console: where the progress is drawn.
        timeout_s: for connecting, and for each silence of the server.

    Raises:
        WeightsError: out of reach, refused, too large, or cut off again and again.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            _attempt(url, part, console, timeout_s)
        except CutOffError:
            # no further attempt at a server that sends nothing more
            if attempt == ATTEMPTS or _size(part) <= before:
                raise
        else:
            _validator_path(part).unlink(missing_ok=True)
            return


def _attempt(url: str, part: Path, console: Console, timeout_s: float) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "edge-uad", **_resume_headers(part)})  # noqa: S310  # the table's addresses are https
    try:
        with urllib.request.build_opener(EncryptedRedirects).open(request, timeout=timeout_s) as response:
            _receive(response, url, part, console)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise CutOffError(f"{url} no longer has what was begun; run the command again") from error
        raise WeightsError(f"{url} answers {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise WeightsError(f"{url} is out of reach ({error.reason})") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise CutOffError(f"{url} was cut off ({error or type(error).__name__}); run the command again") from error


def _resume_headers(part: Path) -> dict[str, str]:
    try:
        validator = _validator_path(part).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    size = _size(part)
    return {"Range": f"bytes={size}-", "If-Range": validator} if size else {}


def _receive(response: http.client.HTTPResponse, url: str, part: Path, console: Console) -> None:
    resumed = response.status == _PARTIAL_CONTENT
    start = _size(part) if resumed else 0
    if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        part.unlink()
        raise CutOffError(f"{url} answers with another part of the file than was requested; run the command again")
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None and length.isdigit() else None
    if total is not None and total > MAX_BYTES:
        raise WeightsError(f"{url} has {total} bytes, {MAX_BYTES} are allowed")
    if not resumed:
        _keep_validator(response, part)
    with part.open("ab" if resumed else "wb") as file, _progress(console) as progress:
        task = progress.add_task(part.stem, total=total, completed=start)
        received = start
        while chunk := response.read1(_CHUNK_BYTES):
            received += len(chunk)
            if received > MAX_BYTES:
                raise WeightsError(f"{url} has more than the {MAX_BYTES} bytes allowed")
            file.write(chunk)
            progress.advance(task, len(chunk))
    if total is not None and received < total:
        raise CutOffError(f"{url} was cut off after {received} of {total} bytes; run the command again")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def _keep_validator(response: http.client.HTTPResponse, part: Path) -> None:
    etag = response.headers.get("ETag")
    # a weak ETag promises the same meaning, not the same bytes
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    path = _validator_path(part)
    path.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    if validator and validator.isascii():
        path.write_text(validator, encoding="ascii")


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
