"""Inputs of a bench: frames, encoded as a camera's program sends them, and banks of these frames."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from bank_tools.bank.build import MIN_IMAGES, build_bank
from bank_tools.bank.good_images import embed_all
from bank_tools.bank.recipe import DEFAULT_MAX_PATCHES, embedder_for, recipe_for
from edge_uad.errors import FrameError, UsageError
from edge_uad.inference.bank import PatchBank
from edge_uad.interfaces import Backbone
from edge_uad.net.wire import FrameMessage
from edge_uad.progress import Progress
from edge_uad.records import Float32, Frame, Geometry
from edge_uad.sources.decode import decode_image, decode_picture
from edge_uad.sources.folder import image_files, part_name, root_of
from edge_uad.sources.sender import JPEG_QUALITY, frame_message

STATION = "bench"
MAX_FRAMES = 64
"""Different ones; they are sent repeatedly."""
MAX_BYTES = 256 * 1024 * 1024
CAMERA_HW = (960, 1280)
"""Of the frames that are made from one picture."""
DRAWN_FRAMES = 24
SHOWN_RATIO = 0.9
NOISE_LEVELS = 2.0
JITTER = 0.2
"""Length of the random step that separates a patch's copies; patches have length 1."""
BLOCK_ROWS = 65536
_FORMATS = {"jpeg": "JPEG", "png": "PNG"}


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """Frames to send."""

    messages: tuple[FrameMessage, ...]
    origin: str
    """Where they come from, in words."""

    @property
    def described(self) -> str:
        """Number, size, encoding and origin in one line."""
        sizes = sorted({f"{one.width}×{one.height}" for one in self.messages})
        shown = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        kib = np.median([len(one.payload) for one in self.messages]) / 1024
        encodings = ", ".join(sorted({one.encoding for one in self.messages}))
        return f"{len(self.messages)} frames, {shown} px, {encodings}, {kib:.0f} KiB each ({self.origin})"

    def endless(self) -> Iterator[FrameMessage]:
        """All of them, repeated without end."""
        return cycle(self.messages)

    def first(self, n: int) -> list[FrameMessage]:
        """``n`` frames from the first on, repeated where there are fewer."""
        return list(islice(self.endless(), n))


def frames_from_files(images: Sequence[str]) -> EncodedFrames:
    """Pictures of folders, globs or files as frames; JPEG and PNG files are sent unchanged.

    Args:
        images: as ``edge-uad send`` takes them.

    Raises:
        UsageError: there is no such file, or a file holds no picture.
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
    """Frames as a camera would take them of one scene: each shifted a little, with other noise.

    Args:
        picture: an image file.
        n: number of frames.
        hw: height and width of a frame in pixels.
        seed: of shifts and noise.
    """
    scene = Image.fromarray(decode_image(picture))
    rng = np.random.default_rng(seed)
    noise = NOISE_LEVELS * rng.standard_normal((*hw, 3), np.float32)
    messages = [_shot(scene, frame_id, noise, rng) for frame_id in range(n)]
    return EncodedFrames(tuple(messages), "the packaged picture, at a camera's size")


def packaged_frames(n: int = DRAWN_FRAMES, *, hw: tuple[int, int] = CAMERA_HW) -> EncodedFrames:
    """Frames for a machine that has none: made from the picture that every export is checked with."""
    return frames_from_picture((files("export") / "parity_image.jpg").read_bytes(), n, hw=hw)


def decoded(message: FrameMessage, *, least_side_px: int | None = None) -> Frame:
    """The decoded frame, captured now, by the decoder that sources use.

    Args:
        message: encoded.
        least_side_px: decode JPEG pictures at the smallest size whose sides have so many pixels; None: in full.

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


def stamped_now(message: FrameMessage, *, station: str, frame_id: int) -> FrameMessage:
    """The same picture with the present time as its capture time."""
    return replace(message, station=station, frame_id=frame_id, captured_at_ns=time.time_ns())


def bank_of(
    frames: EncodedFrames,
    backbone: Backbone,
    progress: Progress,
    *,
    geometry: Geometry = Geometry.STRETCH,
    max_patches: int | None = DEFAULT_MAX_PATCHES,
) -> PatchBank:
    """A bank of the foreground patches of the first frames, so many at most, without an index.

    Raises:
        UsageError: a single frame, or frames that hold nothing to learn from.
    """
    messages = frames.messages[:DRAWN_FRAMES]
    if len(messages) < MIN_IMAGES:
        raise UsageError(f"one frame makes no bank: name {MIN_IMAGES} images or more, or a bank with --bank")
    recipe = replace(
        recipe_for(backbone.card), coreset_ratio=1.0, geometry=geometry, max_patches=max_patches, index="never"
    )
    embedder = embedder_for(backbone, recipe)
    images = embed_all(map(decoded, messages), embedder, len(messages), progress)
    return build_bank(images, recipe=recipe, embedder=embedder, progress=progress).bank


def saved_bank_of(frames: EncodedFrames, backbone: Backbone, folder: Path, progress: Progress) -> Path:
    """:func:`bank_of` as a file in this folder."""
    path = folder / "bank.safetensors"
    bank_of(frames, backbone, progress).save(path)
    return path


def bank_of_size(bank: PatchBank, n_patches: int, *, seed: int = 0) -> PatchBank:
    """A bank of ``n_patches`` with this one's distribution: copies of its patches, each a small random step away."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(0, len(bank.patches), n_patches))
    patches = bank.patches[rows]
    step = np.float32(JITTER / np.sqrt(patches.shape[1]))
    levels = bank.manifest.levels
    for start in range(0, n_patches, BLOCK_ROWS):
        block = patches[start : start + BLOCK_ROWS]
        block += step * rng.standard_normal(block.shape, np.float32)
        by_level = block.reshape(len(block), levels, -1)  # a view
        by_level /= np.sqrt(np.float32(levels)) * np.linalg.norm(by_level, axis=2, keepdims=True)
    return PatchBank.sealed(
        patches=patches,
        patch_image=bank.patch_image[rows],
        calibration=bank.calibration,
        manifest=replace(bank.manifest, n_patches=n_patches),
    )


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
