"""A choice among settings as a table and a sentence for people and as JSON for machines."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bank_tools.datasets.records import Sample
from bank_tools.datasets.wording import counted
from bank_tools.evaluation.distance_table import content_digest
from bank_tools.evaluation.results import RESULTS_SCHEMA, ResultTable, package_versions
from bank_tools.evaluation.step_cache import digest_of, write_result
from bank_tools.evaluation.tuning.evidence import COVERAGE, Estimate, Evidence, Gain, Interval, Standing
from bank_tools.evaluation.tuning.measure import Measured, Tried
from bank_tools.metrics.image import ABSENT, show
from edge_uad import __version__

TUNE = "tune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A finished choice."""

    measured: Measured
    evidence: Evidence
    commands: tuple[str, ...]
    """That build a bank with the chosen settings."""
    settings: Mapping[str, object]

    @property
    def chosen(self) -> Tried:
        """The candidate to build with."""
        return self.measured.tried[self.evidence.chosen]

    @property
    def rows(self) -> list[tuple[Tried, Standing]]:
        """Each candidate with its figures, the default first."""
        return list(zip(self.measured.tried, self.evidence.standings, strict=True))


def tuning_table(tuning: Tuning) -> ResultTable:
    """A row for each candidate, the default first, the chosen one marked."""
    evidence = tuning.evidence
    rows = [
        (
            tried.candidate.name + (" *" if tried is tuning.chosen else ""),
            f"{tried.bpm_threshold:g}" if tried.bpm_threshold else "none",
            show(standing.auroc.value),
            _range(standing.auroc.interval),
            show(standing.recall.value, 3),
            _range(standing.recall.interval),
            *_gain_cells(standing.gain),
        )
        for tried, standing in tuning.rows
    ]
    own, of_gain = percent(COVERAGE), percent(evidence.gain_coverage)
    columns = (
        "candidate", "mask", "AUROC", f"{own} interval", "recall", f"{own} interval", "AUROC gain",
        f"{of_gain} interval", "recall gain", f"{of_gain} interval", "better in",
    )  # fmt: skip
    return ResultTable("Candidates (* chosen)", columns, tuple(rows))


def sentence_of(tuning: Tuning) -> str:
    """The decision with its reason."""
    evidence, measured = tuning.evidence, tuning.measured
    asked = f"of {counted(range(evidence.n_draws), 'draw')}, {percent(evidence.needed_share)} are asked for"
    n_rejects = counted(range(len(measured.tried[0].scores.rejects)), "reject")
    if evidence.nearest is None:
        return "The default stays: there is no other candidate to compare it with."
    nearest = measured.tried[evidence.nearest].candidate.name
    gain = evidence.standings[evidence.nearest].gain
    share = 0.0 if gain is None else gain.share
    if not share:
        return f"The default stays: no other candidate is better on {n_rejects} in any {asked}."
    if evidence.chosen:
        return f"{nearest} replaces the default: it is better in {percent(share)} {asked}, from {n_rejects}."
    return (
        f"The default stays: the evidence of {n_rejects} for another candidate is thin; {nearest} comes nearest, "
        f"better in {percent(share)} {asked}."
    )


def tuning_json(tuning: Tuning) -> dict[str, Any]:
    """Every number, unrounded; a score that is null is of a part that cannot be judged."""
    measured, evidence = tuning.measured, tuning.evidence
    return {
        "schema": RESULTS_SCHEMA,
        "edge_uad": __version__,
        "packages": package_versions(),
        "task": TUNE,
        "settings": dict(tuning.settings),
        "good": _parts_json(measured.good),
        "rejects": _parts_json(measured.rejects),
        "n_draws": evidence.n_draws,
        "needed_share": evidence.needed_share,
        "chosen": tuning.chosen.candidate.name,
        "decision": sentence_of(tuning),
        "commands": list(tuning.commands),
        "candidates": [_candidate_json(tried, standing) for tried, standing in tuning.rows],
        "left_out": [{"name": one.candidate.name, "reason": one.reason} for one in measured.left_out],
        "warnings": list(measured.warnings),
    }


def write_tuning(tuning: Tuning, path: Path) -> None:
    """``results.json``: the same for the same inputs.

    Raises:
        UsageError: it cannot be written.
    """
    text = json.dumps(tuning_json(tuning), indent=1, sort_keys=True, default=str, allow_nan=False)
    write_result(path, (text + "\n").encode())


def percent(share: float) -> str:
    """``95 %``, ``99.64 %``: never rounded up to 100."""
    return f"{math.floor(share * 10_000 + 1e-6) / 100:g} %"


def _gain_cells(gain: Gain | None) -> tuple[str, ...]:
    if gain is None:
        return (ABSENT,) * 5
    return (
        f"{gain.auroc.value:+.4f}",
        _range(gain.auroc.interval, signed=True),
        f"{gain.recall.value:+.3f}",
        _range(gain.recall.interval, signed=True),
        percent(gain.share),
    )


def _range(interval: Interval, *, signed: bool = False) -> str:
    low, high = (f"{end:+.3f}" if signed else f"{end:.3f}" for end in interval)
    return f"{low} to {high}"


def _parts_json(samples: Sequence[Sample]) -> dict[str, object]:
    return {"names": [one.name for one in samples], "digest": digest_of([content_digest(one) for one in samples])}


def _candidate_json(tried: Tried, standing: Standing) -> dict[str, Any]:
    gain = standing.gain
    return {
        "name": tried.candidate.name,
        "changes": dict(tried.candidate.point.changes),
        "model_id": tried.model_id,
        "n_patches": tried.n_patches,
        "bpm_threshold": tried.bpm_threshold,
        "top_ratio": tried.top_ratio,
        "threshold": finite(standing.threshold),
        "auroc": _estimate_json(standing.auroc),
        "recall": _estimate_json(standing.recall),
        "gain": None
        if gain is None
        else {
            "auroc": _estimate_json(gain.auroc),
            "recall": _estimate_json(gain.recall),
            "auroc_share": gain.auroc_share,
            "recall_share": gain.recall_share,
            "better": gain.better,
        },
        "good_scores": [finite(score) for score in tried.scores.good.tolist()],
        "reject_scores": [finite(score) for score in tried.scores.rejects.tolist()],
    }


def _estimate_json(one: Estimate) -> dict[str, float]:
    return {"value": one.value, "low": one.interval.low, "high": one.interval.high}


def finite(value: float) -> float | None:
    """None for infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
