"""Options that several commands share, and groups of them that a command takes as one dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from edge_uad.errors import UsageError
from edge_uad.records import Box, Geometry, Provider, Rotations, SearchDevice, WantedPrecision

if TYPE_CHECKING:
    from bank_tools.bank.recipe import Recipe
    from edge_uad.records import ModelCard, Tiling

ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Model file of edge-uad export.",
        show_default="the bank's own in the cache, or the default backbone",
    ),
]
BankOption = Annotated[Path, typer.Option("--bank", help="Bank file of edge-uad build-bank.")]
ProviderOption = Annotated[
    Provider, typer.Option("--provider", help="Where the backbone runs; a provider that is not active is an error.")
]
PrecisionOption = Annotated[
    WantedPrecision,
    typer.Option(
        "--precision",
        help="Of the backbone's arithmetic on the processor; auto takes the fastest that the bank is certified for.",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, help="CPU threads of model and search; 0 takes all cores.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Embed, calibrate and score on the workers of a Ray cluster: auto, ray://HOST:PORT or HOST:PORT. "
        r"Needs the \[cluster] extra.",
        show_default="this machine alone",
    ),
]
SearchDeviceOption = Annotated[SearchDevice, typer.Option("--search-device", help="Where the bank is searched.")]
ServerKeyOption = Annotated[
    Path | None, typer.Option("--server-key", help="The daemon's public key file, where it demands keys.")
]
ClientKeyOption = Annotated[
    Path | None, typer.Option("--client-key", help="Your own secret key file, made by edge-uad keys.")
]
CoresetOption = Annotated[float, typer.Option("--coreset", help="Part of the patches to keep, above 0 to 1.")]
MaxPatchesOption = Annotated[
    int, typer.Option("--max-patches", min=0, help="Patches to keep at most: they bound the search; 0 for no bound.")
]
BpmKernelOption = Annotated[
    int | None,
    typer.Option("--bpm-kernel", help="Smoothing of the mask, in patches, odd.", show_default="a quarter of the grid"),
]
BpmThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--bpm-threshold",
        min=0,
        help="Foreground is above this part of the highest attention; 0 keeps every patch, the paper has 0.1.",
        show_default="decided from the good parts",
    ),
]
TopRatioOption = Annotated[
    float | None,
    typer.Option("--top-ratio", help="Part of the patches that makes the score.", show_default="the model's"),
]
LevelsOption = Annotated[
    int | None,
    typer.Option(
        "--levels",
        min=1,
        help="Parts of each patch searched by themselves: the model's levels, or 1 for one search of them together.",
        show_default="the model's",
    ),
]
NeighboursOption = Annotated[int, typer.Option("--neighbours", min=1, help="Bank patches each patch is compared to.")]
GeometryOption = Annotated[Geometry, typer.Option("--geometry", help="How images come to the model's size.")]
TurnGoodOption = Annotated[bool, typer.Option("--turn-good", help="The same as --rotations quarter.")]
ScalesOption = Annotated[
    str,
    typer.Option("--scales", help="Sides of the neighbourhoods compared, in patches, such as 1+3."),
]
ReweightedOption = Annotated[
    bool,
    typer.Option("--reweighted", help="Weight each distance by its support in the bank, as PatchCore does."),
]
ApartOption = Annotated[
    float,
    typer.Option("--apart", help="Before the coreset, drop patches nearer than this squared distance to one kept."),
]
TilesOption = Annotated[
    str,
    typer.Option(
        "--tiles", help="See each picture as ROWSxCOLUMNS overlapping tiles, each at the model's input size: 3x1."
    ),
]
TileOverlapOption = Annotated[
    int | None,
    typer.Option(
        "--tile-overlap", min=0, help="By how many patches tiles overlap.", show_default="a quarter of a tile's"
    ),
]
RotationsOption = Annotated[
    Rotations,
    typer.Option(
        "--rotations",
        help="Learn good parts as they were taken, in all four orientations, or as they themselves call for (auto).",
    ),
]
RoiOption = Annotated[str | None, typer.Option("--roi", help="Region of interest x,y,w,h in image pixels.")]
FalseAlarmRateOption = Annotated[
    float, typer.Option("--false-alarm-rate", help="Part of good parts that may be called anomalous.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of the coreset and of every random draw.")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON Lines on stdout, for machines.")]


def parse_roi(text: str | None) -> Box | None:
    """``x,y,w,h`` → box.

    Raises:
        UsageError: not four whole numbers, or an empty box.
    """
    if text is None:
        return None
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--roi is {text!r}; give four whole numbers x,y,w,h in image pixels") from None
    if x < 0 or y < 0 or w < 1 or h < 1:
        raise UsageError(f"--roi is {text!r}; x and y must not be negative, w and h at least 1 px")
    return x, y, w, h


def parse_tiles(text: str) -> tuple[int, int]:
    """``3x1`` → rows and columns of tiles.

    Raises:
        UsageError: something else.
    """
    rows, _, columns = text.partition("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in (rows, columns)):
        raise UsageError(f"--tiles is {text!r}; give rows and columns of tiles, such as 3x1 for a tall picture")
    return int(rows), int(columns)


def tiling_of(card: "ModelCard", tiles: str, overlap: int | None) -> "Tiling | None":
    """The tiling asked for; None for one tile, the whole picture.

    Args:
        card: of the model.
        tiles: as ``--tiles``.
        overlap: of neighbours, in patches; None for a quarter of a tile's side.

    Raises:
        UsageError: the tiles are none.
    """
    from edge_uad.records import Tiling

    tiles_hw = parse_tiles(tiles)
    if tiles_hw == (1, 1):
        return None
    height, width = card.grid_hw
    quarter = (height // 4, width // 4)
    return Tiling(tiles_hw=tiles_hw, overlap_hw=quarter if overlap is None else (overlap, overlap))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """How a bank is built and judges: the options of build-bank, evaluate, ablate and tune."""

    coreset: CoresetOption = 0.1
    max_patches: MaxPatchesOption = 10_000
    bpm_kernel: BpmKernelOption = None
    bpm_threshold: BpmThresholdOption = None
    top_ratio: TopRatioOption = None
    levels: LevelsOption = None
    neighbours: NeighboursOption = 1
    geometry: GeometryOption = Geometry.STRETCH
    roi: RoiOption = None
    tiles: TilesOption = "1x1"
    tile_overlap: TileOverlapOption = None
    rotations: RotationsOption = Rotations.NONE
    false_alarm_rate: FalseAlarmRateOption = 0.01
    seed: SeedOption = 0

    def __post_init__(self) -> None:
        """Raise UsageError for a region of interest or tiles that are none, before a model is loaded."""
        parse_roi(self.roi)
        if parse_tiles(self.tiles) == (1, 1) and self.tile_overlap is not None:
            raise UsageError("--tile-overlap is of several tiles; name how many with --tiles, such as 3x1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOptions:
    """What runs the backbone and the search; no result depends on it beyond the last bits."""

    provider: ProviderOption = "cpu"
    threads: ThreadsOption = 0
    search_device: SearchDeviceOption = "cpu"
    cluster: ClusterOption = None

    def __post_init__(self) -> None:
        """Raise UsageError for a cluster beside an accelerator, before a model is loaded."""
        if self.cluster is not None and (self.provider not in {"cpu", "openvino"} or self.search_device != "cpu"):
            raise UsageError("--cluster works on processors; leave out --provider and --search-device, or --cluster")


def recipe_of(
    card: "ModelCard", options: RecipeOptions, machine: MachineOptions, *, reduced_decode: bool = False
) -> "Recipe":
    """The recipe that the options ask for, with the model's own values where they ask for none.

    Raises:
        UsageError: a value out of its range.
    """
    from bank_tools.bank.recipe import recipe_for

    return replace(
        recipe_for(
            card,
            bpm_kernel=options.bpm_kernel,
            top_ratio=options.top_ratio,
            levels=options.levels,
            tiling=tiling_of(card, options.tiles, options.tile_overlap),
        ),
        geometry=options.geometry,
        roi=parse_roi(options.roi),
        rotations=options.rotations,
        bpm_threshold=options.bpm_threshold,
        neighbours=options.neighbours,
        coreset_ratio=options.coreset,
        max_patches=options.max_patches or None,
        false_alarm_rate=options.false_alarm_rate,
        seed=options.seed,
        reduced_decode=reduced_decode,
        search_device=machine.search_device,
        # each worker of a cluster has one core
        search_threads=machine.threads if machine.cluster is None else 1,
    )


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of a dataclass's type are replaced by the fields of that dataclass.

    Typer sees one option for each field; the command is called with the dataclass. Every field needs a default.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: group for name, group in hints.items() if is_dataclass(group) and isinstance(group, type)}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            shown += _parameters_of(groups[parameter.name])
        else:
            shown.append(parameter.replace(annotation=hints[parameter.name]))

    @wraps(command)
    def grouped(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group) if field.name in given})
        command(**given)

    grouped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]  # what typer reads
    grouped.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return grouped


def _parameters_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]
