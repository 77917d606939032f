"""The pictures that settings are chosen by: good parts, and the rejects at hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bank_tools.datasets.records import GOOD, ImageFile, Sample
from bank_tools.datasets.wording import counted, listed
from edge_uad.errors import FrameError, UsageError
from edge_uad.progress import Progress
from edge_uad.sources import SourceKind, parse_source
from edge_uad.sources.folder import describe_left_out, find_images, part_name, root_of

FEWEST_REJECTS = 3
REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Parts:
    """Good parts and rejects, no picture of one among the other."""

    good: tuple[Sample, ...]
    rejects: tuple[Sample, ...]
    """Each can be read, and none is a copy of another."""
    warnings: tuple[str, ...]
    """What was left out, one sentence each."""


def read_parts(normals: str, rejects: str, progress: Progress) -> Parts:
    """Find the pictures and look at the rejects; good parts are read when they are learned.

    Args:
        normals: folder or glob of good parts.
        rejects: folder or glob of parts that must be rejected.
        progress: shows the steps.

    Raises:
        UsageError: nothing is there, fewer than three rejects can be used, or a reject is among the good parts.
    """
    good, good_left_out = _samples(normals, GOOD)
    bad, bad_left_out = _samples(rejects, REJECT)
    readable, unreadable = _readable(bad, progress)
    different, copies = _without_copies(readable)
    usable = [text for text in (good_left_out, bad_left_out) if text]
    if unreadable:
        usable.append(f"{counted(unreadable, 'reject')} cannot be read and left out: {listed(unreadable)}")
    if copies:
        usable.append(f"{counted(copies, 'reject')} left out as copies of others: {listed(copies)}")
    if len(different) < FEWEST_REJECTS:
        why = f": {'; '.join(usable)}" if unreadable or copies else ""
        raise UsageError(
            f"{rejects} holds {counted(different, 'picture')} of rejects to choose by, {FEWEST_REJECTS} are needed; "
            f"add some{why}"
        )
    _refuse_mixed(good, different, progress)
    return Parts(good=tuple(good), rejects=tuple(different), warnings=tuple(usable))


def _samples(path_or_glob: str, kind: str) -> tuple[list[Sample], str | None]:
    if (address := parse_source(path_or_glob)).kind is not SourceKind.FOLDER:
        raise UsageError(f"{path_or_glob}: tune compares pictures, this is a {address.kind}; name a folder or a glob")
    found = find_images(path_or_glob)
    root = root_of(path_or_glob)
    samples = [
        Sample(name=name, kind=kind, anomalous=kind != GOOD, origin=ImageFile(file))
        for file, name in zip(found.images, _names(found.images, root), strict=True)
    ]
    return samples, describe_left_out(found.left_out, root=root)


def _names(files: Sequence[Path], root: Path) -> list[str]:
    """Each different, also where bytes that are not UTF-8 are shown alike."""
    found: dict[str, None] = {}
    for file in files:
        name = part_name(file, root)
        found[name if name not in found else f"{name} ({len(found)})"] = None
    return list(found)


def _readable(rejects: Sequence[Sample], progress: Progress) -> tuple[list[Sample], list[str]]:
    readable, unreadable = [], []
    with progress.step("reading rejects", len(rejects), "images") as done:
        for sample in rejects:
            try:
                sample.image()
                sample.digest()
            except FrameError as error:
                unreadable.append(f"{sample.name} ({error})")
            else:
                readable.append(sample)
            done(1)
    return readable, unreadable


def _without_copies(samples: Sequence[Sample]) -> tuple[list[Sample], list[str]]:
    first: dict[str, Sample] = {}
    copies = [sample.name for sample in samples if first.setdefault(sample.digest(), sample) is not sample]
    return list(first.values()), copies


def _refuse_mixed(good: Sequence[Sample], rejects: Sequence[Sample], progress: Progress) -> None:
    digests = {sample.digest(): sample.name for sample in rejects}
    mixed = []
    with progress.step("comparing", len(good), "images") as done:
        for sample in good:
            try:
                if sample.digest() in digests:
                    mixed.append(sample.name)
            except FrameError:
                pass  # what cannot be read is named when it is learned
            done(1)
    if mixed:
        raise UsageError(
            f"{counted(mixed, 'reject')} {'is' if len(mixed) == 1 else 'are'} among the good parts, too: "
            f"{listed(mixed)}; take them out of one of the two"
        )
