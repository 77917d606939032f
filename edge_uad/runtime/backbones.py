"""A model file, opened in the precisions that banks ask for, each once."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_uad.errors import ModelError, UsageError
from edge_uad.inference.backbones import CPU_PROVIDERS, open_backbone
from edge_uad.inference.backbones.certificate import require_certificate, shortfalls
from edge_uad.inference.backbones.openvino import openvino_is_installed
from edge_uad.inference.backbones.processor import cpu_features
from edge_uad.inference.bank import short_id
from edge_uad.interfaces import Backbone
from edge_uad.records import BankManifest, CertifiedPrecision, InferencePrecision, Provider, WantedPrecision
from edge_uad.runtime.artefacts import opened_inside

log = logging.getLogger("edge_uad.runtime.backbones")


@dataclass(frozen=True, slots=True)
class ChosenPrecision:
    """In what a bank is judged here."""

    precision: InferencePrecision
    reason: str | None = None
    """Why not in what it is certified for, without a full stop; None where there is nothing to explain."""


def choose_precision(manifest: BankManifest, wanted: WantedPrecision, provider: Provider) -> ChosenPrecision:
    """The precision of a bank on this machine.

    Raises:
        UsageError: a lower precision is wanted that the provider cannot do.
        ModelError: one is wanted that this bank is not certified for, or this machine cannot do.
    """
    if wanted == "fp32" or (wanted == "auto" and provider not in CPU_PROVIDERS):
        return ChosenPrecision("fp32")
    if provider not in CPU_PROVIDERS:
        raise UsageError(
            f"--precision {wanted} is for the processor, the provider is {provider}; "
            "export the model with --precision fp16 for a GPU"
        )
    obstacles = {one.precision: _obstacle(one) for one in manifest.precisions}
    if wanted == "auto":
        possible = [precision for precision, obstacle in obstacles.items() if obstacle is None]
        if possible:
            return ChosenPrecision(possible[0])
        first = next(iter(obstacles.items()), None)
        return ChosenPrecision("fp32", None if first is None else f"{first[1]}, which {first[0]} needs")
    if wanted not in obstacles:
        raise ModelError(
            f"bank {short_id(manifest.bank_id)} is not certified for {wanted}; rerun edge-uad build-bank on a machine "
            "that can do it, or use --precision fp32"
        )
    if (obstacle := obstacles[wanted]) is not None:
        raise ModelError(f"{obstacle}, which {wanted} needs; use --precision auto or fp32")
    return ChosenPrecision(wanted)


def _obstacle(certified: CertifiedPrecision) -> str | None:
    """Why a certified precision cannot be used here; None where it can."""
    if missing := [feature for feature in certified.features if feature not in cpu_features()]:
        return f"this processor has no {' and no '.join(missing)}"
    if not openvino_is_installed():
        return "this installation has no OpenVINO (pip install 'edge-uad[openvino]')"
    if beyond := shortfalls(certified.certificate):
        return f"its certificate is not within tolerance ({', '.join(beyond)})"
    return None


def load_backbone(
    model: Path,
    *,
    opened: Path | None = None,
    provider: Provider = "cpu",
    threads: int = 0,
    batched: bool = False,
    precision: InferencePrecision = "fp32",
    at_once: int = 1,
) -> Backbone:
    """Open a model file; one of a lower precision by its parity certificate alone.

    Args:
        model: the file.
        opened: what reads it, where it is open already; None for the path itself.
        provider: cpu, cuda, tensorrt or openvino.
        threads: of the CPU; 0 for one per core.
        batched: several images in one run, where the last bits of a score are worth the time won.
        precision: of an fp32 model's arithmetic; for a bank that is certified for it.
        at_once: how many threads use it at a time.

    Raises:
        ModelError: not a model of edge-uad, or of a lower precision without a certificate that holds here.
        MissingExtraError: what runs it is not installed.
        ProviderError: the requested accelerator is not active.
    """
    backbone = open_backbone(
        model,
        opened=opened,
        provider=provider,
        threads=threads,
        batched=batched,
        precision=precision,
        at_once=at_once,
    )
    require_certificate(backbone.card, model, provider=provider)
    return backbone


@dataclass(frozen=True, slots=True)
class BankBackbone:
    """What judges the frames of one bank."""

    backbone: Backbone
    on_one_core: Backbone | None = None
    """The same on one core, for several frames side by side; None where that is not wanted."""
    precision: InferencePrecision = "fp32"
    reason: str | None = None
    """See :class:`ChosenPrecision`."""


class Backbones:
    """Opens a model file in a precision when the first bank asks for it, and keeps it for the next.

    Several threads may use it.

    Args:
        model: the file.
        provider: cpu, cuda, tensorrt or openvino.
        threads: of the CPU; 0 for one per core.
        precision: what is wanted.
        batched: several images in one run, in fp32; in a lower precision they follow each other, as certified.
        at_once: how many threads use a backbone at a time.
        side_by_side: how many frames are judged at a time, each on one core, where several wait; 1 for never.
        within: the folder that the file must lie in; None for any.
    """

    def __init__(
        self,
        model: Path,
        *,
        provider: Provider = "cpu",
        threads: int = 0,
        precision: WantedPrecision = "auto",
        batched: bool = False,
        at_once: int = 1,
        side_by_side: int = 1,
        within: Path | None = None,
    ) -> None:
        self.model = model
        """The file."""
        self._provider = provider
        self._threads = threads
        self._wanted = precision
        self._batched = batched
        self._at_once = at_once
        self._side_by_side = side_by_side
        self._within = within
        self._model_id: str | None = None
        self._opened: dict[InferencePrecision, BankBackbone] = {}
        self._lock = threading.Lock()

    def in_fp32(self) -> Backbone:
        """The model itself.

        Raises:
            EdgeUadError: as :func:`load_backbone`.
        """
        return self._in("fp32").backbone

    def for_bank(self, manifest: BankManifest) -> BankBackbone:
        """What judges by a bank, in the precision wanted; the caller sees to it that the bank is of this model.

        Raises:
            EdgeUadError: as :func:`choose_precision` and :func:`load_backbone`.
        """
        with self._lock:
            if self._opened and manifest.model_id != self._model_id:
                # refused by its model, whatever its precision: nothing is opened for it
                return next(iter(self._opened.values()))
        chosen = choose_precision(manifest, self._wanted, self._provider)
        found = self._in(chosen.precision)
        return BankBackbone(found.backbone, found.on_one_core, chosen.precision, chosen.reason)

    def _in(self, precision: InferencePrecision) -> BankBackbone:
        with self._lock:
            found = self._opened.get(precision)
            if found is None:
                found = self._opened[precision] = self._open(precision)
            return found

    def _open(self, precision: InferencePrecision) -> BankBackbone:
        """Open the file once or twice; where it was opened before, it must be the same one."""
        with opened_inside(self.model, self._within) as opened:
            backbone = self._load(opened, precision, threads=self._threads, at_once=self._at_once)
            on_one_core = None
            if self._side_by_side > 1:
                on_one_core = self._load(opened, precision, threads=1, at_once=self._side_by_side)
        self._check_same([one for one in (backbone, on_one_core) if one is not None])
        return BankBackbone(backbone, on_one_core, precision)

    def _load(self, opened: Path, precision: InferencePrecision, *, threads: int, at_once: int) -> Backbone:
        return load_backbone(
            self.model,
            opened=opened,
            provider=self._provider,
            threads=threads,
            # several images in one run are rounded otherwise, which below fp32 is more than the last bits
            batched=self._batched and threads != 1 and precision == "fp32",
            precision=precision,
            at_once=at_once,
        )

    def _check_same(self, backbones: Sequence[Backbone]) -> None:
        for one in backbones:
            self._model_id = self._model_id or one.card.model_id
            if one.card.model_id != self._model_id:
                raise ModelError(f"model {self.model} was replaced while it was in use; start again")
