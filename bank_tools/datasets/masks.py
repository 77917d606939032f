"""Masks: which pixels of an image are defects, read from the exact samples of a file and not from its picture.

One rule for every dataset: a pixel is a defect where its sample is not 0. So the class numbers of VisA (1, 2, …),
16-bit labels, palette indices and white on black (MVTec AD, MVTec AD 2, BTAD) are read alike, and no published set that
is read here needs an exception. MTD's masks have grey levels at the defects' edges and a few stray dark pixels; these
count too, as the rule says, with a warning.

What the file format decides:

- palette: the index, where index 0 is drawn black as in label images; otherwise every pixel that is not black.
- alpha: where the colours say nothing (one colour all over), what is not transparent is a defect; where both say
  something, what is neither transparent nor black.
- JPEG, lossy WebP, JPEG inside TIFF: compression leaves other numbers than were drawn, so the brightness is thresholded
  at half and the pixels that are neither black nor white are counted.
- white-is-zero TIFF: as it is shown, white on black.
"""

import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from bank_tools.datasets.wording import counted, listed
from edge_uad.errors import FrameError
from edge_uad.records import Bool
from edge_uad.sources.decode import FORMATS, MAX_IMAGE_PIXELS, PARSER_FAULTS, decode_image, read_bytes
from edge_uad.sources.folder import part_name

HALF = 127
"""A sample of a lossy mask above this is a defect."""
MANY_LEVELS = 16
"""A mask of more levels than this is no label image: its edges are blurred, or it was compressed once."""

Samples = NDArray[Any]

_BLACK = (0, 0, 0)
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "old-jpeg", "webp"})
_PARSER_FAULTS = (*PARSER_FAULTS, cv2.error)


class MaskOddity(StrEnum):
    """What is odd in masks; worded to follow their number."""

    LOSSY = "in a lossy format, thresholded at half"
    GREY = "with many grey levels, of which every one but 0 counts as defect"
    ALPHA = "with the outline in the alpha channel alone, read from there"
    TRANSPARENT = "whose colours and alpha channel disagree; what is neither black nor transparent counts as defect"
    PALETTE = "with a palette whose first colour is not black; every colour but black counts as defect"
    ALL_BLACK = "all black on an anomalous image, left out of the pixel metrics"
    ON_GOOD = "with defects on a good image, left out of the pixel metrics"
    WRONG_SIZE = "of another size than the image, left out of the pixel metrics"
    UNREADABLE = "unreadable, left out of the pixel metrics"


class MaskError(FrameError):
    """A mask cannot be used."""

    def __init__(self, oddity: MaskOddity, name: str, detail: str = "") -> None:
        super().__init__(f"mask {name}: {oddity}" + (f" ({detail})" if detail else ""))
        self.oddity = oddity
        self.detail = detail


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask as it was read."""

    defect: Bool
    """(H, W)"""
    oddities: tuple[MaskOddity, ...] = ()
    n_between: int = 0
    """Pixels of a lossy mask that are neither black nor white."""


@dataclass(slots=True)
class MaskOddities:
    """Counts what was odd in the masks of one category."""

    names: dict[MaskOddity, list[str]] = field(default_factory=dict)
    """The images whose masks are odd, by what is odd, with a detail in brackets for some."""
    n_between: int = 0
    """Pixels of lossy masks that are neither black nor white."""

    def add(self, name: str, mask: Mask) -> None:
        """Note what was odd in a mask that can be used."""
        for oddity in mask.oddities:
            self.names.setdefault(oddity, []).append(name)
        self.n_between += mask.n_between

    def refuse(self, name: str, error: MaskError) -> None:
        """Note a mask that cannot be used."""
        self.names.setdefault(error.oddity, []).append(f"{name} ({error.detail})" if error.detail else name)

    def sentences(self, category: str) -> list[str]:
        """One sentence for each kind of oddity, with the number of masks and the first names."""
        return [self._sentence(category, oddity, names) for oddity, names in self.names.items()]

    def _sentence(self, category: str, oddity: MaskOddity, names: list[str]) -> str:
        count = counted(names, "mask")
        pixels = f" ({self.n_between} pixels neither black nor white)" if oddity is MaskOddity.LOSSY else ""
        return f"{category}: {count} {oddity}{pixels}: {listed(names)}"


def read_mask(path: Path) -> Mask:
    """Read which pixels a mask's file marks as defects.

    Raises:
        MaskError: the file is missing, damaged, too large or of a kind that holds no mask.
    """
    try:
        payload = read_bytes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Pillow only warns of some damage
            image = _open(payload)
            if _is_lossy(image, payload):
                return _thresholded(payload)
            return _of_samples(image, payload)
    except (FrameError, *_PARSER_FAULTS) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(MaskOddity.UNREADABLE, part_name(path, path.parent), cause) from error


def _open(payload: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(payload), formats=FORMATS)
    except UnidentifiedImageError:
        raise FrameError(f"no image of a known format, {', '.join(FORMATS)}") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise FrameError(f"{image.width}×{image.height} pixels, {MAX_IMAGE_PIXELS} are allowed")
    if image.format == "PNG":  # load() skips the check sums of the picture's own chunks, verify() does not
        image.verify()
        image = Image.open(BytesIO(payload), formats=FORMATS)
    return image


def _is_lossy(image: Image.Image, payload: bytes) -> bool:
    match image.format:
        case "JPEG":
            return True
        case "WEBP":
            return b"VP8L" not in payload[12:64]
        case "TIFF":
            return image.info.get("compression") in _LOSSY_TIFF
        case _:
            return False


def _thresholded(payload: bytes) -> Mask:
    """By brightness, the mean of the three channels."""
    brightness = decode_image(payload).mean(axis=2, dtype=np.float32)
    n_between = int(np.count_nonzero((brightness > 0) & (brightness < 255)))
    return Mask(brightness > HALF, (MaskOddity.LOSSY,), n_between)


def _of_samples(image: Image.Image, payload: bytes) -> Mask:
    if _is_deep_colour(image, payload):  # Pillow keeps the upper 8 bits of these: small labels would be lost
        samples = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
        if samples is None:
            raise FrameError("the image is damaged, or of a kind that is not supported")
        return _of_channels(samples, has_alpha=samples.ndim == 3 and samples.shape[2] == 4)
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in {"P", "PA"}:
        return _of_palette(upright)
    if upright.mode in {"RGBa", "La"}:
        upright = upright.convert({"RGBa": "RGBA", "La": "LA"}[upright.mode])
    if upright.mode not in {"1", "L", "LA", "I", "F", "RGB", "RGBA"} and not upright.mode.startswith("I;16"):
        upright = upright.convert("RGB")
    samples = np.asarray(upright)
    if upright.mode.startswith("I;16") and _tiff_tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        samples = (1 << max(_bits_per_sample(image))) - 1 - samples.astype(np.int32)  # white-is-zero
    return _of_channels(samples, has_alpha=upright.mode in {"LA", "RGBA"})


def _is_deep_colour(image: Image.Image, payload: bytes) -> bool:
    if image.format == "PNG":
        bit_depth, colour_type = payload[24], payload[25]  # of IHDR, which is always first
        return bit_depth == 16 and colour_type != 0
    bits = _bits_per_sample(image)
    return len(bits) > 1 and max(bits) > 8


def _bits_per_sample(image: Image.Image) -> tuple[int, ...]:
    """Of a TIFF file; (1,), the default of its tag, for other formats."""
    return tuple(_tiff_tag(image, TiffImagePlugin.BITSPERSAMPLE) or (1,))


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _of_palette(image: Image.Image) -> Mask:
    indices = np.asarray(image if image.mode == "P" else image.getchannel(0))
    colours = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    if not len(colours) or tuple(colours[0].tolist()) == _BLACK:
        return Mask(indices != 0)
    shown = np.asarray(image.convert("RGB"))
    return Mask(np.any(shown != 0, axis=2), (MaskOddity.PALETTE,))


def _of_channels(samples: Samples, *, has_alpha: bool) -> Mask:
    """Of (H, W) or (H, W, channels), alpha last."""
    if samples.ndim == 2:
        return Mask(samples != 0, _grey_levels(samples))
    colours = samples[:, :, :-1] if has_alpha else samples
    coloured = np.any(colours != 0, axis=2)
    if not has_alpha:
        return Mask(coloured, _grey_levels(samples[:, :, 0]))
    alpha = samples[:, :, -1]
    opaque = alpha != 0
    if (alpha == alpha.flat[0]).all():
        return Mask(coloured, _grey_levels(colours[:, :, 0]))
    if (colours == colours[0, 0]).all():
        return Mask(opaque, (MaskOddity.ALPHA,))
    if np.array_equal(opaque, coloured):
        return Mask(coloured)
    return Mask(coloured & opaque, (MaskOddity.TRANSPARENT,))


def _grey_levels(samples: Samples) -> tuple[MaskOddity, ...]:
    return (MaskOddity.GREY,) if len(np.unique(samples)) > MANY_LEVELS else ()
