"""What two machines must have in common so that one's numbers are the other's, to the last bit: tried, not assumed.

The last bits of a matrix product depend on the instructions that a library takes for the processor it finds. They do
not depend on the numbers, so that a trial on drawn ones speaks for all of the same shape.
"""

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime

from bank_tools.bank.coreset import greedy_coreset
from bank_tools.bench.machine import machine
from edge_uad import __version__
from edge_uad.inference.search import PatchSearch
from edge_uad.interfaces import Backbone
from edge_uad.records import Float32

N_POINTS, DIM = 1500, 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How a machine computes."""

    versions: tuple[tuple[str, str], ...]
    """Of edge-uad and of what computes for it."""
    digest: str
    """SHA-256 of the bits that coreset and search gave for drawn patches."""
    processor: str
    """For people: two that differ may compute alike."""

    def difference_from(self, other: "Arithmetic") -> str | None:
        """What the other has otherwise, in words; None where its numbers are this one's."""
        theirs = dict(other.versions)
        for name, version in self.versions:
            if theirs.get(name) != version:
                return f"it has {name} {theirs.get(name)}, this machine {version}; install the same version there"
        if self.digest != other.digest:
            return (
                f"its processor ({other.processor}) gives other last bits than this machine's ({self.processor}), and "
                "results would depend on which part went where; leave it out of the cluster"
            )
        return None


@cache
def arithmetic() -> Arithmetic:
    """That of this machine."""
    points = drawn((N_POINTS, DIM))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    rows = greedy_coreset(points, ratio=0.1, seed=0)
    distances, nearest = PatchSearch(points[rows], threads=1).nearest(points)
    return Arithmetic(
        versions=(
            ("edge-uad", __version__),
            ("Python", ".".join(platform.python_version_tuple()[:2])),
            ("numpy", np.__version__),
            ("onnxruntime", onnxruntime.__version__),
        ),
        digest=digest_of([rows, distances, nearest, points @ points[:N_ANCHORS].T]),
        processor=machine()["CPU"],
    )


N_ANCHORS = 100


def drawn(shape: tuple[int, ...]) -> Float32:
    """float32 numbers from −1 to 1, the same on every machine."""
    whole = np.random.default_rng(0).integers(-128, 129, shape)
    return (whole / 128).astype(np.float32)


def backbone_digest(backbone: Backbone) -> str:
    """SHA-256 of the bits that a model gives for a drawn picture."""
    [embedding] = backbone.embed(drawn((1, 3, *backbone.card.input_hw)))
    return digest_of([embedding.tokens, embedding.attention])


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of the arrays' bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
