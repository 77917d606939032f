"""All frames of a source that ends, such as a bank is built from."""

from collections.abc import Iterator

from edge_uad.errors import SourceEndedError
from edge_uad.interfaces import CountedSource, FrameSource
from edge_uad.records import Frame, UnreadableFrame

READ_TIMEOUT_S = 1.0


def shortfall_of(source: FrameSource) -> str | None:
    """What a recording that was read to its end lacked, in one sentence; None where it lacked nothing."""
    return source.shortfall if isinstance(source, CountedSource) else None


def frames_of(source: FrameSource) -> Iterator[Frame | UnreadableFrame]:
    """Open the source, yield every frame, close it.

    Raises:
        SourceLostError: the source cannot be opened or was lost halfway.
    """
    source.open()
    try:
        while True:
            try:
                frame = source.read(READ_TIMEOUT_S)
            except SourceEndedError:
                return
            if frame is not None:
                yield frame
    finally:
        source.close()
