"""How many damaged JPEG files the decoder takes for whole, by kind of damage and of encoding.

    python -m benchmarks.jpeg_damage --images ../shared/data

Each photograph is encoded three times, at a random quality of 50 to 95, and damaged at random places.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_uad.errors import FrameError
from edge_uad.records import UInt8
from edge_uad.sources.decode import decode_image

ENCODINGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
}
SIDE_PX = 640
QUALITIES = 50, 95
PLACES = 10
"""Of each damage in each file."""
ZERO_RUNS = 8, 16, 32, 64, 512
VISIBLE_LEVELS = 8
"""Of 255: a pixel that is off by more counts as a visible difference."""
END_MARKER = b"\xff\xd9"


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=Path, required=True, help="folder of JPEG photographs")
    options.add_argument("--count", type=int, default=60, help="photographs taken of it (60)")
    options.add_argument("--seed", type=int, default=11)
    chosen = options.parse_args()
    rng = np.random.default_rng(chosen.seed)
    files = sorted(chosen.images.rglob("*.jp*g"))
    counts: Counter[tuple[str, str, str]] = Counter()
    for index in rng.choice(len(files), min(chosen.count, len(files)), replace=False):
        for encoding, payload in encoded(files[index], rng):
            whole = decode_image(payload)
            for _ in range(PLACES):
                for damage, damaged in damages(payload, rng):
                    count(counts, (damage, encoding), damaged, whole)
    print(f"{'damage':<20}{'encoding':<14}{'files':>7}{'judged':>8}{'of them visibly different':>27}")
    for damage, encoding in dict.fromkeys(key[:2] for key in counts):
        numbers = [counts[damage, encoding, what] for what in ("files", "judged", "visible")]
        print(f"{damage:<20}{encoding:<14}{numbers[0]:>7}{numbers[1]:>8}{numbers[2]:>27}")


def encoded(file: Path, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """A photograph in each encoding."""
    with Image.open(file) as opened:
        image = opened.convert("L" if opened.mode == "L" else "RGB")
    image.thumbnail((SIDE_PX, SIDE_PX))
    for name, how in ENCODINGS.items():
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)), **how)
        yield name, buffer.getvalue()


def damages(payload: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """The file with each kind of damage, inside its scans where that is not a cut."""
    cut = int(rng.integers(2, len(payload) - 2))
    yield "cut", payload[:cut]
    yield "cut, end marker", payload[:cut] + END_MARKER
    start, end = payload.index(b"\xff\xda") + 14, len(payload) - 2
    for length in ZERO_RUNS:
        if end - start > length:
            at = int(rng.integers(start, end - length))
            yield f"{length} zero bytes", payload[:at] + bytes(length) + payload[at + length :]
    flipped = bytearray(payload)
    flipped[int(rng.integers(start, end))] ^= 1 << int(rng.integers(8))
    yield "one bit flipped", bytes(flipped)


def count(counts: Counter[tuple[str, str, str]], of: tuple[str, str], damaged: bytes, whole: UInt8) -> None:
    """Decode a damaged file and count what came of it; one with the whole picture's very pixels counts as refused."""
    counts[(*of, "files")] += 1
    try:
        image = decode_image(damaged)
    except FrameError:
        return
    same_size = image.shape == whole.shape
    if same_size and np.array_equal(image, whole):
        return
    counts[(*of, "judged")] += 1
    difference = np.abs(image.astype(int) - whole).max() if same_size else 255
    counts[(*of, "visible")] += int(difference > VISIBLE_LEVELS)


if __name__ == "__main__":
    main()
