"""Options that several commands share, so that they read and behave alike."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_uad.errors import UsageError
from edge_uad.records import Box, Geometry

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
SearchDevice = Literal["cpu", "gpu"]
ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="Model file of edge-uad export.", show_default="the default backbone in the cache"),
]
BankOption = Annotated[Path, typer.Option("--bank", help="Bank file of edge-uad build-bank.")]
ProviderOption = Annotated[
    Provider, typer.Option("--provider", help="Where the backbone runs; a provider that is not active is an error.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, help="CPU threads of model and search; 0 takes all cores.")
]
SearchDeviceOption = Annotated[SearchDevice, typer.Option("--search-device", help="Where the bank is searched.")]
ServerKeyOption = Annotated[
    Path | None, typer.Option("--server-key", help="The daemon's public key file, where it demands keys.")
]
ClientKeyOption = Annotated[
    Path | None, typer.Option("--client-key", help="Your own secret key file, made by edge-uad keys.")
]
CoresetOption = Annotated[float, typer.Option("--coreset", help="Part of the patches to keep, above 0 to 1.")]
BpmKernelOption = Annotated[
    int | None,
    typer.Option("--bpm-kernel", help="Smoothing of the mask, in patches, odd.", show_default="a quarter of the grid"),
]
BpmThresholdOption = Annotated[
    float, typer.Option("--bpm-threshold", min=0, help="Foreground is above this; 0 keeps every patch.")
]
TopRatioOption = Annotated[
    float | None,
    typer.Option("--top-ratio", help="Part of the patches that makes the score.", show_default="the model's"),
]
NeighboursOption = Annotated[int, typer.Option("--neighbours", min=1, help="Bank patches each patch is compared to.")]
GeometryOption = Annotated[Geometry, typer.Option("--geometry", help="How images come to the model's size.")]
TurnGoodOption = Annotated[bool, typer.Option("--turn-good", help="Learn each good image in all four orientations.")]
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
RoiOption = Annotated[str | None, typer.Option("--roi", help="Region of interest x,y,w,h in image pixels.")]
FalseAlarmRateOption = Annotated[
    float, typer.Option("--false-alarm-rate", help="Part of good parts that may be called anomalous.")
]
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
