"""Trees as text: what was expected beside what was found."""

from pathlib import Path

from bank_tools.datasets.folders import counted, pictures, subfolders

MAX_FOLDERS = 6
MAX_DEPTH = 3


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
