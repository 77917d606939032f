"""``report.html``: an outcome as one page with tables, charts and the images that matter most."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bank_tools.evaluation.detection import CategoryResult, EvaluationContext, Judged
from bank_tools.evaluation.results import Outcome, ResultTable
from bank_tools.evaluation.step_cache import write_result
from bank_tools.metrics.image import roc_curve
from bank_tools.report import charts
from bank_tools.report import page as report
from edge_uad.errors import FrameError
from edge_uad.inference.overlay import overlay
from edge_uad.inference.scoring import heatmap
from edge_uad.records import Decision, UInt8

SHOWN_PICTURES = 8
PICTURE_PX = 300
JPEG_QUALITY = 82


def write_report(outcome: Outcome, context: EvaluationContext, path: Path) -> None:
    """Write the page.

    Raises:
        UsageError: it cannot be written.
    """
    card = context.sample_embedder.embedder.backbone.card
    sections = [_section(table) for table in outcome.tables]
    if outcome.charts:
        sections.append(report.Section("Charts", report.charts(*outcome.charts)))
    sections += [_charts(one) for one in outcome.categories]
    sections += _galleries(outcome.categories, context)
    facts = {**outcome.settings, "model": card.model_id, "layers": card.layers, "attention layer": card.attention_layer}
    pairs = {name.replace("_", " "): value for name, value in facts.items()}
    sections.append(report.Section("Settings", report.facts(pairs)))
    if outcome.warnings:
        sections.append(report.Section("What was odd", report.notices(outcome.warnings)))
    title = f"{outcome.dataset.name}: {outcome.task}"
    lead = f"{card.backbone}, {card.grid_hw[0]}×{card.grid_hw[1]} patches, layout {outcome.dataset.layout}"
    write_result(path, report.page(title, lead, sections).encode())


def _section(table: ResultTable) -> report.Section:
    return report.Section(table.title, report.table(table.columns, table.rows))


def _charts(one: CategoryResult) -> report.Section:
    scored = [(judged.sample.anomalous, judged.score) for judged in one.judged if judged.score is not None]
    curve = roc_curve([anomalous for anomalous, _ in scored], [score for _, score in scored])
    drawn = [charts.roc(curve, auroc=one.image.auroc)]
    if one.threshold is not None:
        groups = {
            "good": [score for anomalous, score in scored if not anomalous],
            "anomalous": [score for anomalous, score in scored if anomalous],
        }
        drawn.append(charts.histogram(groups, threshold=one.threshold))
    return report.Section(one.name, report.charts(*drawn))


def _galleries(results: Sequence[CategoryResult], context: EvaluationContext) -> list[report.Section]:
    """Across all categories, by score in thresholds; only where there is a threshold to speak of."""
    levels = [
        (judged.score / one.threshold, one.threshold, judged)
        for one in results
        if one.threshold
        for judged in one.judged
        if judged.score is not None
    ]
    levels.sort(key=lambda level: level[0])
    misses = [level for level in levels if level[2].sample.anomalous and level[2].decision == Decision.NORMAL]
    alarms = [level for level in levels if not level[2].sample.anomalous and level[2].decision == Decision.ANOMALOUS]
    hits = [level for level in levels if level[2].sample.anomalous and level[2].decision == Decision.ANOMALOUS]
    chosen = (
        ("Worst misses", misses[:SHOWN_PICTURES]),
        ("Worst false alarms", alarms[::-1][:SHOWN_PICTURES]),
        ("Best hits", hits[::-1][:SHOWN_PICTURES]),
    )
    sections = []
    for title, group in chosen:
        pictures = [
            picture
            for level, threshold, judged in group
            if (picture := _picture(judged, level, threshold, context)) is not None
        ]
        sections.append(report.Section(title, report.gallery(pictures)))
    return sections


def _picture(judged: Judged, level: float, threshold: float, context: EvaluationContext) -> report.Picture | None:
    try:
        image = judged.sample.image()
    except FrameError:
        return None  # it was there when it was scored
    embedder = context.sample_embedder.embedder
    heat = heatmap(judged.distances(context.grid_hw), embedder.backbone.card.input_hw)
    placement = embedder.preprocessor.placement((image.shape[0], image.shape[1]))
    drawn = overlay(image, heat, threshold=threshold, placement=placement)
    caption = f"{judged.category}/{judged.sample.name}: {judged.score:.4f}, {level:.2f} of the threshold"
    return report.Picture(_jpeg(drawn), judged.decision or "", caption)


def _jpeg(picture: UInt8) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
