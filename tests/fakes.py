"""Implementations of the three protocols for tests: everything real except the camera, the ViT and the subscriber."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from edge_uad.errors import SourceEndedError, SourceLostError
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.inspector import Embedder, Inspector
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.interfaces import Backbone, FrameSource
from edge_uad.records import (
    AnyFrame,
    Embedding,
    Float32,
    Frame,
    Geometry,
    ModelCard,
    StationStatus,
    UInt8,
    Verdict,
)
from tests.banks import DIM, random_bank

STATION = "line"
GREEN = (40, 160, 40)
RED = (200, 30, 30)


def picture(colour: tuple[int, int, int] = GREEN, hw: tuple[int, int] = (24, 32)) -> UInt8:
    """One colour all over."""
    return np.full((*hw, 3), colour, np.uint8)


def frame(
    frame_id: int = 0, colour: tuple[int, int, int] = GREEN, *, station: str = STATION, dropped_before: int = 0
) -> Frame:
    """A frame of this moment."""
    return Frame(
        station=station,
        frame_id=frame_id,
        captured_at_ns=time.time_ns(),
        captured_mono_ns=time.monotonic_ns(),
        dropped_before=dropped_before,
        image=picture(colour),
    )


def read_to_end(source: FrameSource) -> list[AnyFrame]:
    """Every frame of a source that ends by itself."""
    frames = []
    source.open()
    try:
        while True:
            frame = source.read(1.0)
            if frame is not None:
                frames.append(frame)
    except SourceEndedError:
        return frames
    finally:
        source.close()


def until(happened: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return as soon as it happened; fail the test where it does not."""
    deadline_s = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.002)


class ScriptedSource:
    """Gives what it is told, one step per read: a frame, None for a time-out, or an error to raise; then it ends.

    Args:
        steps: what each read does.
        open_faults: errors of the first calls of ``open``.
        then_wait: after the last step time out for ever, instead of ending.
    """

    def __init__(
        self,
        steps: Iterable[AnyFrame | Exception | None] = (),
        *,
        open_faults: Sequence[Exception] = (),
        then_wait: bool = False,
    ) -> None:
        self._steps = iter(steps)
        self._open_faults = list(open_faults)
        self._then_wait = then_wait
        self._nothing = threading.Event()
        self.opened = 0
        self.closed = 0
        self.given = 0
        self.threads: set[int] = set()

    def open(self) -> None:
        self.threads.add(threading.get_ident())
        self.opened += 1
        if self._open_faults:
            raise self._open_faults.pop(0)

    def read(self, timeout_s: float) -> AnyFrame | None:
        self.threads.add(threading.get_ident())
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            self.given += step is not None
            return step
        if not self._then_wait:
            raise SourceEndedError("the script is over")
        self._nothing.wait(timeout_s)
        return None

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1


class BlockedSource(ScriptedSource):
    """Gives its steps, then its ``read`` does not come back until ``let_go`` is set."""

    def __init__(self, steps: Iterable[AnyFrame | Exception | None] = ()) -> None:
        super().__init__(steps, then_wait=True)
        self.blocked = threading.Event()
        self.let_go = threading.Event()

    def read(self, timeout_s: float) -> AnyFrame | None:  # noqa: ARG002  (this is its fault)
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            return step
        self.blocked.set()
        self.let_go.wait()
        raise SourceLostError("it came back after all")


class StuckCamera:
    """Each of its connections gives so many frames and then never comes back from ``read``, until let go.

    Args:
        frames: of each connection; a connection beyond these goes on for ever.
        let_go: shared by all connections.
    """

    def __init__(self, frames: Sequence[int], *, let_go: threading.Event | None = None, first_id: int = 0) -> None:
        self._frames = list(frames)
        self._next_id = first_id
        self._given = 0
        self.let_go = let_go or threading.Event()
        self.closed = 0
        self.replacements: list[StuckCamera] = []

    def open(self) -> None:
        pass

    def read(self, timeout_s: float) -> AnyFrame | None:
        if not self._frames:
            self.let_go.wait(timeout_s / 10)
        elif self._given == self._frames[0]:
            self.let_go.wait()
        self._given += 1
        self._next_id += 1
        return frame(self._next_id - 1)

    def fresh(self) -> "StuckCamera":
        other = StuckCamera(self._frames[1:], let_go=self.let_go, first_id=self._next_id)
        self.replacements.append(other)
        return other

    def close(self) -> None:
        self.closed += 1


class FakeBackbone:
    """Embeds each patch by its mean colour; every patch is foreground.

    Args:
        before_embed: called before each inference, with its number; may raise or wait.
    """

    def __init__(self, before_embed: Callable[[int], None] | None = None) -> None:
        self._before_embed = before_embed
        self._projection = np.random.default_rng(0).standard_normal((4, DIM)).astype(np.float32)
        self.inferences = 0
        self.batches: list[int] = []

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            model_id="f" * 64,
            backbone="mean colour",
            input_hw=(16, 16),
            grid_hw=(4, 4),
            patch_px=4,
            dim=DIM,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            layers=(0,),
            attention_layer=0,
            precision="fp32",
            licence="Apache-2.0",
            weights_sha256="0" * 64,
        )

    def embed(self, pixels: Float32) -> list[Embedding]:
        self.inferences += 1
        self.batches.append(len(pixels))
        if self._before_embed is not None:
            self._before_embed(self.inferences)
        return [self._embed_one(one) for one in pixels]

    def _embed_one(self, pixels: Float32) -> Embedding:
        means = pixels.reshape(3, 4, 4, 4, 4).mean(axis=(2, 4)).reshape(3, 16).T
        tokens = np.concatenate([means, np.full((16, 1), 0.1, np.float32)], axis=1) @ self._projection
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        return Embedding(tokens=tokens.astype(np.float32), attention=np.full(16, 1 / 16, np.float32), grid_hw=(4, 4))


def green_inspector(backbone: FakeBackbone | None = None) -> Inspector:
    """The real inspector, with a bank that knows green parts as good: green is normal, red is anomalous."""
    return inspector_of(GREEN, backbone=backbone)


def inspector_of(
    colour: tuple[int, int, int],
    *,
    backbone: Backbone | None = None,
    bank: PatchBank | None = None,
    on_one_core: Inspector | None = None,
) -> Inspector:
    """The real inspector, with that bank, or with one that knows parts of this colour as good."""
    backbone = backbone or FakeBackbone()
    card = backbone.card
    preprocessor = Preprocessor(
        geometry=Geometry.STRETCH, roi=None, input_hw=card.input_hw, mean=card.mean, std=card.std
    )
    embedder = Embedder(backbone=backbone, preprocessor=preprocessor, bpm_kernel=1, bpm_threshold=0.1)
    known = bank or _bank_of(preprocessor.pixels(picture(colour)))
    return Inspector(embedder=embedder, bank=known, on_one_core=on_one_core)


def _bank_of(pixels: Float32) -> PatchBank:
    [good] = FakeBackbone().embed(pixels[None])
    like = random_bank(threshold=0.01, n_patches=len(good.tokens))
    return PatchBank.sealed(
        patches=good.tokens,
        patch_image=np.zeros(len(good.tokens), np.int64),
        calibration=like.calibration,
        manifest=dataclasses.replace(like.manifest, bank_id=""),
    )


class RecordingSink:
    """Keeps what it is told; ``wait_for`` lets a test see it happen."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.verdicts: list[Verdict] = []
        self.statuses: list[StationStatus] = []
        self.closed = False

    def publish(self, verdict: Verdict, frame: AnyFrame) -> None:
        assert (verdict.station, verdict.frame_id) == (frame.station, frame.frame_id)
        with self._changed:
            self.verdicts.append(verdict)
            self._changed.notify_all()

    def publish_status(self, status: StationStatus) -> None:
        with self._changed:
            self.statuses.append(status)
            self._changed.notify_all()

    def close(self) -> None:
        self.closed = True

    def wait_for(self, happened: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Return as soon as it happened; fail the test where it does not."""
        with self._changed:
            assert self._changed.wait_for(happened, timeout_s), "it did not happen in time"

    def of(self, station: str) -> list[Verdict]:
        """One station's verdicts."""
        return [verdict for verdict in self.verdicts if verdict.station == station]
