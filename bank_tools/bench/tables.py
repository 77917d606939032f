"""A bench's results as tables for people."""

from bank_tools.bench.results import BenchResult
from bank_tools.evaluation.results import ResultTable
from edge_uad.stages import PUBLISHING_STAGES

PICTURE_STAGES = frozenset(PUBLISHING_STAGES) - {"publish"}
"""Drawn and encoded in a background thread, which does not wait for a picture."""
THROUGHPUT_GOAL = 0.95
LATENCY_GOAL = 1.10


def tables_of(result: BenchResult) -> list[ResultTable]:
    """In reading order."""
    tables = [_stages(result), _line(result), _limit(result)]
    return [*tables, _settings(result)] if result.settings else tables


def _stages(result: BenchResult) -> ResultTable:
    whole = result.stages.whole
    rows = [
        (name, f"{one.median_ms:.2f}", f"{one.p99_ms:.2f}", _share(name, one.median_ms / whole.median_ms))
        for name, one in result.stages.stages.items()
    ]
    rows.append(("all, in turn", f"{whole.median_ms:.2f}", f"{whole.p99_ms:.2f}", "100.0%"))
    return ResultTable(
        "stages, one frame at a time, a heatmap drawn and sent of each",
        ("stage", "median ms", "p99 ms", "share"),
        tuple(rows),
    )


def _share(stage: str, ratio: float) -> str:
    return "beside" if stage in PICTURE_STAGES else f"{ratio:.1%}"


def _line(result: BenchResult) -> ResultTable:
    line = result.line
    latencies = {
        "capture to verdict heard": line.latency,
        "capture to verdict": line.verdict_latency,
        "backbone alone": line.bare,
    }
    rows = [(name, f"{one.median_ms:.2f} ms", f"{one.p99_ms:.2f} ms", "") for name, one in latencies.items()]
    latency = f"{line.latency_ratio:.3f} (goal {LATENCY_GOAL:.2f} at most)"
    rate = f"{line.throughput_ratio:.3f} (goal {THROUGHPUT_GOAL:.2f} at least)"
    peak = "not told" if line.peak_rss_mib is None else f"{line.peak_rss_mib:.0f} MiB"
    return ResultTable(
        "a daemon over its sockets, and the backbone alone, in turn",
        ("", "median", "p99", "line over backbone"),
        (
            (*rows[0][:3], latency),
            *rows[1:],
            ("rate, frames waiting", f"{line.line_hz:.2f} frames/s", "", rate),
            ("rate of the backbone alone", f"{line.bare_hz:.2f} frames/s", "", ""),
            ("peak memory of the daemon", peak, "", ""),
        ),
    )


def _limit(result: BenchResult) -> ResultTable:
    line, work = result.line, result.arithmetic
    rows = [
        _work("backbone alone", work.backbone, line.bare_hz, result.backbone_of_limit),
        _work("whole line", work.total, line.line_hz, result.line_of_limit),
        ("search, part of it", f"{work.search / 1e9:.2f}", "", ""),
    ]
    if line.product_hz is not None:
        rows.append(("matrix product", "", f"{line.product_hz / 1e9:.1f}", "100.0%"))
    return ResultTable(
        "arithmetic at full rate, beside a large float32 matrix product of numpy with the same threads, in turn",
        ("", "GFLOP a frame", "GFLOP/s", "of the product"),
        tuple(rows),
    )


def _work(name: str, flop: float, rate_hz: float, of_limit: float | None) -> tuple[str, str, str, str]:
    share = "-" if of_limit is None else f"{of_limit:.1%}"
    return name, f"{flop / 1e9:.2f}", f"{flop * rate_hz / 1e9:.1f}", share


def _settings(result: BenchResult) -> ResultTable:
    rows = tuple(
        (
            one.name,
            f"{one.rate_hz:.2f}",
            f"{one.rate_ratio:.3f}",
            f"{one.latency_ms:.1f}",
            f"{one.latency_ratio:.3f}",
            "-" if one.peak_rss_mib is None else f"{one.peak_rss_mib:.0f}",
        )
        for one in result.settings
    )
    columns = ("setting", "frames/s", "over default", "latency ms", "over default", "peak MiB")
    return ResultTable("each optional setting in turn with the default", columns, rows)
