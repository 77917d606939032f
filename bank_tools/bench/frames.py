"""The frames that a bench sends: encoded, as a camera's program sends them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from io import BytesIO
from itertools import cycle, islice

import numpy as np
from PIL import Image

from edge_uad.errors import FrameError, UsageError
from edge_uad.net.wire import FrameMessage
from edge_uad.records import Float32, Frame
from edge_uad.sources.decode import decode_image, decode_picture
from edge_uad.sources.folder import image_files, part_name, root_of
from edge_uad.sources.sender import JPEG_QUALITY, frame_message

STATION = "bench"
MAX_FRAMES = 64
"""Different ones; they are sent again and again."""
MAX_BYTES = 256 * 1024 * 1024
CAMERA_HW = (960, 1280)
"""Of the frames that are drawn from one picture."""
DRAWN_FRAMES = 24
SHOWN_RATIO = 0.9
NOISE_LEVELS = 2.0
_FORMATS = {"jpeg": "JPEG", "png": "PNG"}


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """What is sent."""

    messages: tuple[FrameMessage, ...]
    origin: str
    """Where they come from, for people."""

    @property
    def described(self) -> str:
        """How many, what size, what encoding."""
        sizes = sorted({f"{one.width}×{one.height}" for one in self.messages})
        shown = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        kib = np.median([len(one.payload) for one in self.messages]) / 1024
        encodings = ", ".join(sorted({one.encoding for one in self.messages}))
        return f"{len(self.messages)} frames, {shown} px, {encodings}, {kib:.0f} KiB each ({self.origin})"

    def endless(self) -> Iterator[FrameMessage]:
        """Again and again."""
        return cycle(self.messages)

    def first(self, n: int) -> list[FrameMessage]:
        """So many, from the first on, again and again."""
        return list(islice(self.endless(), n))


def frames_from_files(images: Sequence[str]) -> EncodedFrames:
    """HeatmapRenderer of folders, globs or files as frames; JPEG and PNG files go as they are.

    Args:
        images: as ``edge-uad send`` takes them.

    Raises:
        UsageError: nothing is there, or a file holds no picture.
        EdgeUadError: a file cannot be read.
    """
    found = [(file, root_of(named)) for named in images for file in image_files(named)]
    messages: list[FrameMessage] = []
    held_bytes = 0
    for file, root in found[:MAX_FRAMES]:
        message = frame_message(
            file, station=STATION, frame_id=len(messages), part_id=part_name(file, root), encoding="as-is"
        )
        try:
            decoded(message)
        except FrameError as error:
            raise UsageError(f"{file}: {error}; a bench needs whole pictures, leave this one out") from error
        held_bytes += len(message.payload)
        if messages and held_bytes > MAX_BYTES:
            break
        messages.append(message)
    return EncodedFrames(tuple(messages), ", ".join(images))


def frames_from_picture(picture: bytes, n: int, *, hw: tuple[int, int] = CAMERA_HW, seed: int = 0) -> EncodedFrames:
    """Frames as a camera would take them of one scene: its place varies a little, and there is noise.

    Args:
        picture: an image file.
        n: how many.
        hw: the camera's.
        seed: of places and noise.
    """
    scene = Image.fromarray(decode_image(picture))
    rng = np.random.default_rng(seed)
    noise = NOISE_LEVELS * rng.standard_normal((*hw, 3), np.float32)
    messages = [_shot(scene, frame_id, noise, rng) for frame_id in range(n)]
    return EncodedFrames(tuple(messages), "the packaged picture, at a camera's size")


def packaged_frames(n: int = DRAWN_FRAMES, *, hw: tuple[int, int] = CAMERA_HW) -> EncodedFrames:
    """Frames for a machine that has none: drawn from the picture that every export is checked on."""
    return frames_from_picture((files("export") / "parity_image.jpg").read_bytes(), n, hw=hw)


def decoded(message: FrameMessage, *, least_side_px: int | None = None) -> Frame:
    """The message's frame of this moment, by the decoder that sources use.

    Args:
        message: encoded.
        least_side_px: as the bank demands.

    Raises:
        FrameError: it holds no picture.
    """
    hw = (message.height, message.width)
    picture = decode_picture(
        message.payload, formats=(_FORMATS[message.encoding],), stored_hw=hw, least_side_px=least_side_px
    )
    return Frame(
        station=message.station,
        frame_id=message.frame_id,
        captured_at_ns=time.time_ns(),
        captured_mono_ns=time.monotonic_ns(),
        part_id=message.part_id,
        image=picture.image,
        taken_hw=picture.taken_hw,
    )


def sent_now(message: FrameMessage, *, station: str, frame_id: int) -> FrameMessage:
    """The same picture, captured at this moment."""
    return replace(message, station=station, frame_id=frame_id, captured_at_ns=time.time_ns())


def _shot(scene: Image.Image, frame_id: int, noise: Float32, rng: np.random.Generator) -> FrameMessage:
    height, width, _ = noise.shape
    shown_w = SHOWN_RATIO * min(scene.width, scene.height * width / height)
    shown_h = shown_w * height / width
    left, top = rng.uniform(0, scene.width - shown_w), rng.uniform(0, scene.height - shown_h)
    box = (left, top, left + shown_w, top + shown_h)
    seen = np.asarray(scene.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)
    shifted = np.roll(noise, int(rng.integers(height)), axis=0)
    noisy = np.clip(seen + shifted, 0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return FrameMessage(
        station=STATION,
        frame_id=frame_id,
        part_id=None,
        captured_at_ns=time.time_ns(),
        encoding="jpeg",
        height=height,
        width=width,
        payload=buffer.getvalue(),
    )
