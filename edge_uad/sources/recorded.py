"""All frames of a source that ends: what a bank is built from."""

from collections.abc import Iterator

from edge_uad.errors import SourceEndedError
from edge_uad.interfaces import FrameSource
from edge_uad.records import Frame, UnreadableFrame

READ_TIMEOUT_S = 1.0


def frames_of(source: FrameSource) -> Iterator[Frame | UnreadableFrame]:
    """Open, give every frame, close.

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
