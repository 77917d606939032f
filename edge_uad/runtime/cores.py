"""How many cores there are to work on."""

import os


def available_cores() -> int:
    """Those that this process may use: a service manager or a container may grant it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
