"""ONNX Runtime's settings for the CPU, one at a time against those of ``edge_uad.inference.backbones.onnx``, in turns.

    python -m benchmarks.sessions [--busy] [--repeats 20] [--json FILE]

``--busy`` keeps one core busy meanwhile, as another station or a search does. Each row is one setting changed; the
ratio is of the fastest inferences, then of the medians.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from benchmarks.report import Report, Table, options_of
from edge_uad.inference.backbones import open_backbone
from edge_uad.inference.backbones.files import INPUT_NAME, OUTPUT_NAMES
from export.default import provide_default_model

Change = Callable[[ort.SessionOptions], None]
OURS = "as edge-uad sets them"
SPINNING = "session.intra_op.allow_spinning"


def spin(options: ort.SessionOptions) -> None:
    options.add_session_config_entry(SPINNING, "1")


CHANGES: dict[str, Change] = {
    OURS: lambda options: None,  # noqa: ARG005  # nothing is changed
    "threads spin": spin,
    "1 thread": lambda options: setattr(options, "intra_op_num_threads", 1),
    "2 threads": lambda options: setattr(options, "intra_op_num_threads", 2),
    "no arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    "not deterministic": lambda options: setattr(options, "use_deterministic_compute", False),
    "extended optimisation": lambda options: setattr(
        options, "graph_optimization_level", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ),
    "no prepacking": lambda options: options.add_session_config_entry("session.disable_prepacking", "1"),
}


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    model = provide_default_model()
    card = open_backbone(model).card
    pixels = np.random.default_rng(0).standard_normal((1, 3, *card.input_hw), dtype=np.float32)
    report = Report(
        name="sessions",
        title="Settings of ONNX Runtime on the CPU",
        about=f"{card.backbone}, one image of {card.input_hw[1]}×{card.input_hw[0]} px"
        + (", one core busy meanwhile." if options.busy else "."),
    )
    content = model.read_bytes()
    runs: dict[str, Callable[[], object]] = {
        name: plain_run(ort.InferenceSession(content, changed(change), ["CPUExecutionProvider"]), pixels)
        for name, change in CHANGES.items()
    }
    session = ort.InferenceSession(content, changed(CHANGES[OURS]), ["CPUExecutionProvider"])
    runs["input and outputs bound once"] = bound_run(session, pixels)
    neighbour = multiprocessing.Process(target=at_work, daemon=True)
    if options.busy:
        neighbour.start()
    times_ms = timed(runs, 3 if options.quick else options.repeats)
    if options.busy:
        neighbour.terminate()
        neighbour.join()
    report.add(Table("session settings", ("", "min ms", "median ms", "of min", "of median"), rows_of(times_ms)))
    report.facts = {"times_ms": times_ms, "busy": options.busy}
    report.close(options)
    return 0


def changed(change: Change) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    if change is not spin:
        options.add_session_config_entry(SPINNING, "0")
    change(options)
    return options


def plain_run(session: ort.InferenceSession, pixels: np.ndarray) -> Callable[[], object]:
    return lambda: session.run(OUTPUT_NAMES, {INPUT_NAME: pixels})


def bound_run(session: ort.InferenceSession, pixels: np.ndarray) -> Callable[[], object]:
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT_NAME, ort.OrtValue.ortvalue_from_numpy(pixels))
    for name, made in zip(OUTPUT_NAMES, session.run(OUTPUT_NAMES, {INPUT_NAME: pixels}), strict=True):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(made))
    return lambda: session.run_with_iobinding(binding)


def at_work() -> None:
    while True:
        pass


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            started_s = time.perf_counter()
            run()
            times_ms[name].append((time.perf_counter() - started_s) * 1e3)
    return times_ms


def rows_of(times_ms: dict[str, list[float]]) -> list[tuple[str, ...]]:
    ours = times_ms[OURS]
    return [
        (
            name,
            f"{min(found):.1f}",
            f"{np.median(found):.1f}",
            f"{min(found) / min(ours):.2f}",
            f"{np.median(found) / np.median(ours):.2f}",
        )
        for name, found in times_ms.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
