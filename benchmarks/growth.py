"""Rate, latency and memory as a line grows: more stations, a larger bank, larger frames, a larger input.

    python -m benchmarks.growth

Each point is a separate daemon process that is sent the packaged picture's frames over its sockets.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from bank_tools.bench.clock import median_ratio, seconds_of
from bank_tools.bench.frames import EncodedFrames, bank_of, bank_of_size, decoded, packaged_frames
from bank_tools.bench.line import ServedLine, line_content
from bank_tools.report.charts import LineChart, Spread
from benchmarks.report import Report, Table, options_of, say
from edge_uad.errors import EdgeUadError
from edge_uad.inference.bank import PatchBank
from edge_uad.progress import SilentProgress
from edge_uad.runtime.assemble import load_inspector
from edge_uad.runtime.backbones import load_backbone
from export.default import provide_default_model
from export.variants import provide_variant

STATIONS = (1, 2, 4, 8, 16)
BANKS = (1_000, 3_000, 10_000, 30_000, 100_000)
FRAME_HW = ((240, 320), (480, 640), (960, 1280), (1920, 2560), (3000, 4000))
REDUCED = "*Reduced* is `build-bank --reduced-decode`; it takes effect where half the size is enough."
LARGER_INPUT_PX = 448
FRAMES = 16
LATENCY_FRAMES = 8
WARM_UP_FRAMES = 2


@dataclass(frozen=True)
class Point:
    """One line, measured."""

    rate_hz: float
    latency_ms: float
    peak_rss_mib: float | None


class Growth:
    """Starts lines, each in its own folder."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.frames: EncodedFrames = packaged_frames(8)
        self.n_frames = 4 if quick else FRAMES
        self.n_lines = 0

    def point(
        self,
        what: str,
        model: Path,
        bank: Path,
        *,
        n_stations: int = 1,
        max_batch: int = 1,
        frames: EncodedFrames | None = None,
    ) -> Point:
        """Start a line, measure it, stop it."""
        say(what)
        frames = frames or self.frames
        self.n_lines += 1
        content = line_content(model, bank, n_stations=n_stations, max_batch=max_batch)
        n = -(-self.n_frames // max_batch) * max_batch
        with ServedLine(content, self.folder / str(self.n_lines)) as line:
            for message in frames.first(WARM_UP_FRAMES):
                line.latency_s(message)
            rate_hz = line.rate_hz(frames.endless(), n)
            latencies_s = [line.latency_s(message)[0] for message in frames.first(LATENCY_FRAMES)]
            return Point(rate_hz, float(np.median(latencies_s)) * 1000, line.peak_rss_mib)

    def saved(self, bank: PatchBank, name: str) -> Path:
        """The bank as a file."""
        path = self.folder / f"{name}.safetensors"
        bank.save(path)
        return path


def main() -> int:
    options = options_of(__doc__).parse_args()
    report = Report(
        name="growth",
        title="Growth",
        about=(
            "Verdicts per second with frames waiting all the while (of 1280×960 px, where no other size is named), "
            "median latency of one frame alone, and the daemon's peak memory: each row a separate daemon "
            "process."
        ),
    )
    with tempfile.TemporaryDirectory(prefix="edge-uad-", dir="/tmp") as folder:
        growth = Growth(Path(folder), quick=options.quick)
        model = provide_default_model()
        bank = bank_of(growth.frames, load_backbone(model), SilentProgress())
        stations(growth, report, model, bank, STATIONS[:2] if options.quick else STATIONS)
        banks(growth, report, model, bank, (BANKS[0], BANKS[2]) if options.quick else BANKS)
        frame_sizes(growth, report, model, bank, FRAME_HW[:2] if options.quick else FRAME_HW)
        inputs(growth, report, model, bank, quick=options.quick)
    report.close(options)
    return 0


def stations(growth: Growth, report: Report, model: Path, bank: PatchBank, numbers: Sequence[int]) -> None:
    path = growth.saved(bank, "stations")
    points: dict[str, dict[int, Point]] = {"parallel frames": {}, "batched": {}}
    for n in numbers:
        points["parallel frames"][n] = growth.point(f"stations: {n}", model, path, n_stations=n)
        if n > 1:
            points["batched"][n] = growth.point(f"stations: {n}, batched", model, path, n_stations=n, max_batch=n)
    rows = [
        row(f"{n} stations" if n > 1 else "1 station", name, of[n])
        for n in numbers
        for name, of in points.items()
        if n in of
    ]
    report.add(Table("stations of one process", ("stations", "judged", *COLUMNS), rows))
    plot(report, "stations", points, numbers, x_label="stations", log_x=True)
    report.facts["stations"] = {name: {n: asdict(one) for n, one in of.items()} for name, of in points.items()}


def banks(growth: Growth, report: Report, model: Path, bank: PatchBank, sizes: Sequence[int]) -> None:
    points: dict[str, dict[int, Point]] = {"one station": {}}
    for size in sizes:
        path = growth.saved(bank_of_size(bank, size), f"bank{size}")
        points["one station"][size] = growth.point(f"bank of {size}", model, path)
        path.unlink()
    rows = [row(f"{size:,}", None, point) for size, point in points["one station"].items()]
    report.add(Table("patches in the bank", ("patches", *COLUMNS), rows))
    plot(report, "bank", points, sizes, x_label="patches in the bank", log_x=True)
    report.facts["bank"] = {size: asdict(point) for size, point in points["one station"].items()}


def frame_sizes(growth: Growth, report: Report, model: Path, bank: PatchBank, sizes: Sequence[tuple[int, int]]) -> None:
    """Frames of one scene by cameras of other resolutions: what decoding and scaling cost, at full size or reduced."""
    reduced = PatchBank.sealed(
        patches=bank.patches,
        patch_image=bank.patch_image,
        calibration=bank.calibration,
        manifest=replace(bank.manifest, reduced_decode=True),
    )
    paths = {"in full": growth.saved(bank, "full"), "reduced": growth.saved(reduced, "reduced")}
    rows = []
    report.facts["frames"] = {}
    for height, width in sizes:
        frames = packaged_frames(len(growth.frames.messages), hw=(height, width))
        kib = np.median([len(one.payload) for one in frames.messages]) / 1024
        for decoding, path in paths.items():
            point = growth.point(f"frames of {width}×{height}, decoded {decoding}", model, path, frames=frames)
            rows.append([f"{width}×{height}", f"{kib:.0f}", *row(decoding, None, point)])
            report.facts["frames"][f"{width}x{height} {decoding}"] = asdict(point)
    report.add(Table("size of a camera's frames, as JPEG", ("frame", "KiB", "decoded", *COLUMNS), rows, note=REDUCED))


def inputs(growth: Growth, report: Report, model: Path, bank: PatchBank, *, quick: bool) -> None:
    """The default model's input, and a larger one of the same weights."""
    models = {load_backbone(model).card.input_hw[0]: model}
    if not quick:
        try:
            larger = provide_variant(load_backbone(model).card, input_px=LARGER_INPUT_PX, console=Console(stderr=True))
            models[LARGER_INPUT_PX] = larger
        except EdgeUadError as error:
            say(f"no larger input: {error}")
    rows = []
    report.facts["input"] = {}
    for side_px, path in models.items():
        backbone = load_backbone(path)
        of_it = bank_of(growth.frames, backbone, SilentProgress())
        bank_path = growth.saved(bank_of_size(of_it, len(bank.patches)), f"input{side_px}")
        inspector = load_inspector(backbone, bank_path)
        pixels = inspector.pixels(decoded(growth.frames.messages[0]))[None]
        backbone.embed(pixels)
        alone_s = [seconds_of(lambda one=backbone, seen=pixels: one.embed(seen)) for _ in range(LATENCY_FRAMES)]
        point = growth.point(f"input of {side_px} px", path, bank_path)
        share = median_ratio(alone_s, [point.latency_ms / 1000] * len(alone_s))
        n_patches = backbone.card.grid_hw[0] * backbone.card.grid_hw[1]
        rows.append([f"{side_px} px", str(n_patches), *row("", None, point)[1:], f"{share:.1%}"])
        report.facts["input"][side_px] = asdict(point) | {"backbone_share_of_latency": share}
    columns = ("input", "patches", *COLUMNS, "backbone of latency")
    report.add(Table(f"side of the model's input, bank of {len(bank.patches):,}", columns, rows))


COLUMNS = ("frames/s", "latency ms", "peak MiB")


def row(label: str, second: str | None, point: Point) -> list[str]:
    peak = "-" if point.peak_rss_mib is None else f"{point.peak_rss_mib:.0f}"
    cells = [f"{point.rate_hz:.2f}", f"{point.latency_ms:.1f}", peak]
    return [label, *cells] if second is None else [label, second, *cells]


def plot(
    report: Report,
    name: str,
    points: Mapping[str, Mapping[int, Point]],
    x: Sequence[int],
    *,
    x_label: str,
    log_x: bool,
) -> None:
    """Rate and memory against x, a picture each."""
    quantities = {
        "rate": ("frames/s", lambda one: one.rate_hz),
        "memory": ("peak memory, MiB", lambda one: one.peak_rss_mib),
    }
    for quantity, (y_label, value_of) in quantities.items():
        series = {
            series_name: [Spread.of([value_of(of[at])]) if at in of else None for at in x]
            for series_name, of in points.items()
        }
        chart = LineChart(
            x=list(x),
            series=series,
            x_label=x_label,
            y_label=y_label,
            log_x=log_x,
            from_zero=True,
            title=f"{y_label} against {x_label}",
        )
        report.plot(f"growth-{name}-{quantity}.svg", chart)


if __name__ == "__main__":
    sys.exit(main())
