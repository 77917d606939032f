"""``edge-uad bench`` without frames, bank or model named, as a part of docs/performance.md.

python -m benchmarks.line
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

from bank_tools.bench.frames import packaged_frames, saved_bank_of
from bank_tools.bench.results import LATENCY_GOAL, THROUGHPUT_GOAL, BenchOptions, tables_of
from bank_tools.bench.run import run_bench
from benchmarks.report import Report, Table, options_of
from edge_uad.cli.console import TerminalProgress
from edge_uad.runtime.backbones import load_backbone
from export.default import provide_default_model

N_FRAMES, QUICK_FRAMES = 200, 8


def main() -> int:
    options = options_of(__doc__).parse_args()
    report = Report(name="line", title="One line, stage by stage", about="")
    model = provide_default_model()
    backbone = load_backbone(model)
    card = backbone.card
    frames = packaged_frames()
    progress = TerminalProgress()
    with tempfile.TemporaryDirectory(prefix="edge-uad-", dir="/tmp") as folder:
        bench = BenchOptions(
            model=model,
            bank=saved_bank_of(frames, backbone, Path(folder), progress),
            frames=frames,
            n_frames=QUICK_FRAMES if options.quick else N_FRAMES,
            batches=(2, 4),
            live=(3,),
            folder=Path(folder),
        )
        result = run_bench(bench, progress)
    report.about = (
        f"Model {card.backbone}, {card.input_hw[1]}×{card.input_hw[0]} px, {card.precision}; {result.frames}; "
        f"bank of {result.stages.n_bank:,} patches, {result.stages.foreground_ratio:.0%} of a frame's patches are "
        "foreground. `edge-uad bench` prints the same for your own frames, bank and model."
    )
    for table in tables_of(result):
        report.add(Table(table.title, table.columns, table.rows))
    report.facts = dataclasses.asdict(result) | {
        "goals": {
            "rate of the line over the bare backbone's": [result.line.throughput_ratio, ">=", THROUGHPUT_GOAL],
            "median latency of the line over the bare backbone's": [result.line.latency_ratio, "<=", LATENCY_GOAL],
        },
        "backbone_of_limit": result.backbone_of_limit,
        "line_of_limit": result.line_of_limit,
    }
    report.close(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
