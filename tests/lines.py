"""A daemon over fakes, run in the test's thread or in one of its own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge_uad.inference.inspector import Inspector
from edge_uad.interfaces import FrameSource
from edge_uad.records import QueueMode, TriggerMode
from edge_uad.runtime.daemon import Daemon
from edge_uad.runtime.reload import BankReloader
from edge_uad.runtime.signals import Signals
from edge_uad.runtime.station import Station
from edge_uad.runtime.systemd import Notifier
from edge_uad.sources.capture import Backoff
from tests.fakes import FakeBackbone, RecordingSink, green_inspector

QUICK = Backoff(first_s=0.001, max_s=0.002)
PATIENCE_S = 20


class Line:
    """Stations named line, line2, … and their daemon, not running yet."""

    def __init__(
        self,
        *sources: FrameSource,
        mode: QueueMode = "every",
        backbone: FakeBackbone | None = None,
        notifier: Notifier | None = None,
        stop_timeout_s: float = PATIENCE_S,
        queue_frames: int = 8,
        sink: RecordingSink | None = None,
        inspector: Inspector | None = None,
        deadline_ms: float | Sequence[float | None] | None = None,
        bank: Path | None = None,
        banks: BankReloader | None = None,
        max_batch: int = 1,
        max_wait_ms: float = 0.0,
        parallel_frames: int = 1,
        trigger_mode: TriggerMode = "free_run",
        trigger_delay_ms: float = 0.0,
        on_demand: bool = False,
    ) -> None:
        names = ["line", *(f"line{number}" for number in range(2, len(sources) + 1))]
        deadlines_ms = deadline_ms if isinstance(deadline_ms, Sequence) else [deadline_ms] * len(sources)
        self.stop = Signals()
        self.sink = sink or RecordingSink()
        self.stations = [
            Station(
                name=name,
                source=source,
                inspector=inspector or green_inspector(backbone),
                mode=mode,
                queue_frames=queue_frames,
                backoff=QUICK,
                deadline_ms=one_deadline_ms,
                bank=bank,
                trigger_mode=trigger_mode,
                trigger_delay_ms=trigger_delay_ms,
                on_demand=on_demand,
            )
            for name, source, one_deadline_ms in zip(names, sources, deadlines_ms, strict=True)
        ]
        self.daemon = Daemon(
            stations=self.stations,
            sink=self.sink,
            stop=self.stop,
            notifier=notifier or Notifier({}),
            banks=banks,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            parallel_frames=parallel_frames,
            stop_timeout_s=stop_timeout_s,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run beside the test; at the end the daemon must have stopped with exit code 0."""
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(self.daemon.run()))
        thread.start()
        try:
            yield
        finally:
            if not self.stop.requested:
                self.stop.handle()
            thread.join(PATIENCE_S)
        assert codes == [0]
