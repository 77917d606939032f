"""The protocols between the daemon's parts, each with a fake in ``tests/fakes.py``."""

from typing import Protocol, Self, runtime_checkable

from edge_uad.records import Embedding, Float32, Frame, ModelCard, StationStatus, Trigger, UnreadableFrame, Verdict


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


@runtime_checkable
class ReplaceableSource(FrameSource, Protocol):
    """A source whose driver may keep a call for ever."""

    def fresh(self) -> Self:
        """Another one of the same camera or stream, not open, that counts its frames on. The old one may be in use."""


@runtime_checkable
class DrainableSource(FrameSource, Protocol):
    """A source that takes frames from senders before they are read."""

    def shut(self) -> None:
        """Take no more; ``read`` gives what was taken already and then raises SourceEndedError."""


@runtime_checkable
class CountedSource(FrameSource, Protocol):
    """A recording that states how much it holds."""

    @property
    def shortfall(self) -> str | None:
        """What was missing or damaged, in one sentence, after its end; None where everything promised was there."""


@runtime_checkable
class DecodingSource(FrameSource, Protocol):
    """A source whose pictures come encoded, and are decoded here."""

    def reduce_to(self, least_side_px: int) -> None:
        """Decode JPEG pictures at the smallest size whose sides both have so many pixels. Before ``open``."""


@runtime_checkable
class RemoteClockSource(FrameSource, Protocol):
    """A source whose frames carry capture times of another machine's clock."""

    @property
    def sender_clock_offset_s(self) -> float | None:
        """That clock less this machine's; None where it is not known yet. Any thread may read it."""


class TriggerTarget(Protocol):
    """What triggers go to: a triggered station. Any thread may call it."""

    def trigger(self, trigger: Trigger) -> bool:
        """Accept a trigger, which gets exactly one verdict; False where there is no room, or a stop was requested."""

    def resynchronise(self) -> None:
        """Answer triggers that wait for their frames, *invalid*, and count frames and triggers anew."""

    def refuse_trigger(self, trigger: Trigger, reason: str) -> bool:
        """Publish an *invalid* verdict for a trigger that was not accepted; False where there is no room for it."""


@runtime_checkable
class TriggerReceivingSource(FrameSource, Protocol):
    """A source whose senders may send triggers among the frames."""

    trigger_target: TriggerTarget | None
    """What ``read`` hands them to; None: the station is not triggered."""


class Backbone(Protocol):
    """A frozen ViT."""

    @property
    def card(self) -> ModelCard:
        """The model file's card."""

    def embed(self, pixels: Float32) -> list[Embedding]:
        """Embed a batch. Each result depends on its own image alone.

        Args:
            pixels: float32 (B, 3, H, W), normalised, H and W as the card says.
        """


class VerdictSink(Protocol):
    """Where verdicts go."""

    def publish(self, verdict: Verdict, frame: Frame | UnreadableFrame) -> None:
        """Publish or keep a verdict and its frame. Never blocks."""

    def publish_status(self, status: StationStatus) -> None:
        """Publish a station's heartbeat. Never blocks."""

    def close(self) -> None:
        """Send what is still queued, within a bound, and let go."""


@runtime_checkable
class WatchedSink(VerdictSink, Protocol):
    """A sink that shows others whether frames are being judged."""

    def feed_watchdog(self) -> None:
        """The judge makes progress: a frame was judged, a time-out handled, or there is none to judge. Never blocks."""
