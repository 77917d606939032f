"""``export`` and ``bank_tools`` are top-level packages: a user's own modules of these names must not be taken for them.

The working directory comes before the installed packages on Python's path under ``python -m edge_uad`` and with
``PYTHONPATH=.``, and an ``export.py`` in it would be imported instead.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from edge_uad.errors import UsageError

NAMES = ("export", "bank_tools")
_ROOT = Path(__file__).parents[1]


class _OwnPackages:
    """Finds the packages of these names where ``edge_uad`` itself was found, whatever the path says."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in NAMES or path is not None:
            return None
        return PathFinder.find_spec(fullname, [str(_ROOT)], target)


_FINDER = _OwnPackages()


def own_packages() -> None:
    """From here on in this process, ``export`` and ``bank_tools`` are edge-uad's.

    Called before either is imported: by the command line at its start, by the Python API where it builds a bank.

    Raises:
        UsageError: another module of one of these names is imported already.
    """
    for name in NAMES:
        loaded = sys.modules.get(name)
        if loaded is not None and not _is_own(loaded, name):
            where = getattr(loaded, "__file__", None) or "this program"
            raise UsageError(
                f"a module called {name} is imported already, from {where}, and edge-uad has a package of that name; "
                "rename that module"
            )
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def command_of(module: str) -> list[str]:
    """The command that runs a module of these packages in a process of its own, as ``python -m`` would."""
    return [sys.executable, "-c", f"from {__name__} import run; run({module!r})"]


def run(module: str) -> None:
    """Run a module of these packages as the main program."""
    import runpy  # noqa: PLC0415  # a process of its own needs it, the others' start need not wait for it

    own_packages()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _is_own(module: ModuleType, name: str) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().parent == (_ROOT / name).resolve()
