"""What a frame costs before the backbone sees it, step by step: decoding, and the way to the model's input.

    python -m benchmarks.frames [--hw 960x1280] [--repeats 100] [--json FILE]

One thread's steps in turns, on frames as a camera would take them. Rows called *alone* are what cannot be left out:
the decoder, and the area average; *former* is what the row above took the place of.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count

import cv2
import numpy as np
import simplejpeg

from bank_tools.bench.frames import packaged_frames
from benchmarks.report import Report, Table, options_of
from edge_uad.inference.preprocess import REDUCED_OVERSAMPLING, Preprocessor
from edge_uad.records import Float32, Geometry, UInt8
from edge_uad.sources import jpeg
from edge_uad.sources.decode import decode_picture, decode_raw

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT_SIDES_PX = (224, 448)
N_FRAMES = 8
"""Different ones: the last cache must not hold them all."""


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--hw", default="960x1280")
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    height, width = (int(side) for side in options.hw.split("x"))
    frames = packaged_frames(N_FRAMES, hw=(height, width))
    payloads = [message.payload for message in frames.messages]
    images = [decode_picture(payload).image for payload in payloads]
    report = Report(
        name="frames",
        title="Before the backbone",
        about=f"{frames.described}; OpenCV uses {cv2.getNumThreads()} threads, everything else one.",
    )
    steps = (
        decoding(payloads)
        | raw(images)
        | {name: step for side_px in INPUT_SIDES_PX for name, step in preprocessing(images, side_px).items()}
    )
    times_ms, faults = timed(steps, 3 if options.quick else options.repeats)
    rows = [
        (name, f"{min(found):.2f}", f"{np.median(found):.2f}", f"{np.median(faults[name]):.0f}")
        for name, found in times_ms.items()
    ]
    report.add(
        Table(
            "steps",
            ("", "min ms", "median ms", "page faults"),
            rows,
            note="A page fault is memory that the process had to ask the system for: 0 where it uses its own again.",
        )
    )
    report.facts = {"times_ms": times_ms, "page_faults": faults}
    report.close(options)
    return 0


def decoding(payloads: list[bytes]) -> dict[str, Callable[[int], object]]:
    def of(turn: int) -> bytes:
        return payloads[turn % len(payloads)]

    def decode(turn: int, least_side_px: int | None = None) -> object:
        return decode_picture(of(turn), least_side_px=least_side_px)

    header = jpeg.read_header(payloads[0])
    return {
        "decode": decode,
        "decode: the decoder alone": lambda turn: simplejpeg.decode_jpeg(of(turn), "RGB", strict=True),
        "decode: the check of the bytes": lambda turn: jpeg.check_scans(of(turn), header),
        **{
            f"decode, reduced for {side_px} px": partial(decode, least_side_px=REDUCED_OVERSAMPLING * side_px)
            for side_px in INPUT_SIDES_PX
        },
    }


def raw(images: list[UInt8]) -> dict[str, Callable[[int], object]]:
    hw = images[0].shape[0], images[0].shape[1]
    in_colour, in_grey = images[0].tobytes(), images[0][:, :, 0].tobytes()
    return {
        "bytes of bgr8": lambda turn: decode_raw(in_colour, "bgr8", hw),  # noqa: ARG005
        "bytes of bgr8, former": lambda turn: np.ascontiguousarray(images[turn % len(images)][:, :, ::-1]),
        "bytes of mono8": lambda turn: decode_raw(in_grey, "mono8", hw),  # noqa: ARG005
        "bytes of mono8, former": lambda turn: np.repeat(images[turn % len(images)][:, :, :1], 3, axis=2),
    }


def preprocessing(images: list[UInt8], side_px: int) -> dict[str, Callable[[int], object]]:
    hw = (side_px, side_px)
    preprocessor = Preprocessor(geometry=Geometry.STRETCH, roi=None, input_hw=hw, mean=MEAN, std=STD)
    averaged = np.asarray(cv2.resize(images[0], hw, interpolation=cv2.INTER_AREA), np.uint8)

    def average(turn: int) -> object:
        return cv2.resize(images[turn % len(images)], hw, interpolation=cv2.INTER_AREA)

    return {
        f"to {side_px} px": lambda turn: preprocessor.pixels(images[turn % len(images)]),
        f"to {side_px} px: the area average alone": average,
        f"to {side_px} px: normalised": lambda turn: preprocessor.pixels(averaged),  # noqa: ARG005
        f"to {side_px} px: normalised, former": lambda turn: former_normalisation(averaged),  # noqa: ARG005
    }


def former_normalisation(resized: UInt8) -> Float32:
    std = np.asarray(STD, np.float32)
    scale, shift = np.float32(1) / (np.float32(255) * std), np.asarray(MEAN, np.float32) / std
    return np.ascontiguousarray((resized * scale - shift).transpose(2, 0, 1))


def timed(
    steps: Mapping[str, Callable[[int], object]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """Milliseconds and page faults of each step, by its name."""
    times_ms: dict[str, list[float]] = {name: [] for name in steps}
    faults: dict[str, list[int]] = {name: [] for name in steps}
    turns = count()
    for _ in range(2):
        for step in steps.values():
            step(next(turns))
    for _ in range(repeats):
        for name, step in steps.items():
            before, started_s = _page_faults(), time.perf_counter()
            step(next(turns))
            times_ms[name].append((time.perf_counter() - started_s) * 1e3)
            faults[name].append(_page_faults() - before)
    return times_ms, faults


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    sys.exit(main())
