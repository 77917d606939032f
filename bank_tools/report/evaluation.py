"""``report.html``: an outcome as one page with tables, charts and the images that matter most."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bank_tools.datasets import Sample
from bank_tools.evaluation.detection import CategoryResult, EvaluationContext, Judged
from bank_tools.evaluation.results import Outcome
from bank_tools.evaluation.step_cache import write_result
from bank_tools.metrics.image import roc_curve
from bank_tools.report.charts import Chart, Histogram, RocCurve
from bank_tools.report.page import Charts, Facts, Gallery, Notices, Picture, Section, Table, page
from bank_tools.report.pictures import jpeg_of
from edge_uad.errors import FrameError
from edge_uad.inference.overlay import anchor_of, overlay
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.inference.scoring import heatmap
from edge_uad.records import Decision, PatchDistances

SHOWN_PICTURES = 8
PICTURE_PX = 300


class _Ratio(NamedTuple):
    of_threshold: float
    """The score over the threshold."""
    pixel_threshold: float
    judged: Judged


def write_report(outcome: Outcome, context: EvaluationContext, path: Path) -> None:
    """Write the page.

    Raises:
        UsageError: it cannot be written.
    """
    card = context.sample_embedder.embedder.backbone.card
    sections = [Section(table.title, [Table(table.columns, table.rows)]) for table in outcome.tables]
    if outcome.charts:
        sections.append(Section("Charts", [Charts(outcome.charts)]))
    sections += [_charts(one) for one in outcome.categories]
    sections += galleries(outcome.categories, context)
    facts = {**outcome.settings, "model": card.model_id, "layers": card.layers, "attention layer": card.attention_layer}
    sections.append(Section("Settings", [Facts({name.replace("_", " "): value for name, value in facts.items()})]))
    if outcome.warnings:
        sections.append(Section("Warnings", [Notices(outcome.warnings)]))
    title = f"{outcome.dataset.name}: {outcome.task}"
    lead = f"{card.backbone}, {card.grid_hw[0]}×{card.grid_hw[1]} patches, layout {outcome.dataset.layout}"
    write_result(path, page(title, lead, sections))


def _charts(one: CategoryResult) -> Section:
    scored = [(judged.sample.anomalous, judged.score) for judged in one.judged if judged.score is not None]
    curve = roc_curve([anomalous for anomalous, _ in scored], [score for _, score in scored])
    charts: list[Chart] = [RocCurve(points=curve, auroc=one.image.auroc)]
    if one.threshold is not None:
        groups = {
            "good": [score for anomalous, score in scored if not anomalous],
            "anomalous": [score for anomalous, score in scored if anomalous],
        }
        charts.append(Histogram(scores=groups, threshold=one.threshold))
    return Section(one.name, [Charts(charts)])


def galleries(results: Sequence[CategoryResult], context: EvaluationContext) -> list[Section]:
    """The pictures of all categories that matter most, by score over threshold; categories without one are left out."""
    ratios = _ratios(results)
    return [
        _gallery("Worst misses", _misses(ratios)[:SHOWN_PICTURES], context),
        _gallery("Worst false alarms", _alarms(ratios)[:SHOWN_PICTURES], context),
        _gallery("Best hits", _hits(ratios)[:SHOWN_PICTURES], context),
    ]


def faults(result: CategoryResult, context: EvaluationContext, *, shown: int) -> list[Section]:
    """One category's worst misses and worst false alarms, each where there are any.

    Args:
        result: with a threshold; without one there is nothing to show.
        context: that it was measured in.
        shown: how many pictures of each, at most.
    """
    ratios = _ratios([result])
    groups = (("worst misses", _misses(ratios)), ("worst false alarms", _alarms(ratios)))
    return [
        _gallery(f"{result.name}: {title}, {min(shown, len(group))} of {len(group)}", group[:shown], context)
        for title, group in groups
        if group
    ]


def _ratios(results: Sequence[CategoryResult]) -> list[_Ratio]:
    """Everything scored, the lowest score over threshold first."""
    ratios = [
        _Ratio(judged.score / one.threshold, one.pixel_threshold, judged)
        for one in results
        if one.threshold and one.pixel_threshold is not None
        for judged in one.judged
        if judged.score is not None
    ]
    return sorted(ratios, key=lambda ratio: ratio.of_threshold)


def _misses(ratios: Sequence[_Ratio]) -> list[_Ratio]:
    return [one for one in ratios if one.judged.sample.anomalous and one.judged.decision == Decision.NORMAL]


def _alarms(ratios: Sequence[_Ratio]) -> list[_Ratio]:
    found = [one for one in ratios if not one.judged.sample.anomalous and one.judged.decision == Decision.ANOMALOUS]
    return found[::-1]


def _hits(ratios: Sequence[_Ratio]) -> list[_Ratio]:
    found = [one for one in ratios if one.judged.sample.anomalous and one.judged.decision == Decision.ANOMALOUS]
    return found[::-1]


def _gallery(title: str, group: Sequence[_Ratio], context: EvaluationContext) -> Section:
    drawn = [_picture(one.judged, one.of_threshold, one.pixel_threshold, context) for one in group]
    pictures = [picture for picture in drawn if picture is not None]
    n_gone = len(drawn) - len(pictures)
    note = f"{n_gone} of {len(drawn)} images were scored but could not be read again." if n_gone else ""
    return Section(title, [Gallery(pictures)], note)


def _picture(judged: Judged, ratio: float, pixel_threshold: float, context: EvaluationContext) -> Picture | None:
    embedder = context.sample_embedder.embedder
    drawn = heat_jpeg(
        judged.sample,
        judged.distances(context.grid_hw),
        anchor=anchor_of(pixel_threshold),
        preprocessor=embedder.preprocessor,
        input_hw=embedder.backbone.card.input_hw,
    )
    if drawn is None:
        return None
    caption = f"{judged.category}/{judged.sample.name}: {judged.score:.4f}, {ratio:.2f} of the threshold"
    return Picture(drawn, judged.decision or "", caption)


def heat_jpeg(
    sample: Sample,
    distances: PatchDistances,
    *,
    anchor: float,
    preprocessor: Preprocessor,
    input_hw: tuple[int, int],
) -> bytes | None:
    """A sample's picture with its heat, small; None where it cannot be read again, as it could when it was scored.

    Args:
        sample: the picture.
        distances: of its patches.
        anchor: the heat in the middle of the colours.
        preprocessor: that it was scored with.
        input_hw: the model's.
    """
    try:
        image = sample.image()
    except FrameError:
        return None
    placement = preprocessor.placement((image.shape[0], image.shape[1]))
    drawn = overlay(image, heatmap(distances, input_hw), threshold=anchor, placement=placement)
    return jpeg_of(drawn, longest_px=PICTURE_PX)
