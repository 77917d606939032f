"""The simulated textiles of ``conformal-clip-data`` (MIT; Megahed and Chen, 2025): nominal, local and global faults.

There is no published split and there are no masks. A bank may learn from the first 100 nominal images in natural
order; they are simulated independently of each other, so that any 100 would do. All others are scored.
"""

from pathlib import Path

from bank_tools.datasets.folders import pictures, samples
from bank_tools.datasets.records import Category, Layout

NOMINAL, FAULTS = "nominal", ("local", "global")
N_GOOD = 100
EXPECTED = """\
ROOT/
├── nominal/                *.jpg
├── local/                  *.jpg
└── global/                 *.jpg"""


def matches(root: Path) -> bool:
    """Whether ``nominal`` is here and a kind of fault."""
    return (root / NOMINAL).is_dir() and any((root / kind).is_dir() for kind in FAULTS)


def read(root: Path) -> list[Category]:
    """The one category; of few nominal images half are kept for scoring."""
    nominal = pictures(root / NOMINAL)
    n_good = min(N_GOOD, (len(nominal) + 1) // 2)
    test = samples(nominal[n_good:], root=root)
    for kind in FAULTS:
        test += samples(pictures(root / kind), root=root, kind=kind, anomalous=True)
    return [Category(name="textiles", good=tuple(samples(nominal[:n_good], root=root)), test=tuple(test))]


LAYOUT = Layout(name="textiles", title="the simulated textiles", expected=EXPECTED, matches=matches, read=read)
