"""Frames through the objects that a daemon runs, one after the other, each stage by the clock."""

import time
from collections import Counter

import numpy as np
import zmq

from bank_tools.bench.clock import StageClock, Timing
from bank_tools.bench.frames import decoded
from bank_tools.bench.line import line_content
from bank_tools.bench.results import WARM_UP_FRAMES, Asked, StageResult
from edge_uad.progress import Progress
from edge_uad.runtime.assemble import assemble_line
from edge_uad.runtime.settings import make_settings
from edge_uad.stages import PUBLISHING_STAGES, STAGES

STAGE_ORDER = ("decode", *STAGES, *PUBLISHING_STAGES)
PICTURE_PATIENCE_MS = 5000


def measure_stages(asked: Asked, progress: Progress) -> StageResult:
    """Frames through the objects that a daemon would run, and a picture of each published."""
    clock = StageClock()
    content = line_content(asked.model, asked.bank, **asked.settings)
    content["stations"][0]["source"] = f"ipc://{asked.folder}/in"
    content["publish"] = {"endpoint": f"ipc://{asked.folder}/out", "heatmap": "always"}
    settings = make_settings(content, name="edge-uad bench")
    (station,), sink, _ = assemble_line(settings, asked.model, on_stage=clock)
    inspector = station.inspector
    pictures = _Pictures(sink.endpoint)
    whole: list[float] = []
    foreground: list[float] = []
    decisions: Counter[str] = Counter()
    with progress.step("stages", asked.n_frames, "frames") as done:
        for index, message in enumerate(asked.frames.first(WARM_UP_FRAMES + asked.n_frames)):
            if index == WARM_UP_FRAMES:
                clock.clear()
            started_s = time.perf_counter()
            with clock.timed("decode"):
                frame = decoded(message, least_side_px=inspector.least_side_px)
            verdict = inspector.inspect(frame)
            with clock.timed("sink"):
                sink.publish(verdict, frame)
            took_s = time.perf_counter() - started_s
            if verdict.heatmap is not None:
                pictures.wait()
            if index >= WARM_UP_FRAMES:
                whole.append(took_s)
                foreground.append(verdict.foreground_ratio or 0.0)
                decisions[str(verdict.decision)] += 1
                done(1)
    pictures.close()
    sink.close()
    return StageResult(
        stages=_in_order(clock.stages),
        whole=Timing.of(whole),
        foreground_ratio=float(np.mean(foreground)),
        decisions=dict(decisions),
        n_bank=inspector.manifest.n_patches,
    )


class _Pictures:
    """A subscriber to heatmaps: the next frame must wait until nothing is drawn any more."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.subscribe("heatmap/")
        self._socket.connect(endpoint)

    def wait(self) -> None:
        """For one picture; of the first verdict's a new subscriber may hear nothing."""
        if self._socket.poll(PICTURE_PATIENCE_MS):
            self._socket.recv_multipart()

    def close(self) -> None:
        """Leave."""
        self._socket.close(linger=0)
        self._context.term()


def _in_order(stages: dict[str, Timing]) -> dict[str, Timing]:
    """In the frame's order. What the sink took as a whole is told only where its parts do not tell of themselves."""
    sink = stages.pop("sink")
    stages.setdefault("publish", sink)
    names = [name for name in STAGE_ORDER if name in stages]
    return {name: stages[name] for name in [*names, *(name for name in stages if name not in names)]}


def _nothing() -> None:
    pass
