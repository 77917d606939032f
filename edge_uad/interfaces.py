"""What the daemon's parts are to one another: three protocols, each with a fake in ``tests/fakes.py``."""

from typing import Protocol

from edge_uad.records import Embedding, Float32, Frame, ModelCard, StationStatus, UnreadableFrame, Verdict


class FrameSource(Protocol):
    """One station's frames, in order. One thread at a time uses it."""

    def open(self) -> None:
        """Connect. May be called again after ``close``.

        Raises:
            SourceLostError: not there (yet); the caller tries again later.
        """

    def read(self, timeout_s: float) -> Frame | UnreadableFrame | None:
        """The next frame; None where none came within ``timeout_s``.

        Raises:
            SourceLostError: the connection is gone; ``close`` and ``open`` again.
            SourceEndedError: there will be no more frames.
        """

    def close(self) -> None:
        """Let go of everything; harmless when nothing is open."""


class Backbone(Protocol):
    """A frozen ViT."""

    @property
    def card(self) -> ModelCard:
        """What the model file says of itself."""

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch. Each result depends on its own image alone.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W as the card says.
        """


class VerdictSink(Protocol):
    """Where verdicts go."""

    def publish(self, verdict: Verdict, frame: Frame | UnreadableFrame) -> None:
        """Tell a verdict, with its heatmap over the frame where that is asked for. Never blocks."""

    def publish_status(self, status: StationStatus) -> None:
        """Tell that a station lives. Never blocks."""

    def close(self) -> None:
        """Send what is still queued, within a bound, and let go."""
