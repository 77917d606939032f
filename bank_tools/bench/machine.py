"""Which machine, and which versions: what a time means nothing without."""

import os
import platform
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_uad import __version__

INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Those that matrix products care about, as Linux names them on x86."""
ARM_INSTRUCTION_SETS = ("asimd", "asimddp", "sve", "i8mm", "bf16")
PACKAGES = ("onnxruntime", "faiss-cpu", "numpy", "opencv-python-headless", "pillow", "pyzmq")
MORE_PACKAGES = ("torch", "openvino")
"""Told where they are installed."""


def machine() -> dict[str, str]:
    """What to name beside every figure."""
    info = _cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    sets = [name for name in (*INSTRUCTION_SETS, *ARM_INSTRUCTION_SETS) if name in flags]
    packages = [f"{name} {found}" for name in (*PACKAGES, *MORE_PACKAGES) if (found := _version(name))]
    return {
        "CPU": info.get("model name", platform.processor() or platform.machine()),
        "cores": str(os.cpu_count()),
        "instruction sets": " ".join(sets) or "not told",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join([f"edge-uad {__version__}", *packages]),
    }


class OtherPrograms:
    """How much of the machine other programs take, from its making on: the more, the less its figures are worth."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def share(self) -> float | None:
        """Of all cores' time since the beginning, what neither this process nor its ended children took, 0 to 1.

        Time that a hypervisor kept for itself counts as taken. None where the system does not tell.
        """
        busy_s, began_s = _busy_s(), self._busy_s
        if busy_s is None or began_s is None:
            return None
        others_s = busy_s - began_s - (_own_s() - self._own_s)
        return min(max(others_s / ((time.monotonic() - self._since_s) * (os.cpu_count() or 1)), 0.0), 1.0)


def _own_s() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _busy_s() -> float | None:
    """Core seconds since the start of the machine that were not idle; a guest's are counted in the user's already."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, first.split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _cpu_info() -> dict[str, str]:
    """The first processor's facts; nothing where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
