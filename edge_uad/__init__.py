"""edge-uad: visual anomaly inspection, learned from good parts alone.

What is named in ``__all__`` is the public Python API (docs/python.md); every other name may change in any version.
Names are loaded at their first use, so that ``import edge_uad`` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

from edge_uad.no_telemetry import switch_off_telemetry

if TYPE_CHECKING:
    from edge_uad.api import Inspector, build_bank, open_bank
    from edge_uad.errors import EdgeUadError, GapError, SilenceError, SubscriberError
    from edge_uad.net.keys import ClientKeys, load_client_keys
    from edge_uad.net.subscriber import Subscriber, part_ok
    from edge_uad.records import BankManifest, Decision, StationState, StationStatus, Tiling, Verdict

__version__ = "0.1.0"

switch_off_telemetry()  # before any library is imported

__all__ = [
    "BankManifest",
    "ClientKeys",
    "Decision",
    "EdgeUadError",
    "GapError",
    "Inspector",
    "SilenceError",
    "StationState",
    "StationStatus",
    "Subscriber",
    "SubscriberError",
    "Tiling",
    "Verdict",
    "__version__",
    "build_bank",
    "load_client_keys",
    "open_bank",
    "part_ok",
]

_MODULES: Final = {
    "edge_uad.api": ("Inspector", "build_bank", "open_bank"),
    "edge_uad.errors": ("EdgeUadError", "GapError", "SilenceError", "SubscriberError"),
    "edge_uad.net.keys": ("ClientKeys", "load_client_keys"),
    "edge_uad.net.subscriber": ("Subscriber", "part_ok"),
    "edge_uad.records": ("BankManifest", "Decision", "StationState", "StationStatus", "Tiling", "Verdict"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
