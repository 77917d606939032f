"""The table of named backbones, as ``weights.yaml`` states it."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    UrlConstraints,
    model_validator,
)

from edge_uad.errors import UsageError
from edge_uad.records import Join

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Sha256Start = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,63}$")]
HttpUrl = Annotated[AnyUrl, UrlConstraints(allowed_schemes=["https", "http"])]
Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

PAPER_LAYERS = tuple(range(2, 10))
"""0-based blocks whose tokens are averaged, as the paper has it for twelve blocks."""
PAPER_ATTENTION_LAYER = 9
"""0-based block whose CLS attention is the mask's source, as in the published code."""

PAPER_INPUT_PX = 224
PAPER_TOP_RATIO = 0.05
"""Part of the patches that makes the score, as the paper has it."""

_STRICT = ConfigDict(extra="forbid", frozen=True)


class UrlSource(BaseModel):
    """The publisher's own file."""

    model_config = _STRICT

    url: HttpUrl
    sha256: Sha256 | None
    sha256_start: Sha256Start | None = None

    @model_validator(mode="after")
    def _open_only_with_digest(self) -> Self:
        if self.url.scheme == "http" and self.sha256 is None:
            raise ValueError("an address without https needs the sha256 of what comes from it")
        return self

    def filename(self, backbone: str) -> str:  # noqa: ARG002  # the publisher's own file name is kept
        """What the file is called in the cache, below the backbone's folder."""
        return PurePosixPath(urlsplit(str(self.url)).path).name

    def __str__(self) -> str:
        return str(self.url)


class PackageSource(BaseModel):
    """A package on the Python registry that carries the same weights as an ONNX graph's initializers."""

    model_config = _STRICT

    package: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$")]
    wheel_sha256: Sha256
    member: str
    member_sha256: Sha256
    sha256: Sha256 | None

    def filename(self, backbone: str) -> str:
        """What the rebuilt state dict is called in the cache, below the backbone's folder."""
        return f"{backbone}.safetensors"

    def __str__(self) -> str:
        return f"the package {self.package}"


class NamedBackbone(BaseModel):
    """One backbone that is known by name."""

    model_config = _STRICT

    arch: Literal["vit_tiny", "vit_small", "vit_base"]
    patch_px: Annotated[int, Field(gt=0)]
    pos_grid: Annotated[int, Field(ge=0)]
    layer_scale: bool = False
    registers: Annotated[int, Field(ge=0)] = 0
    gated: bool = False
    licence: str
    terms: HttpUrl | None = None
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    input_px: Annotated[int, Field(gt=0)] = PAPER_INPUT_PX
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = PAPER_LAYERS
    join: Join = "mean"
    attention_layer: Annotated[int, Field(ge=0)] = PAPER_ATTENTION_LAYER
    neighbourhood: Annotated[int, Field(ge=1)] = 1
    top_ratio: Annotated[float, Field(gt=0, le=1)] = PAPER_TOP_RATIO
    sources: Annotated[tuple[UrlSource | PackageSource, ...], Field(min_length=1)]


@cache
def weights_table() -> dict[str, NamedBackbone]:
    """Every named backbone, in the file's order."""
    text = (files("export") / "weights.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, NamedBackbone]).validate_python(yaml.safe_load(text))


def named_backbone(name: str, table: Mapping[str, NamedBackbone] | None = None) -> NamedBackbone:
    """One row of the table, the packaged one if None.

    Raises:
        UsageError: no such backbone.
    """
    table = weights_table() if table is None else table
    if name not in table:
        raise UsageError(f"there is no backbone {name!r}; name one of {', '.join(table)}, or custom with --checkpoint")
    return table[name]
