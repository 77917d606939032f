"""The same weights exported otherwise, for ablations: other layers, another input size and the like."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from edge_uad.errors import UsageError
from edge_uad.files import sha256_of_file
from edge_uad.records import Join, ModelCard
from edge_uad.runtime.cache import VARIANTS_FOLDER, default_model_path
from export.fetch import fetch_weights, load_named, only_one_process
from export.graph import GRAPH_VERSION
from export.request import ExportRequest
from export.to_onnx import export_onnx
from export.weights import weights_table


def provide_variant(
    card: ModelCard,
    *,
    layers: tuple[int, ...] | None = None,
    attention_layer: int | None = None,
    input_px: int | None = None,
    join: Join | None = None,
    neighbourhood: int | None = None,
    console: Console,
) -> Path:
    """A model file of the card's own weights with some settings changed; exported once, then kept in the cache.

    Args:
        card: of the model that is varied.
        layers: blocks whose tokens are averaged; None for the card's.
        attention_layer: block whose CLS attention is the mask's source; None for the card's.
        input_px: side of the square input; None for the card's.
        join: how the blocks' tokens are joined; None for the card's.
        neighbourhood: side of the surroundings blended into each token; None for the card's.
        console: where progress is drawn.

    Raises:
        UsageError: the model is not of a named backbone with these weights, or cannot be exported so.
        WeightsError: the weights cannot be had.
        ModelError: the export fails.
    """
    require_named(card)
    changed = replace(
        card,
        layers=layers or card.layers,
        attention_layer=card.attention_layer if attention_layer is None else attention_layer,
        input_hw=card.input_hw if input_px is None else (input_px, input_px),
        join=join or card.join,
        neighbourhood=neighbourhood or card.neighbourhood,
    )
    path = _path(changed)
    with only_one_process(path.parent):
        if not path.is_file():
            _export(changed, path, console)
    return path


def require_named(card: ModelCard) -> None:
    """Raise UsageError unless the model's weights can be found by its backbone's name."""
    if card.backbone not in weights_table():
        raise UsageError(
            f"the model is {card.backbone}, whose weights edge-uad cannot find by name; sweeping the "
            "model's own settings needs a named backbone: export the variants and evaluate each with --backbone"
        )


def _export(card: ModelCard, path: Path, console: Console) -> None:
    weights = fetch_weights(card.backbone, console)
    found = sha256_of_file(weights)
    if found != card.weights_sha256:
        raise UsageError(
            f"the model was made of the weights {card.weights_sha256[:12]}, those of {card.backbone} in the cache are "
            f"{found[:12]}; export the variants from your own weights and evaluate each with --backbone"
        )
    request = ExportRequest(
        backbone=card.backbone,
        input_hw=card.input_hw,
        layers=card.layers,
        attention_layer=card.attention_layer,
        licence=card.licence,
        weights_sha256=found,
        precision=card.precision,
        mean=card.mean,
        std=card.std,
        join=card.join,
        neighbourhood=card.neighbourhood,
        top_ratio=card.top_ratio,
    )
    with console.status(f"exporting {path.stem}"):
        export_onnx(load_named(card.backbone, weights), request, path)


def _path(card: ModelCard) -> Path:
    layers = "+".join(map(str, card.layers)) + {"mean": "", "concat": "c", "levels": "u"}[card.join]
    size = "x".join(map(str, card.input_hw))
    name = (
        f"{card.backbone}-{size}-l{layers}-a{card.attention_layer}-n{card.neighbourhood}-{card.precision}-"
        f"{card.weights_sha256[:12]}-g{GRAPH_VERSION}.onnx"
    )
    return default_model_path().parent / VARIANTS_FOLDER / name
