"""Folder → dataset: its layout is recognised, its categories are read and checked; a wrong tree is drawn."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bank_tools.datasets import casting, cifar, classes, mtd, mvtec, textiles, visa
from bank_tools.datasets.folders import pictures, subfolders
from bank_tools.datasets.records import Category, Dataset, ImageFile, Layout, Sample
from bank_tools.datasets.wording import counted, listed, valid_utf8
from edge_uad.errors import UsageError
from edge_uad.sources.folder import describe_left_out, part_name, scan_folder

AUTO = "auto"
_KNOWN: tuple[Layout, ...] = (
    visa.LAYOUT,
    mvtec.MVTEC2,
    mvtec.LAYOUT,
    mvtec.BTAD,
    mtd.LAYOUT,
    casting.LAYOUT,
    cifar.LAYOUT,
    textiles.LAYOUT,
    classes.SPECIES60,
    classes.LAYOUT,
)
"""In the order in which they are tried: the more particular first."""
LAYOUTS: tuple[str, ...] = tuple(layout.name for layout in _KNOWN)
_MAX_WRAPPERS = 2
MAX_FOLDERS = 6
MAX_DEPTH = 3


def read_dataset(root: Path, *, layout: str = AUTO, categories: Sequence[str] | None = None) -> Dataset:
    """Read a dataset's tree: which images there are and where their masks lie; pictures are read later, one by one.

    Args:
        root: the dataset's folder, the folder of one category, or a folder that an archive wrapped around them.
        layout: one of ``LAYOUTS``, or ``auto`` to recognise it by the names of folders.
        categories: the names of those wanted; None for all.

    Raises:
        UsageError: no such folder, layout or category; a tree laid out otherwise, drawn next to the expected one;
            a category without good or without test images.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder; name the dataset's root")
    candidates = _candidates(layout)
    for base in _unwrapped(root):
        for candidate in candidates:
            if candidate.matches(base):
                return _read(base, candidate, categories)
    raise UsageError(_wrong_tree(root, candidates if layout != AUTO else ()))


def _read(root: Path, layout: Layout, wanted: Sequence[str] | None) -> Dataset:
    dataset = Dataset(
        name=valid_utf8(root.resolve().name),
        root=root,
        layout=layout.name,
        categories=tuple(map(_with_valid_names, layout.read(root))),
        labelled_classes=layout.labelled_classes,
    )
    if wanted is not None:
        dataset = dataset.only([valid_utf8(name) for name in wanted])
    checked = [
        _checked(category, root=root, labelled_classes=layout.labelled_classes) for category in dataset.categories
    ]
    if left_out := _left_out(dataset):
        checked[0] = replace(checked[0], warnings=(*left_out, *checked[0].warnings))
    return replace(dataset, categories=tuple(checked))


def _left_out(dataset: Dataset) -> list[str]:
    """Sentences that count the files which lie among the images and masks and were not read."""
    read: set[Path] = set()
    for category in dataset.categories:
        for sample in (*category.good, *category.test):
            if isinstance(sample.origin, ImageFile):
                read.add(sample.origin.path)
            if sample.mask_path is not None:
                read.add(sample.mask_path)
    folders = {file.parent for file in read}
    if not folders:
        return []
    found = scan_folder(dataset.root)
    sentences = []
    if text := describe_left_out((one for one in found.left_out if one.path.parent in folders), root=dataset.root):
        sentences.append(text)
    below = [
        part_name(file, dataset.root)
        for file in found.images
        if file.parent not in folders and any(parent in folders for parent in file.parents)
    ]
    if below:
        sentences.append(f"{counted(below, 'image')} left out, in folders inside a folder of images: {listed(below)}")
    return sentences


def _with_valid_names(category: Category) -> Category:
    """The category with names that JSON, HTML and the terminal can hold; a file's name may be any bytes."""
    return Category(
        name=valid_utf8(category.name),
        good=tuple(map(_with_valid_name, category.good)),
        test=tuple(map(_with_valid_name, category.test)),
        warnings=tuple(map(valid_utf8, category.warnings)),
    )


def _with_valid_name(sample: Sample) -> Sample:
    if sample.name.isascii() and sample.kind.isascii():
        return sample
    return replace(sample, name=valid_utf8(sample.name), kind=valid_utf8(sample.kind))


def _candidates(name: str) -> tuple[Layout, ...]:
    if name == AUTO:
        return _KNOWN
    for layout in _KNOWN:
        if layout.name == name:
            return (layout,)
    raise UsageError(f"there is no layout {name!r}; there are {AUTO}, {', '.join(LAYOUTS)}")


def _unwrapped(root: Path) -> Iterator[Path]:
    """The root, then what it holds as long as that is one folder alone."""
    yield root
    for _ in range(_MAX_WRAPPERS):
        inside = subfolders(root)
        if len(inside) != 1:
            return
        root = inside[0]
        yield root


def _wrong_tree(root: Path, asked: Sequence[Layout]) -> str:
    if asked:
        layout = asked[0]
        problem = f"{root} is not laid out as {layout.title}; put it in that form or name another --layout"
        expected = layout.expected
    else:
        problem = f"{root} has none of the known layouts ({', '.join(LAYOUTS)}); lay it out as below or name --layout"
        expected = mvtec.EXPECTED
    return f"{problem}\n\n{two_columns('expected', expected, 'found', drawn(root))}"


def _checked(category: Category, *, root: Path, labelled_classes: bool) -> Category:
    """The category with warnings of what costs a metric.

    Raises:
        UsageError: no good image to learn from, or nothing to score.
    """
    if not category.good:
        raise UsageError(
            f"{root}: the category {category.name} has no good image to learn from; add some or leave it out"
        )
    if not category.test:
        raise UsageError(f"{root}: the category {category.name} has no test image to score; add some or leave it out")
    warnings = list(category.warnings)
    if len(category.good) == 1:
        warnings.append(
            f"{category.name}: one good image alone; a threshold calibrated on it says little about the next part"
        )
    anomalous = [sample for sample in category.test if sample.anomalous]
    if not anomalous:
        warnings.append(f"{category.name}: no test image is anomalous; recall, AUROC and their like cannot be computed")
    elif len(anomalous) == len(category.test):
        warnings.append(
            f"{category.name}: every test image is anomalous; AUROC and the false-alarm rate cannot be computed"
        )
    if not labelled_classes:
        warnings += _without_masks(category.name, anomalous)
        warnings += _shared_masks(category)
    return replace(category, warnings=tuple(warnings))


def _without_masks(category: str, anomalous: list[Sample]) -> list[str]:
    bare = [sample for sample in anomalous if sample.mask_path is None]
    if not bare:
        return []
    if len(bare) == len(anomalous):
        return [f"{category}: no anomalous image has a mask; pixel metrics cannot be computed"]
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for sample in bare:
        by_kind[sample.kind].append(sample.name)
    return [
        f"{category}: {counted(names, 'image')} of kind {kind} {'has' if len(names) == 1 else 'have'} no mask and "
        f"{'counts' if len(names) == 1 else 'count'} in the image metrics alone: {listed(names)}"
        for kind, names in by_kind.items()
    ]


def _shared_masks(category: Category) -> list[str]:
    by_mask: defaultdict[Path, list[str]] = defaultdict(list)
    for sample in category.test:
        if sample.mask_path is not None:
            by_mask[sample.mask_path].append(sample.name)
    names = [name for those in by_mask.values() if len(those) > 1 for name in those]
    if not names:
        return []
    return [f"{category.name}: {counted(names, 'image')} with a mask that is another image's too: {listed(names)}"]


def two_columns(left_title: str, left: str, right_title: str, right: str) -> str:
    """Two columns of text."""
    left_lines, right_lines = [left_title, *left.splitlines()], [right_title, *right.splitlines()]
    n_lines = max(len(left_lines), len(right_lines))
    left_lines += [""] * (n_lines - len(left_lines))
    right_lines += [""] * (n_lines - len(right_lines))
    width = max(map(len, left_lines)) + 3
    return "\n".join(f"{a:<{width}}{b}".rstrip() for a, b in zip(left_lines, right_lines, strict=True))


def drawn(root: Path) -> str:
    """The folders that are there, a few of each level, with how many pictures and what else they hold."""
    return "\n".join([_label(root), *_below(root, depth=1)])


def _below(folder: Path, *, depth: int) -> list[str]:
    if depth > MAX_DEPTH:
        return []
    folders = subfolders(folder)
    entries = [(_label(inside), _below(inside, depth=depth + 1)) for inside in folders[:MAX_FOLDERS]]
    if len(folders) > MAX_FOLDERS:
        entries.append((f"… {len(folders) - MAX_FOLDERS} more folders", []))
    lines: list[str] = []
    for index, (label, below) in enumerate(entries):
        last = index == len(entries) - 1
        lines.append(("└── " if last else "├── ") + label)
        lines += [("    " if last else "│   ") + line for line in below]
    return lines


def _label(folder: Path) -> str:
    held = []
    images = pictures(folder)
    if images:
        held.append(counted(images, "image"))
    other = [path.name for path in folder.iterdir() if path.is_file() and path not in images]
    if other:
        held.append(", ".join(sorted(other)[:2]) + (" …" if len(other) > 2 else ""))
    return f"{folder.resolve().name}/" + (f"  {', '.join(held)}" if held else "")
