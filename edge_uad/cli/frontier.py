"""``edge-uad bench --frontier``: what a frame's time buys on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.console import TerminalProgress, note, print_json, print_line
from edge_uad.cli.measuring import print_tables, require_evaluate_extra
from edge_uad.cli.model import models_by_size
from edge_uad.errors import UsageError
from edge_uad.records import Provider, WantedPrecision

if TYPE_CHECKING:
    from bank_tools.bank.recipe import Recipe
    from bank_tools.bench.frames import EncodedFrames
    from bank_tools.bench.operating_points import OperatingPoint
    from bank_tools.evaluation.results import ResultTable
    from bank_tools.report.charts import LineChart
    from edge_uad.records import AnyFrame, ModelCard

JSON_SCHEMA = 1


def bench_frontier(
    frames: "EncodedFrames",
    model: Path,
    *,
    provider: Provider,
    precision: WantedPrecision,
    threads: int,
    chart: Path | None,
    as_json: bool,
) -> None:
    """Time a lone frame at each input size and precision, and print it beside the league's figures.

    Args:
        frames: whose pictures are judged.
        model: whose weights are meant.
        provider: cpu alone.
        precision: which ones to measure beside fp32.
        threads: of the CPU; 0 for one per core.
        chart: where the picture goes, an SVG; None for none.
        as_json: for machines.

    Raises:
        EdgeUadError: the model's weights are not at hand, or the provider is not the processor.
    """
    from bank_tools.bank.recipe import recipe_for
    from bank_tools.bench.frames import decoded
    from bank_tools.bench.machine import machine

    if provider != "cpu":
        raise UsageError("--frontier is measured on the processor; leave --provider out")
    if chart is not None:
        require_evaluate_extra("edge-uad bench --chart")
        if not chart.parent.is_dir():
            raise UsageError(f"no picture can be written to {chart}: there is no folder {chart.parent}")
    pictures = (decoded(message) for message in frames.messages)
    _, points = measured_points(
        model, lambda: next(pictures, None), recipe_for, provider=provider, precision=precision, threads=threads
    )
    if as_json:
        rows = [_row(point) for point in points]
        print_json({"schema": JSON_SCHEMA, "machine": machine(), "sets": list(_sets()), "points": rows})
    else:
        for label, value in machine().items():
            print_line(f"{label:<16}  {value}")
        print_tables([_table(points)])
    if chart is not None:
        from bank_tools.report.figures import svg_of

        chart.write_bytes(svg_of(_chart(points), background="white"))
        note(f"picture: {chart}")


def measured_points(
    model: Path,
    read: "Callable[[], AnyFrame | None]",
    recipe_of: "Callable[[ModelCard], Recipe]",
    *,
    provider: Provider,
    precision: WantedPrecision,
    threads: int,
) -> "tuple[dict[int, Path], list[OperatingPoint]]":
    """A model file for each input size, and what a frame alone takes in each of them and in each precision.

    Args:
        model: whose weights are meant.
        read: gives pictures to time with, one after the other, decoded; None after the last.
        recipe_of: the recipe by which a bank of a model would be made.
        provider: what runs the model.
        precision: which ones to measure beside fp32.
        threads: of the CPU; 0 for one per core.

    Raises:
        EdgeUadError: the model's weights are not at hand, or no picture can be read.
    """
    from bank_tools.bank.precision_trial import possible_precisions
    from bank_tools.bench.operating_points import SamplePictures, measure_points
    from edge_uad.runtime.backbones import load_backbone

    card = load_backbone(model).card
    models = models_by_size(model, card)
    points = measure_points(
        models,
        possible_precisions(card, precision, provider),
        SamplePictures.of(read),
        recipe_of,
        threads=threads,
        progress=TerminalProgress(),
    )
    return models, points


def _sets() -> tuple[str, ...]:
    from bank_tools.bench.league import league_of_inputs

    return league_of_inputs().sets


def _caught(point: "OperatingPoint", name: str) -> float | None:
    from bank_tools.bench.league import league_of_inputs

    return league_of_inputs().by_input_px.get(point.input_px, {}).get(name)


def _row(point: "OperatingPoint") -> dict[str, object]:
    return {
        "input_px": point.input_px,
        "precision": point.precision,
        "median_ms": point.timing.median_ms,
        "p99_ms": point.timing.p99_ms,
        "rate_hz": _rate_hz(point),
        "auroc": _caught(point, "auroc"),
        "recall_05": _caught(point, "recall_05"),
    }


def _table(points: "list[OperatingPoint]") -> "ResultTable":
    from bank_tools.evaluation.results import ResultTable

    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    rows = tuple(
        (
            f"{point.input_px} px, {point.precision}",
            f"{point.timing.median_ms:.1f}",
            f"{point.timing.p99_ms:.1f}",
            f"{_rate_hz(point):.1f}",
            figure(_caught(point, "auroc")),
            figure(_caught(point, "recall_05")),
        )
        for point in points
    )
    return ResultTable(
        f"one frame alone, and what its input size caught in fp32 on {len(_sets())} datasets",
        ("input", "median ms", "p99 ms", "frames/s", "AUROC", "recall at 5 %"),
        rows,
    )


def _chart(points: "list[OperatingPoint]") -> "LineChart":
    """Recall over rate, a line for each precision; a dashed line says which input size it is."""
    from bank_tools.report.charts import LineChart, Spread

    shown = {point: recall for point in points if (recall := _caught(point, "recall_05")) is not None}
    rates_hz = sorted({_rate_hz(point) for point in shown})
    series: dict[str, list[Spread | None]] = {point.precision: [None] * len(rates_hz) for point in shown}
    for point, recall in shown.items():
        series[point.precision][rates_hz.index(_rate_hz(point))] = Spread(recall, recall, recall)
    return LineChart(
        x=rates_hz,
        series=series,
        x_label="frames a second, one alone",
        y_label="recall at 5 % false alarms",
        round_ticks=True,
        references={f"{point.input_px} px": recall for point, recall in shown.items()},
    )


def _rate_hz(point: "OperatingPoint") -> float:
    return round(1000 / point.timing.median_ms, 2)
