"""A choice among settings as one page: the decision, the intervals, every score, and the rejects with their heat."""

import math
from pathlib import Path

import numpy as np

from bank_tools.datasets import Sample
from bank_tools.datasets.wording import counted
from bank_tools.evaluation.distance_table import decision_of, distances_of
from bank_tools.evaluation.step_cache import write_result
from bank_tools.evaluation.tuning.evidence import LEVEL, Estimate, Standing
from bank_tools.evaluation.tuning.measure import Tried
from bank_tools.evaluation.tuning.results import Tuning, percent, sentence_of, tuning_table
from bank_tools.report.charts import Intervals, Spread, Strips
from bank_tools.report.evaluation import heat_jpeg
from bank_tools.report.page import Charts, Facts, Gallery, Notices, Picture, Section, Table, page

STRIPS_NOTE = (
    "Each tick is one part; its score is divided by the candidate's threshold, the dashed line. Good parts were scored "
    "against banks of the other folds' good parts, rejects against the same banks, each by the mean over them. Parts "
    "that a candidate cannot judge are not drawn; a line rejects them."
)
SHOWN_REJECTS = 24
"""The lowest over the default's threshold first: those that are hardest to catch."""


def write_tuning_report(tuning: Tuning, path: Path) -> None:
    """Write the page.

    Raises:
        UsageError: it cannot be written.
    """
    measured, evidence = tuning.measured, tuning.evidence
    table = tuning_table(tuning)
    sections = [
        Section("Decision", [Notices([sentence_of(tuning)])]),
        Section("To build the bank", [Notices(tuning.commands)]),
        Section(table.title, [Table(table.columns, table.rows)], _table_note(tuning)),
    ]
    if len(measured.tried) > 1:
        sections.append(Section("Gains over the default", [Charts(_gain_charts(tuning))], _gain_note(tuning)))
    sections.append(Section("Scores", [Charts([_strips(tuning)])], STRIPS_NOTE))
    sections += _galleries(tuning)
    facts = {
        **tuning.settings,
        **{f"candidate {one.candidate.name}": one.candidate.settings for one in measured.tried},
        **{f"left out: {one.candidate.name}": one.reason for one in measured.left_out},
    }
    sections.append(Section("Settings", [Facts({name.replace("_", " "): value for name, value in facts.items()})]))
    if measured.warnings:
        sections.append(Section("Warnings", [Notices(measured.warnings)]))
    lead = (
        f"{counted(measured.tried, 'candidate')} on {counted(measured.good, 'good part')} and "
        f"{counted(measured.rejects, 'reject')}; {counted(range(evidence.n_draws), 'draw')}"
    )
    write_result(path, page("Tuning", lead, sections))


def _table_note(tuning: Tuning) -> str:
    return (
        "mask: as it was told, or decided from the good parts. "
        "AUROC between rejects and good parts; recall: share of the rejects above the threshold for a false-alarm rate "
        f"of {tuning.settings['false_alarm_rate']}. Intervals are percentiles of {tuning.evidence.n_draws} draws, with "
        "replacement, of rejects and good parts; the banks were not learned anew in them. better in: the share of the "
        "draws in which the AUROC is above the default's, or the recall where that is higher and the AUROC is no lower."
    )


def _gain_note(tuning: Tuning) -> str:
    evidence = tuning.evidence
    others = evidence.standings[1:]
    return (
        f"A candidate replaces the default where it is better in {percent(evidence.needed_share)} of the draws, which "
        f"is when an interval lies to the right of 0: {percent(1 - LEVEL)}, corrected (Bonferroni) for AUROC and "
        f"recall of {counted(others, 'candidate')}. All candidates are drawn the same parts, and among the "
        "rejects one that nobody has seen, on which they are equal: few rejects look more alike than those to come."
    )


def _gain_charts(tuning: Tuning) -> list[Intervals]:
    gains = [(tried.candidate.name, standing.gain) for tried, standing in tuning.rows if standing.gain is not None]
    return [
        Intervals(rows=[(name, _spread(gain.auroc), gain.better) for name, gain in gains], x_label="AUROC gain"),
        Intervals(rows=[(name, _spread(gain.recall), gain.better) for name, gain in gains], x_label="recall gain"),
    ]


def _spread(one: Estimate) -> Spread:
    return Spread(one.value, *one.interval)


def _strips(tuning: Tuning) -> Strips:
    rows = []
    for tried, standing in tuning.rows:
        for group, scores in (("good", tried.scores.good), ("rejects", tried.scores.rejects)):
            unit = _unit(standing)
            drawn = (scores[np.isfinite(scores)] / unit).tolist() if unit else []
            rows.append((tried.candidate.name if group == "good" else "", group, drawn))
    return Strips(rows=rows, x_label="score over the threshold")


def _unit(standing: Standing) -> float:
    """The threshold; 0 where it cannot be divided by."""
    return standing.threshold if math.isfinite(standing.threshold) else 0.0


def _galleries(tuning: Tuning) -> list[Section]:
    """The same rejects under the default and the chosen candidate, or the one that comes nearest."""
    evidence, rows = tuning.evidence, tuning.rows
    default, standing = rows[0]
    hardest_first = np.argsort(default.scores.rejects, kind="stable")[:SHOWN_REJECTS].tolist()
    sections = [_gallery("default", default, standing, tuning, hardest_first)]
    if evidence.nearest is not None:
        other, its_standing = rows[evidence.nearest]
        role = "chosen" if evidence.chosen else "not chosen, but nearest to it"
        sections.append(_gallery(f"{other.candidate.name} ({role})", other, its_standing, tuning, hardest_first))
    return sections


def _gallery(name: str, tried: Tried, standing: Standing, tuning: Tuning, shown: list[int]) -> Section:
    rejects = tuning.measured.rejects
    drawn = [_picture(rejects[index], index, tried, standing) for index in shown]
    pictures = [picture for picture in drawn if picture is not None]
    n_gone = len(drawn) - len(pictures)
    note = "Heat against the bank of all good parts, as a line would draw it; the lowest scores of the default first."
    if len(shown) < len(rejects):
        note += f" {len(shown)} of {len(rejects)} are shown."
    if n_gone:
        note += f" {n_gone} could not be read again."
    return Section(f"Rejects: {name}", [Gallery(pictures)], note)


def _picture(sample: Sample, index: int, tried: Tried, standing: Standing) -> Picture | None:
    score = float(tried.scores.rejects[index])
    threshold = _unit(standing)
    jpeg = heat_jpeg(
        sample,
        distances_of(tried.distances[index], tried.grid_hw),
        anchor=standing.threshold,
        preprocessor=tried.preprocessor,
        input_hw=tried.input_hw,
    )
    if jpeg is None:
        return None
    if reason := tried.reasons[index]:
        return Picture(jpeg, decision_of(None, threshold).value, f"{sample.name}: {reason}")
    ratio = f", {score / threshold:.2f} of the threshold" if threshold else ""
    return Picture(jpeg, decision_of(score, standing.threshold).value, f"{sample.name}: {score:.4f}{ratio}")
