"""sd_notify: READY, STATUS, WATCHDOG, STOPPING, in a datagram to the socket that systemd names."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from edge_uad.net.wire import valid_text

HEARD_WITHIN_S = 1.0
"""How long a message that is sent once waits for a busy manager; those that are repeated do not wait."""


class Notifier:
    """Reports the daemon's state to the service manager; does nothing where there is none.

    Args:
        environ: has ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``; the process's own by default.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._feed_every_ns = _feed_every_ns(environ)
        self._fed_at_ns: int | None = None
        self._status = ""

    def ready(self) -> None:
        """Start-up is over."""
        self._send("READY=1", patience_s=HEARD_WITHIN_S)

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent where it changed."""
        line = " ".join(text.split())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def progress(self) -> None:
        """A frame was judged or a time-out handled: feed the watchdog, four times per its interval at most."""
        if self._feed_every_ns is None:
            return
        now_ns = time.monotonic_ns()
        if self._fed_at_ns is None or now_ns - self._fed_at_ns >= self._feed_every_ns:
            self._fed_at_ns = now_ns
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1", patience_s=HEARD_WITHIN_S)

    def _send(self, message: str, patience_s: float = 0.0) -> None:
        if self._address is None:
            return
        # a manager that does not listen must not stop the line
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket:
            notify_socket.settimeout(patience_s)
            notify_socket.sendto(valid_text(message).encode(), self._address)


def _address(text: str) -> str | None:
    if text.startswith("@"):
        return "\0" + text[1:]  # the abstract namespace
    return text if text.startswith("/") else None


def _feed_every_ns(environ: Mapping[str, str]) -> int | None:
    interval_us, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not interval_us.isdecimal() or int(interval_us) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(interval_us) * 1000 // 4
