"""Options, evaluation context and terminal output that ``evaluate`` and ``ablate`` share."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_uad.cli.console import console, stderr, warn
from edge_uad.errors import MissingExtraError, UsageError
from edge_uad.records import Provider
from edge_uad.runtime.cache import cache_dir

if TYPE_CHECKING:
    from bank_tools.datasets import Dataset
    from bank_tools.evaluation.detection import CategoryResult, EvaluationContext
    from bank_tools.evaluation.results import ResultTable
    from bank_tools.evaluation.variant import Variant
    from bank_tools.spread import Spread
    from edge_uad.interfaces import Backbone
    from edge_uad.progress import Progress

GIB = 2**30
SHOWN_WARNINGS = 20
EVALUATE_PACKAGES = ("jinja2", "matplotlib", "scipy", "sklearn")
"""What the [evaluate] extra brings."""

RootsArgument = Annotated[list[Path], typer.Argument(help="The dataset's folder; several make a league.")]
RootArgument = Annotated[Path, typer.Argument(help="The dataset's folder.")]
CategoriesOption = Annotated[
    str | None, typer.Option("--categories", help="Names, by commas.", show_default="all of them")
]
LayoutOption = Annotated[
    str, typer.Option("--layout", help="How the tree is laid out; mvtec and classes fit any folders laid out so.")
]
BackboneOption = Annotated[
    Path | None,
    typer.Option(
        "--backbone", "--model", help="Model file of edge-uad export.", show_default="the default backbone in the cache"
    ),
]
GoodOption = Annotated[
    int | None,
    typer.Option("--good", min=1, help="Learn from so many good images, by the seed.", show_default="all"),
]
CacheOption = Annotated[
    float, typer.Option("--cache-gib", min=0, help="How much disk embeddings may take; 0 keeps none.")
]


def require_evaluate_extra(command: str) -> None:
    """Check that metrics, charts and the report can be made, before hours of work go into them.

    Raises:
        MissingExtraError: one of the packages of the [evaluate] extra is not installed.
    """
    if any(find_spec(package) is None for package in EVALUATE_PACKAGES):
        raise MissingExtraError(command, "evaluate")


def open_dataset(root: Path, layout: str, categories: str | None) -> "Dataset":
    """Read the dataset's tree.

    Raises:
        UsageError: it cannot be read so.
    """
    from bank_tools.datasets import read_dataset

    wanted = None if categories is None else [name.strip() for name in categories.split(",") if name.strip()]
    return read_dataset(root, layout=layout, categories=wanted)


def make_context(
    backbone: "Backbone",
    variant: "Variant",
    *,
    provider: Provider,
    workers: int,
    cache_gib: float,
    out: Path,
    progress: "Progress",
    pixels: bool,
    calibrated: bool = True,
    on_category: "Callable[[CategoryResult], None]" = lambda _: None,
    spread: "Spread | None" = None,
) -> "EvaluationContext":
    """The stages, the cache and the folder of finished steps.

    Args:
        backbone: of the model that is measured.
        variant: how.
        provider: what runs the backbone.
        workers: images at a time.
        cache_gib: how much disk the cache of embeddings may take; 0 for none.
        out: folder of the results.
        progress: shows every step.
        pixels: whether heat is compared with masks.
        calibrated: whether the threshold is calibrated.
        on_category: called with each category's result.
        spread: how calibration and scoring are carried out; None for here, one after the other.
    """
    from bank_tools.bank.embeddings import scratch_folder
    from bank_tools.evaluation.detection import EvaluationContext
    from bank_tools.evaluation.embedding import SampleEmbedder
    from bank_tools.evaluation.embedding_cache import EmbeddingCache
    from bank_tools.evaluation.step_cache import StepCache
    from bank_tools.evaluation.variant import embedder_of
    from bank_tools.spread import one_by_one

    recipe = variant.recipe
    embedder = embedder_of(backbone, variant)
    max_bytes = round(cache_gib * GIB)
    cache = EmbeddingCache(cache_dir() / "embeddings", max_bytes=max_bytes) if max_bytes else None
    sample_embedder = SampleEmbedder(
        embedder,
        preprocessing=f"{recipe.geometry} {recipe.roi}" + (f" {recipe.tiling}" if recipe.tiling else ""),
        runtime=provider,
        cache=cache,
        workers=workers,
        scratch=scratch_folder(out),
    )
    return EvaluationContext(
        sample_embedder=sample_embedder,
        steps=StepCache(out / "steps"),
        progress=progress,
        variant=variant,
        pixels=pixels,
        calibrated=calibrated,
        spread=spread or one_by_one,
        on_category=on_category,
    )


def print_category(result: "CategoryResult") -> None:
    """One line when a category is done."""
    from bank_tools.metrics.image import show

    stderr.print(
        f"{result.name}: image AUROC {show(result.image.auroc)}, {result.n_good} good, {len(result.judged)} test",
        markup=False,
        highlight=False,
    )


def print_warnings(warnings: Sequence[str]) -> None:
    """The first warnings, on stderr; results.json and the report have all of them."""
    for text in warnings[:SHOWN_WARNINGS]:
        warn(text)
    if len(warnings) > SHOWN_WARNINGS:
        warn(f"… and {len(warnings) - SHOWN_WARNINGS} more, in results.json")


def print_tables(tables: "Iterable[ResultTable]") -> None:
    """Aligned columns on stdout; the first to the left, figures to the right."""
    for table in tables:
        widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
        console.print(table.title, style="bold", markup=False, highlight=False)
        for row in (table.columns, *table.rows):
            first, *others = (
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            console.print("  ".join([first, *others]).rstrip(), markup=False, highlight=False)
        console.print()


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """``1,2,5`` → (1, 2, 5), ascending, each once.

    Raises:
        UsageError: something else.
    """
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise UsageError(f"{option} is {text!r}; give whole numbers from 1 by commas, such as 1,2,5,10")
    return tuple(numbers)
