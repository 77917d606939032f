"""How much arithmetic a frame needs, and how fast this machine does nothing but arithmetic."""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edge_uad.errors import EdgeUadError
from edge_uad.records import ModelCard

MATRIX_SIDE = 2048
MLP_RATIO = 4
"""Of the vision transformers that edge-uad knows."""
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations of one frame; a multiplication and its addition are two."""

    backbone: float
    search: float

    @property
    def total(self) -> float:
        """Of the whole frame; what the other stages calculate is less than a thousandth of it."""
        return self.backbone + self.search


def arithmetic_of(card: ModelCard, *, n_queries: float, n_bank: int) -> Arithmetic:
    """What the model and an exact search must calculate, by the shapes alone.

    Only matrix products are counted: norms, softmax and GELU are a hundredth of them. Register tokens, which the card
    does not tell, are left out.

    Args:
        card: of the model.
        n_queries: foreground patches of a frame, on average.
        n_bank: M, patches in the bank.
    """
    return Arithmetic(backbone=_backbone(card), search=2.0 * n_queries * n_bank * card.dim)


def _backbone(card: ModelCard) -> float:
    n_patches = card.grid_hw[0] * card.grid_hw[1]
    # concatenated blocks make the embedding wider than the transformer
    tokens, dim = n_patches + 1, card.dim // (len(card.layers) if card.join == "concat" else 1)
    embed = 2.0 * n_patches * 3 * card.patch_px**2 * dim
    linear = 2.0 * tokens * dim * dim * (3 + 1 + 2 * MLP_RATIO)  # query, key, value; projection; MLP
    attention = 2.0 * 2 * tokens * tokens * dim
    last_layer = max(card.layers)
    if card.attention_layer <= last_layer:
        return embed + (last_layer + 1) * (linear + attention)
    # of the attention layer only the CLS token's query, every key, and their products
    cls_row = 2.0 * dim * dim * (tokens + 1) + 2.0 * tokens * dim
    return embed + card.attention_layer * (linear + attention) + cls_row


class MatrixProduct:
    """Multiplies two large float32 matrices whenever asked; a context manager.

    Args:
        threads: of the BLAS; 0 for its own choice, one per core.
        side: rows and columns.
    """

    def __init__(self, *, threads: int = 0, side: int = MATRIX_SIDE) -> None:
        self._side = side
        environment = dict(os.environ)
        if threads:
            environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
        command = [sys.executable, "-m", "bank_tools.bench.matmul", str(side)]
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def rate_hz(self) -> float:
        """Floating-point operations per second of one product.

        Raises:
            EdgeUadError: the process is gone.
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
