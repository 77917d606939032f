"""A JPEG that is not whole is refused: cut, completed by an end marker, overwritten with zeros, or short of scans."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_uad.errors import FrameError
from edge_uad.records import Frame, UInt8, UnreadableFrame
from edge_uad.sources import jpeg
from edge_uad.sources.decode import decode_image, decode_picture, stored_size
from edge_uad.sources.folder import FolderSource
from tests.conftest import SHARED_IMAGES
from tests.parts import draw_part

END = b"\xff\xd9"
NO_MARKER = frozenset({0x00, 0xFF, *range(0xD0, 0xD8)})
"""What after FF makes no marker that ends a scan."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline 4:2:0": ("RGB", {"subsampling": 2}),
    "baseline 4:4:4": ("RGB", {"subsampling": 0}),
    "optimised": ("RGB", {"optimize": True}),
    "progressive": ("RGB", {"progressive": True}),
    "grey": ("L", {}),
    "progressive grey": ("L", {"progressive": True}),
    "cmyk": ("CMYK", {}),
    "restarts": ("RGB", {"restart_marker_rows": 1}),
    "progressive restarts": ("RGB", {"progressive": True, "restart_marker_rows": 1}),
}


def noisy_part(seed: int = 0, side_px: int = 200) -> UInt8:
    """A part as a camera sees it: no two blocks alike."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 6, (side_px, side_px, 3))
    return np.clip(draw_part(rng, side_px=side_px) + noise, 0, 255).astype(np.uint8)


def encoded(variant: str, *, seed: int = 0, quality: int = 88, **more: Any) -> bytes:
    mode, options = VARIANTS[variant]
    buffer = BytesIO()
    Image.fromarray(noisy_part(seed)).convert(mode).save(buffer, "JPEG", quality=quality, **options, **more)
    return buffer.getvalue()


def scans(payload: bytes) -> list[tuple[int, int]]:
    """Where the entropy-coded bytes of each scan begin and end."""
    return [(scan.start, scan.end) for scan in jpeg._scans(payload)]


def refused(payload: bytes) -> bool:
    """Whether the whole picture and the reduced one are refused, and for the damage."""
    reasons = [_reason(payload, least_side_px) for least_side_px in (None, 20)]
    assert len({reason is None for reason in reasons}) == 1, "the whole picture and the reduced one are judged alike"
    assert all(reason is None or "damaged" in reason for reason in reasons)
    return reasons[0] is not None


def _reason(payload: bytes, least_side_px: int | None = None) -> str | None:
    try:
        decode_picture(payload, least_side_px=least_side_px)
    except FrameError as error:
        return str(error)
    return None


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("quality", [40, 88, 100])
def test_healthy_pictures_give_the_pixels_that_pillow_gives(variant: str, quality: int) -> None:
    payload = encoded(variant, quality=quality)
    assert np.array_equal(decode_image(payload), np.asarray(Image.open(BytesIO(payload)).convert("RGB")))
    for scale in (2, 4, 8):
        drafted = Image.open(BytesIO(payload))
        drafted.draft(None, (200 // scale, 200 // scale))
        reduced = decode_picture(payload, least_side_px=200 // scale)
        assert np.array_equal(reduced.image, np.asarray(drafted.convert("RGB")))
        assert reduced.taken_hw == (200, 200)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1, 2, "4:1:1"]), st.booleans())
def test_pictures_of_any_small_size_too(height: int, width: int, subsampling: int | str, progressive: bool) -> None:
    buffer = BytesIO()
    image = Image.fromarray(np.ascontiguousarray(noisy_part()[:height, :width]))
    image.save(buffer, "JPEG", subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode_image(buffer.getvalue()), np.asarray(Image.open(buffer).convert("RGB")))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cut_at_any_place_is_refused_with_and_without_an_end_marker(variant: str) -> None:
    payload = encoded(variant)
    rng = np.random.default_rng(1)
    cuts = {2, len(payload) - 3, *(int(cut) for cut in rng.integers(2, len(payload) - 2, 60))}
    for start, end in scans(payload):
        cuts |= {start, end - 1}
    judged = [
        (cut, end_marker)
        for cut in cuts
        for end_marker in (b"", END)
        if payload[:cut] + end_marker != payload and _reason(payload[:cut] + end_marker) is None
    ]
    assert judged == []
    assert all(refused(payload[:cut]) for cut in (len(payload) - 1, len(payload) - 2))


@pytest.mark.parametrize("variant", ["progressive", "progressive grey", "progressive restarts"])
def test_a_progressive_picture_without_its_last_scans_is_refused(variant: str) -> None:
    payload = encoded(variant)
    for _, end in scans(payload)[:-1]:
        with pytest.raises(FrameError, match="scans are missing"):
            decode_image(payload[:end] + END)


@pytest.mark.parametrize("variant", VARIANTS)
def test_zeros_in_a_scan_are_refused(variant: str) -> None:
    rng = np.random.default_rng(2)
    n_tried = 0
    judged = []
    for seed in range(3):
        payload = encoded(variant, seed=seed)
        whole = decode_image(payload)
        for start, end in scans(payload):
            for length in (32, 64, 512, 4096):
                if end - start < length + 2:
                    continue
                at = int(rng.integers(start, end - length))
                damaged = payload[:at] + bytes(length) + payload[at + length :]
                n_tried += 1
                if not refused(damaged) and _differs_visibly(decode_image(damaged), whole):
                    judged.append((seed, at - start, length))
    assert n_tried >= 9
    assert judged == []


def _differs_visibly(image: UInt8, other: UInt8) -> bool:
    """The last bit of a block's mean, at these qualities, stays below 4 levels."""
    return image.shape != other.shape or np.abs(image.astype(int) - other).max() > 4


def test_flat_areas_which_are_coded_as_zeros_are_healthy() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    image[200:300, 200:300] = noisy_part()[:100, :100]
    n_with_zeros = 0
    for options in ({"optimize": True}, {"progressive": True}, {}):
        for quality in (50, 90):
            buffer = BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=quality, **options)
            payload = buffer.getvalue()
            n_with_zeros += any(payload.find(bytes(64), start, end) >= 0 for start, end in scans(payload))
            assert np.array_equal(decode_image(payload), np.asarray(Image.open(buffer).convert("RGB")))
    assert n_with_zeros >= 4


def _without_restart(payload: bytes) -> bytes:
    at = payload.index(b"\xff\xd3", scans(payload)[0][0])
    return payload[:at] + payload[at + 2 :]


def _restarts_swapped(payload: bytes) -> bytes:
    at = payload.index(b"\xff\xd3", scans(payload)[0][0])
    return payload[:at] + b"\xff\xd5" + payload[at + 2 :]


def _of_height(height: int) -> Callable[[bytes], bytes]:
    def changed(payload: bytes) -> bytes:
        at = payload.index(b"\xff\xc0") + 5
        return payload[:at] + height.to_bytes(2, "big") + payload[at + 2 :]

    return changed


def _with_bytes_left_over(payload: bytes) -> bytes:
    return payload[:-2] + b"\x12\x34" * 8 + END


def _with_a_block_of_another_place(payload: bytes) -> bytes:
    start, end = scans(payload)[0]
    at = (start + end) // 2
    return payload[:at] + payload[start : start + 400] + payload[at + 400 :]


def _without_a_piece(payload: bytes) -> bytes:
    start, end = scans(payload)[0]
    at = (start + end) // 2
    return payload[:at] + payload[at + 512 :]


@pytest.mark.parametrize(
    "damage",
    [
        _without_restart,
        _restarts_swapped,
        _of_height(208 + 16),
        _of_height(200 - 32),
        _with_bytes_left_over,
        _with_a_block_of_another_place,
        _without_a_piece,
    ],
)
def test_what_the_decoder_notices_is_refused(damage: Callable[[bytes], bytes]) -> None:
    payload = encoded("restarts", quality=75)
    assert not refused(payload)
    assert refused(damage(payload))


@given(st.lists(st.sampled_from(b"\xff\xff\x00\xd0\xd7\xd8\xd9\x0a\x01"), max_size=24).map(bytes), st.integers(0, 4))
def test_a_scan_ends_at_the_first_marker_that_is_no_restart(tail: bytes, at: int) -> None:
    """Whatever stands before it: stuffed zeros, restarts, fill bytes, or FF as the very last byte."""
    ends = [place for place in range(at, len(tail) - 1) if tail[place] == 0xFF and tail[place + 1] not in NO_MARKER]
    assert jpeg._end_of_scan(tail, at) == min(ends, default=len(tail))


def test_missing_huffman_tables_are_the_standards_own() -> None:
    payload = encoded("baseline 4:2:0")
    with_standard_tables = decode_image(payload)
    assert np.array_equal(decode_image(_without_segments(payload, 0xC4)), with_standard_tables)
    assert refused(_without_segments(encoded("optimised"), 0xC4))
    assert refused(_without_segments(payload, 0xDB))


def _without_segments(payload: bytes, unwanted: int) -> bytes:
    kept, at = payload[:2], 2
    for marker, start, end in jpeg._segments(payload, 2):
        if marker != unwanted:
            kept += payload[start - 4 : end]
        at = end
        if marker == 0xDA:
            break
    return kept + payload[at:]


@pytest.mark.parametrize(
    ("marker", "content", "told"),
    [
        (0xC9, bytes([8, 0, 8, 0, 8, 1, 1, 0x11, 0]), "arithmetic-coded"),
        (0xC3, bytes([8, 0, 8, 0, 8, 1, 1, 0x11, 0]), "lossless"),
        (0xC1, bytes([12, 0, 8, 0, 8, 1, 1, 0x11, 0]), "12 bits"),
        (0xC0, bytes([8, 0, 8, 0, 8, 2, 1, 0x11, 0, 2, 0x11, 0]), "2 components"),
        (0xC0, bytes([8, 0, 0, 0, 8, 1, 1, 0x11, 0]), "no pixels"),
        (0xC0, bytes([8, 255, 255, 255, 255, 1, 1, 0x11, 0]), "4294836225 pixels"),
        (0xC0, bytes([8, 0]), "frame header"),
    ],
)
def test_other_kinds_are_refused_by_their_header(marker: int, content: bytes, told: str) -> None:
    segment = bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
    rest = _without_segments(encoded("grey"), 0xC0)[2:]
    with pytest.raises(FrameError, match=told):
        decode_image(b"\xff\xd8" + segment + rest)
    with pytest.raises(FrameError, match="no frame header"):
        decode_image(b"\xff\xd8" + rest)


def test_more_scans_than_any_encoder_writes_are_refused() -> None:
    payload = encoded("progressive grey")
    start, end = scans(payload)[-1]
    header = payload.rindex(b"\xff\xda", 0, start)
    with pytest.raises(FrameError, match="more than 100 scans"):
        decode_image(payload[:-2] + payload[header:end] * jpeg.MAX_SCANS + END)


def test_of_several_pictures_in_a_file_the_first_counts() -> None:
    buffer = BytesIO()
    first, second = Image.fromarray(noisy_part(0)), Image.fromarray(noisy_part(1))
    first.save(buffer, "MPO", save_all=True, append_images=[second], quality=90)
    payload = buffer.getvalue()
    whole = decode_image(payload)
    assert np.array_equal(whole, np.asarray(Image.open(BytesIO(payload)).convert("RGB")))
    assert stored_size(payload) == ("JPEG", (200, 200))
    first_end = scans(payload)[-1][1] + 2
    assert len(payload) > first_end + 1000
    assert np.array_equal(decode_image(payload[: first_end + 500]), whole)
    assert refused(payload[: first_end - 1000] + payload[first_end:])
    assert refused(payload[: first_end - 1000] + bytes(900) + payload[first_end - 100 :])


def test_a_folder_gives_an_unreadable_frame_for_a_damaged_picture(tmp_path: Path) -> None:
    payload = encoded("baseline 4:2:0")
    (tmp_path / "0.jpg").write_bytes(payload)
    (tmp_path / "1.jpg").write_bytes(payload[: int(len(payload) * 0.9)] + END)
    source = FolderSource("line", [tmp_path / "0.jpg", tmp_path / "1.jpg"])
    whole, cut = source.read(1), source.read(1)
    assert isinstance(whole, Frame)
    assert isinstance(cut, UnreadableFrame)
    assert (
        cut.reason == "the image is damaged or truncated (Premature end of JPEG file)" or "premature end" in cut.reason
    )


def photographs() -> Iterator[Path]:
    found = sorted(path for path in SHARED_IMAGES.rglob("*.jp*g"))
    yield from found[:: max(len(found) // 60, 1)]


@pytest.mark.skipif(not SHARED_IMAGES.is_dir(), reason="needs the images of ../shared/data")
def test_of_photographs_with_seeded_damage_none_is_judged() -> None:
    """Three files of each photograph: as it is, optimised, progressive; three kinds of damage in each."""
    rng = np.random.default_rng(3)
    n_damaged, judged = 0, []
    for path in photographs():
        for options in (None, {"optimize": True}, {"progressive": True}):
            payload = path.read_bytes() if options is None else _again(path, options)
            assert np.array_equal(decode_image(payload), np.asarray(Image.open(BytesIO(payload)).convert("RGB"))), path
            start, end = scans(payload)[0][0], scans(payload)[-1][1]
            cut, at = (int(one) for one in rng.integers(start, end - 600, 2))
            for damaged in (
                payload[:cut],
                payload[:cut] + END,
                payload[:at] + bytes(512) + payload[at + 512 :],
            ):
                n_damaged += 1
                if _reason(damaged) is None:
                    judged.append((path.name, options))
    assert n_damaged >= 500
    assert judged == []


def _again(path: Path, options: dict[str, Any]) -> bytes:
    buffer = BytesIO()
    with Image.open(path) as image:
        image.thumbnail((800, 800))
        image.save(buffer, "JPEG", quality=85, **options)
    return buffer.getvalue()
