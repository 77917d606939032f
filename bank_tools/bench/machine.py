"""The machine of a bench: its description, the share that other programs take of it, and its arithmetic rate.

``python -m bank_tools.bench.machine SIDE`` multiplies two large matrices for each line on stdin and answers with the
seconds it took: a separate process, because a BLAS fixes its number of threads when it is loaded.
"""

import contextlib
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from edge_uad import __version__
from edge_uad._packages import command_of
from edge_uad.errors import EdgeUadError
from edge_uad.inference.backbones.processor import cpu_flags, cpu_info
from edge_uad.records import ModelCard, joined_width

INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Those that matter for matrix products, as Linux names them on x86."""
ARM_INSTRUCTION_SETS = ("asimd", "asimddp", "sve", "i8mm", "bf16")
PACKAGES = ("onnxruntime", "faiss-cpu", "numpy", "opencv-python-headless", "pillow", "pyzmq", "simplejpeg", "av")
OPTIONAL_PACKAGES = ("torch", "openvino")
MATRIX_SIDE = 2048
MLP_RATIO = 4
"""Of the vision transformers that edge-uad knows."""
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def machine() -> dict[str, str]:
    """Hardware and versions, to be printed with every figure."""
    info, flags = cpu_info(), cpu_flags()
    sets = [name for name in (*INSTRUCTION_SETS, *ARM_INSTRUCTION_SETS) if name in flags]
    packages = [f"{name} {found}" for name in (*PACKAGES, *OPTIONAL_PACKAGES) if (found := _version(name))]
    return {
        "CPU": info.get("model name", platform.processor() or platform.machine()),
        "cores": str(os.cpu_count()),
        "instruction sets": " ".join(sets) or "unknown",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join([f"edge-uad {__version__}", *packages]),
    }


class OtherPrograms:
    """The share of the machine that other programs take from now on: the larger, the less the figures are worth."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), _own_s()

    def share(self) -> float | None:
        """Part of all cores' time, 0 to 1, that neither this process nor its ended children used.

        Time that a hypervisor gave to others counts as used. None where the system does not report it.
        """
        busy_s, began_s = _busy_s(), self._busy_s
        if busy_s is None or began_s is None:
            return None
        others_s = busy_s - began_s - (_own_s() - self._own_s)
        return min(max(others_s / ((time.monotonic() - self._since_s) * (os.cpu_count() or 1)), 0.0), 1.0)


def peak_rss_mib(process: str = "self") -> float | None:
    """The most memory that a process has held, in MiB; None where there is no /proc."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return None
    _, found, rest = status.partition("VmHWM:")
    return int(rest.split()[0]) / 1024 if found else None


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations of one frame; a multiplication and its addition are two."""

    backbone: float
    search: float

    @property
    def total(self) -> float:
        """Of the whole frame; the other stages calculate less than a thousandth of it."""
        return self.backbone + self.search


def arithmetic_of(card: ModelCard, *, n_queries: float, n_bank: int, n_tiles: int = 1) -> Arithmetic:
    """Floating-point operations of the model and of an exact search, computed from the shapes alone.

    Only matrix products are counted: norms, softmax and GELU are a hundredth of them. Register tokens, which the card
    does not state, are left out.

    Args:
        card: of the model.
        n_queries: foreground patches of a frame, on average.
        n_bank: M, patches in the bank.
        n_tiles: that a frame is seen as, each by one inference.
    """
    return Arithmetic(backbone=n_tiles * _backbone(card), search=2.0 * n_queries * n_bank * card.dim)


class MatrixProduct:
    """Multiplies two large float32 matrices on request; a context manager.

    Args:
        threads: of the BLAS; 0 for its own choice, one per core.
        side: rows and columns.
    """

    def __init__(self, *, threads: int = 0, side: int = MATRIX_SIDE) -> None:
        self._side = side
        environment = dict(os.environ)
        if threads:
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
        command = [*command_of("bank_tools.bench.machine"), str(side)]
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def rate_hz(self) -> float:
        """Floating-point operations per second of one product.

        Raises:
            EdgeUadError: the process has ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise EdgeUadError("the process that multiplies matrices has no pipes")
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise EdgeUadError(
                f"the process that multiplies matrices ended with code {self._process.wait()}; is memory short?"
            )
        return 2.0 * self._side**3 / float(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()


def multiply_on_request(side: int) -> None:
    """Answer each line on stdin with the seconds of one product, until stdin ends."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, side, side), np.float32)
    product = np.empty_like(one)
    np.matmul(one, other, out=product)
    for _ in sys.stdin:
        started_s = time.perf_counter()
        np.matmul(one, other, out=product)
        print(time.perf_counter() - started_s, flush=True)


def _backbone(card: ModelCard) -> float:
    n_patches = card.grid_hw[0] * card.grid_hw[1]
    # concatenated blocks make the embedding wider than the transformer
    tokens, dim = n_patches + 1, card.dim // joined_width(card.join, card.layers)
    embed = 2.0 * n_patches * 3 * card.patch_px**2 * dim
    linear = 2.0 * tokens * dim * dim * (3 + 1 + 2 * MLP_RATIO)  # query, key, value; projection; MLP
    attention = 2.0 * 2 * tokens * tokens * dim
    last_layer = max(card.layers)
    if card.attention_layer <= last_layer:
        return embed + (last_layer + 1) * (linear + attention)
    # of the attention layer only the CLS token's query, every key, and their products
    cls_row = 2.0 * dim * dim * (tokens + 1) + 2.0 * tokens * dim
    return embed + card.attention_layer * (linear + attention) + cls_row


def _own_s() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _busy_s() -> float | None:
    """Core seconds since the machine's start that were not idle; a guest's are counted in the user's already."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, first.split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    multiply_on_request(int(sys.argv[1]))
