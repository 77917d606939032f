"""ONNX Runtime's settings for the CPU, one at a time against those of ``edge_uad.inference.backbones.onnx``, in turns.

    python -m benchmarks.sessions [--model FILE] [--beside nothing,program,inference] [--repeats 20] [--json FILE]

Three tables: nothing beside the inference; a program that keeps one core busy, and how much of its work it still gets
done; a second process that infers with the same settings, as a second daemon does. Each row is one setting changed;
ratios are of the fastest inferences, then of the medians. *sleeps* is how often a thread of this process waited in the
kernel during an inference: each time another one must wake it.
"""

import contextlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from ctypes import c_int64
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.report import Report, Table, options_of
from edge_uad.inference.backbones import open_backbone
from edge_uad.inference.backbones.files import INPUT_NAME, OUTPUT_NAMES
from edge_uad.inference.backbones.onnx import session_options
from edge_uad.inference.cpu_sessions import SPIN_DURATION, SPINNING, STOP_AFTER_RUN
from edge_uad.records import Float32
from export.default import provide_default_model

Change = Callable[[ort.SessionOptions], None]
OURS = "as edge-uad sets them"
BETWEEN_RUNS_S = 0.02
"""Between frames a line waits; threads that still spin then take it from the next row."""
NEIGHBOURS = {
    "nothing": "Nothing beside",
    "program": "A program that keeps one core busy beside",
    "inference": "A second process that infers with the same settings beside",
}


def entries(**values: str) -> Change:
    keys = {"spinning": SPINNING, "spin_us": SPIN_DURATION, "stop": STOP_AFTER_RUN}

    def change(options: ort.SessionOptions) -> None:
        for name, value in values.items():
            options.add_session_config_entry(keys[name], value)

    return change


THREADS: dict[str, Change] = {
    OURS: entries(),
    "threads sleep at once": entries(spinning="0"),
    **{f"threads spin {us} µs": entries(spinning="1", spin_us=str(us)) for us in (10, 20, 50, 100, 200, 1000)},
    "threads spin without a bound": entries(spinning="1", spin_us="-1", stop="0"),
    "1 thread": lambda options: setattr(options, "intra_op_num_threads", 1),
}
"""How threads wait: what matters to whatever runs beside, too."""
OTHERS: dict[str, Change] = {
    "2 threads": lambda options: setattr(options, "intra_op_num_threads", 2),
    "no arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    "not deterministic": lambda options: setattr(options, "use_deterministic_compute", False),
    "extended optimisation": lambda options: setattr(
        options, "graph_optimization_level", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ),
    "no prepacking": lambda options: options.add_session_config_entry("session.disable_prepacking", "1"),
    "blocks of a quarter": lambda options: options.add_session_config_entry("session.dynamic_block_base", "4"),
}


@dataclass(slots=True)
class Measured:
    """One row's inferences."""

    times_ms: list[float] = field(default_factory=list)
    work_hz: list[float] = field(default_factory=list)
    """The program beside, during each of them."""
    sleeps: list[int] = field(default_factory=list)


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--beside", default=",".join(NEIGHBOURS))
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    model = options.model or provide_default_model()
    card = open_backbone(model).card
    pixels = np.random.default_rng(0).standard_normal((1, 3, *card.input_hw), dtype=np.float32)
    report = Report(
        name="sessions",
        title="Settings of ONNX Runtime on the CPU",
        about=f"{card.backbone}, one image of {card.input_hw[1]}×{card.input_hw[0]} px, "
        f"{BETWEEN_RUNS_S * 1000:.0f} ms after the former one.",
    )
    report.facts = {"times_ms": {}, "work_hz": {}}
    for beside in options.beside.split(","):
        changes = THREADS | OTHERS if beside == "nothing" else THREADS
        runs = {name: plain_run(opened(model, change), pixels) for name, change in changes.items()}
        if beside == "nothing":
            runs["input and outputs bound once"] = bound_run(opened(model, changes[OURS]), pixels)
        with neighbour(beside, model, pixels) as (turn, work):
            found = timed(runs, 3 if options.quick else options.repeats, turn, work)
        with_work = beside == "program"
        columns = ["", "min ms", "median ms", "of min", "of median", "sleeps"]
        columns += ["program's work"] if with_work else []
        report.add(Table(NEIGHBOURS[beside], columns, rows_of(found, with_work=with_work)))
        report.facts["times_ms"][beside] = {name: one.times_ms for name, one in found.items()}
        report.facts["work_hz"][beside] = {name: one.work_hz for name, one in found.items()}
    report.close(options)
    return 0


def opened(model: Path, change: Change) -> ort.InferenceSession:
    ort.set_default_logger_severity(4)  # it would warn of each option that a row sets anew
    options = session_options(0)
    change(options)
    return ort.InferenceSession(model.read_bytes(), options, ["CPUExecutionProvider"])


def plain_run(session: ort.InferenceSession, pixels: Float32) -> Callable[[], object]:
    return lambda: session.run(OUTPUT_NAMES, {INPUT_NAME: pixels})


def bound_run(session: ort.InferenceSession, pixels: Float32) -> Callable[[], object]:
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT_NAME, ort.OrtValue.ortvalue_from_numpy(pixels))
    for name, made in zip(OUTPUT_NAMES, session.run(OUTPUT_NAMES, {INPUT_NAME: pixels}), strict=True):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(made))
    return lambda: session.run_with_iobinding(binding)


@contextlib.contextmanager
def neighbour(kind: str, model: Path, pixels: Float32) -> Iterator[tuple[Any, Any]]:
    """A process beside; yields which row's setting it uses (-1: it waits), and a counter of the work that it did."""
    turn, work = RawValue(c_int64, -1), RawValue(c_int64, 0)
    if kind == "nothing":
        yield turn, work
        return
    arguments = (model, pixels, turn, work) if kind == "inference" else (turn, work)
    target = infer if kind == "inference" else compute
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    while not work.value:  # until it is at work
        time.sleep(0.05)
    yield turn, work
    process.terminate()
    process.join()


def compute(turn: Any, work: Any) -> None:  # noqa: ARG001  # whatever is measured, it computes
    while True:
        for _ in range(1000):
            pass
        work.value += 1


def infer(model: Path, pixels: Float32, turn: Any, work: Any) -> None:
    runs = [plain_run(opened(model, change), pixels) for change in THREADS.values()]
    for run in runs:
        run()
    work.value = 1
    while True:
        if turn.value < 0:
            time.sleep(0.001)
        else:
            runs[turn.value]()
            work.value += 1


def timed(runs: Mapping[str, Callable[[], object]], repeats: int, turn: Any, work: Any) -> dict[str, Measured]:
    found = {name: Measured() for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for place, (name, run) in enumerate(runs.items()):
            turn.value = place
            time.sleep(BETWEEN_RUNS_S)
            done, slept, started_s = work.value, _sleeps(), time.perf_counter()
            run()
            elapsed_s = time.perf_counter() - started_s
            found[name].sleeps.append(_sleeps() - slept)
            found[name].times_ms.append(elapsed_s * 1e3)
            found[name].work_hz.append((work.value - done) / elapsed_s)
    turn.value = -1
    return found


def _sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def rows_of(found: Mapping[str, Measured], *, with_work: bool) -> list[tuple[str, ...]]:
    ours = found[OURS]
    return [
        (
            name,
            f"{min(one.times_ms):.1f}",
            f"{np.median(one.times_ms):.1f}",
            f"{min(one.times_ms) / min(ours.times_ms):.2f}",
            f"{np.median(one.times_ms) / np.median(ours.times_ms):.2f}",
            f"{np.median(one.sleeps):.0f}",
            *((f"{np.median(one.work_hz) / np.median(ours.work_hz):.2f}",) if with_work else ()),
        )
        for name, one in found.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
