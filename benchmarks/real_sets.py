"""Real datasets and the default that is measured on them, for benchmarks that look at distances and scores."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bank_tools.bank.recipe import recipe_for
from bank_tools.datasets import Category, read_dataset
from bank_tools.evaluation.detection import EvaluationContext
from bank_tools.evaluation.variant import Variant
from edge_uad.cli.console import TerminalProgress
from edge_uad.cli.measuring import make_context
from edge_uad.runtime.assemble import load_backbone_for_many
from export.default import provide_default_model


def categories_of(roots: Sequence[Path]) -> Iterator[Category]:
    """Every category of every dataset, in order."""
    for root in roots:
        yield from read_dataset(root, layout="auto", categories=None).categories


def default_context(
    out: Path,
    *,
    pixels: bool = False,
    calibrated: bool = True,
    bpm_threshold: float | None = None,
    cache_gib: float = 20.0,
) -> EvaluationContext:
    """The default backbone and recipe, on all cores, with its finished steps in a folder that is made here.

    Args:
        out: the folder.
        pixels: whether heat is compared with masks.
        calibrated: whether the threshold is calibrated.
        bpm_threshold: of the mask; None for the recipe's.
        cache_gib: of embeddings.
    """
    backbone, workers = load_backbone_for_many(provide_default_model(), provider="cpu", threads=0, search_device="cpu")
    recipe = recipe_for(backbone.card)
    out.mkdir(parents=True, exist_ok=True)
    return make_context(
        backbone,
        Variant(recipe=recipe if bpm_threshold is None else replace(recipe, bpm_threshold=bpm_threshold)),
        provider="cpu",
        workers=workers,
        cache_gib=cache_gib,
        out=out,
        progress=TerminalProgress(),
        pixels=pixels,
        calibrated=calibrated,
    )
