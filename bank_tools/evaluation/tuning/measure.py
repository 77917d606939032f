"""Every candidate's scores of the same good parts and rejects, each part against banks that had not seen it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bank_tools.datasets.records import Sample
from bank_tools.datasets.wording import counted, listed
from bank_tools.evaluation.detection import EvaluationContext
from bank_tools.evaluation.distance_table import DistanceTable
from bank_tools.evaluation.league.candidates import DEFAULT, Candidate
from bank_tools.evaluation.tuning.evidence import Scores
from bank_tools.evaluation.tuning.parts import Parts
from edge_uad.errors import ArtefactError, FrameError, UsageError
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Float32

SURVIVORS = (
    "top-ratio=0.005",
    "top-ratio=0.02",
    "top-ratio=0.05",
    "levels=1",
    "bpm-threshold=0.1",
    "bpm-threshold=0",
    "input=224",
)
"""The candidates where none are named, as ``--candidate`` takes them; the cheapest first: ratios need no search."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """A candidate that was measured, and what its pictures are drawn with."""

    candidate: Candidate
    scores: Scores
    model_id: str
    n_patches: int
    """In the bank of all good parts."""
    bpm_threshold: float
    """Of the mask, as it was told or decided."""
    top_ratio: float
    distances: Float32
    """(rejects, N), against the bank of all good parts, as a line would see them; 0 where it cannot judge."""
    reasons: tuple[str, ...]
    """(rejects,), why one cannot be judged; empty where it can."""
    preprocessor: Preprocessor
    input_hw: tuple[int, int]
    grid_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A candidate of ours that takes no part here, and why."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that the choice is made from."""

    tried: tuple[Tried, ...]
    """The default first."""
    left_out: tuple[LeftOut, ...]
    good: tuple[Sample, ...]
    """Those that could be read."""
    rejects: tuple[Sample, ...]
    warnings: tuple[str, ...]


def measure_candidates(
    parts: Parts,
    candidates: Sequence[Candidate],
    context_for: Callable[[Candidate], EvaluationContext],
    *,
    left_out: Sequence[LeftOut] = (),
    required: bool,
    on_tried: Callable[[Tried], None] = lambda _: None,
) -> Measured:
    """Score the parts by the default and by every candidate.

    Args:
        parts: good ones and rejects.
        candidates: beside the default.
        context_for: a candidate's context, calibrated; called once for each, one after the other.
        left_out: candidates that are known to take no part.
        required: whether a candidate that cannot be measured ends the work; if not, it is left out.
        on_tried: called with each when it is measured.

    Raises:
        UsageError: fewer than two good parts can be learned, or a candidate that is required cannot be measured.
        ArtefactError: a model that is required cannot be had.
    """
    context = context_for(DEFAULT)
    table = _search(parts, context)
    unreadable = {name: reason for name, reason in table.skipped if not _can_be_read(name, parts.good)}
    good = tuple(sample for sample in parts.good if sample.name not in unreadable)
    tried = [_tried(DEFAULT, context, table, good)]
    on_tried(tried[0])
    own = _Settled(context, table)
    without = list(left_out)
    for candidate in candidates:
        try:
            context = context_for(candidate)
            if own.is_of(context):
                without.append(LeftOut(candidate=candidate, reason="it is what the default decided by itself"))
                continue
            table = _search(parts, context)
        except (UsageError, ArtefactError) as error:
            if required:
                raise
            without.append(LeftOut(candidate=candidate, reason=str(error)))
            continue
        tried.append(_tried(candidate, context, table, good))
        on_tried(tried[-1])
    warnings = list(parts.warnings)
    if unreadable:
        named = [f"{name} ({reason})" for name, reason in unreadable.items()]
        warnings.append(f"{counted(named, 'good part')} cannot be read and left out: {listed(named)}")
    return Measured(
        tried=tuple(tried),
        left_out=tuple(without),
        good=good,
        rejects=parts.rejects,
        warnings=tuple(warnings),
    )


class _Settled:
    """The default with the mask that its good parts decided."""

    def __init__(self, context: EvaluationContext, table: DistanceTable) -> None:
        self._model_id = _model_id(context)
        recipe = replace(context.variant.recipe, bpm_threshold=table.bpm_threshold)
        self._variant = replace(context.variant, recipe=recipe)

    def is_of(self, context: EvaluationContext) -> bool:
        """Whether a candidate is the same."""
        return _model_id(context) == self._model_id and context.variant == self._variant


def _search(parts: Parts, context: EvaluationContext) -> DistanceTable:
    table = context.search(parts.good, parts.rejects, test_in_folds=True)
    if len(table.calibration) == 0:
        raise UsageError(
            f"{counted(range(table.n_good), 'good part')} can be learned, at least 2 are needed to score one by the "
            "others; add some"
        )
    return table


def _model_id(context: EvaluationContext) -> str:
    return context.sample_embedder.embedder.backbone.card.model_id


def _can_be_read(name: str, samples: Sequence[Sample]) -> bool:
    try:
        next(sample for sample in samples if sample.name == name).image()
    except FrameError:
        return False
    return True


def _tried(candidate: Candidate, context: EvaluationContext, table: DistanceTable, good: Sequence[Sample]) -> Tried:
    embedder = context.sample_embedder.embedder
    top_ratio = context.variant.recipe.top_ratio
    skipped = {name for name, _ in table.skipped}
    in_order = iter(table.good_scores(top_ratio=top_ratio, grid_hw=context.grid_hw).tolist())
    found = [math.inf if sample.name in skipped else next(in_order) for sample in good]
    rejects = table.scores_by_fold(top_ratio=top_ratio, grid_hw=context.grid_hw)
    return Tried(
        candidate=candidate,
        scores=Scores(
            good=np.asarray(found, np.float64),
            rejects=np.asarray([math.inf if score is None else score for score in rejects], np.float64),
        ),
        model_id=_model_id(context),
        n_patches=table.n_patches,
        bpm_threshold=table.bpm_threshold,
        top_ratio=top_ratio,
        distances=table.test,
        reasons=table.reasons,
        preprocessor=embedder.preprocessor,
        input_hw=embedder.backbone.card.input_hw,
        grid_hw=context.grid_hw,
    )
