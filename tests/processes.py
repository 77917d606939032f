"""The project's programs as processes that run beside a test."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

PATIENCE_S = 60.0


class Running:
    """A program whose lines can be waited for; ended with the ``with`` block.

    Args:
        arguments: of ``python``.
        environ: replaces the environment where given.
    """

    def __init__(self, *arguments: object, environ: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if environ is None else dict(environ),
        )
        self._said = threading.Condition()
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._keep, args=(self._process.stdout, self.out)),
            threading.Thread(target=self._keep, args=(self._process.stderr, self.err)),
        ]
        for reader in self._readers:
            reader.start()

    @classmethod
    def edge_uad(cls, *arguments: object, environ: Mapping[str, str] | None = None) -> Self:
        """The command line."""
        return cls("-m", "edge_uad", *arguments, environ=environ)

    def _keep(self, stream, lines: list[str]) -> None:  # type: ignore[no-untyped-def]  # a pipe of text
        with stream:
            for line in stream:
                with self._said:
                    lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def wait_for(self, pattern: str, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """The first line, on stdout or stderr, that the pattern is found in."""

        def found() -> re.Match[str] | None:
            return next((match for line in [*self.out, *self.err] if (match := re.search(pattern, line))), None)

        with self._said:
            match = self._said.wait_for(lambda: found() or self._process.poll() is not None, timeout_s) and found()
        if not match:
            self._process.poll()
            raise AssertionError(f"{pattern!r} was not said (exit code {self._process.returncode}):\n{self.everything}")
        return match

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def ends(self, *, code: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait for the end and check the exit code."""
        found = self._process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        assert found == code, f"exit code {found}, {code} was expected:\n{self.everything}"

    @property
    def everything(self) -> str:
        """What was said so far."""
        return "\n".join([*self.out, "--", *self.err])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
