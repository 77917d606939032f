"""Pictures as a page carries them."""

import io

from PIL import Image

from edge_uad.records import UInt8

JPEG_QUALITY = 82


def jpeg_of(picture: UInt8, *, longest_px: int) -> bytes:
    """A JPEG file of the picture, uint8 (H, W, 3) RGB, scaled down where its longer side is longer."""
    image = Image.fromarray(picture)
    image.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
