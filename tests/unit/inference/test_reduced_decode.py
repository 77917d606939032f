"""Large JPEG pictures decoded at a part of their size: seen alike, and pointed at in the whole picture's pixels."""

import dataclasses
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from bank_tools.bank.recipe import Recipe
from edge_uad.errors import BankError, FrameError, UsageError
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Frame, Geometry, UInt8
from edge_uad.sources import make_source, parse_source, reduce_decoding
from edge_uad.sources.decode import decode_image, decode_picture
from tests.banks import random_bank
from tests.fakes import GREEN, frame, inspector_of, picture, read_to_end
from tests.parts import draw_part

INPUT_PX = 56
PREPROCESSOR = Preprocessor(
    geometry=Geometry.STRETCH, roi=None, input_hw=(INPUT_PX, INPUT_PX), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


def jpeg(image: UInt8, *, orientation: int = 1, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, kind, exif=exif, **({"quality": 92} if kind == "JPEG" else {}))
    return buffer.getvalue()


def part(side_px: int = 512) -> UInt8:
    return draw_part(np.random.default_rng(0), scratched=True, side_px=side_px)


def test_the_model_sees_the_same_picture() -> None:
    payload = jpeg(part())
    reduced = decode_picture(payload, least_side_px=PREPROCESSOR.least_side_px)
    assert reduced.image.shape == (128, 128, 3)
    assert reduced.taken_hw == (512, 512)
    seen, whole = PREPROCESSOR.pixels(reduced.image), PREPROCESSOR.pixels(decode_image(payload))
    levels = np.abs(seen - whole) * 0.25 * 255
    assert levels.mean() < 1
    assert levels.max() < 12
    # far nearer to the whole picture than a picture of every fourth pixel
    sparse = np.abs(PREPROCESSOR.pixels(np.ascontiguousarray(part()[::4, ::4])) - whole) * 0.25 * 255
    assert levels.mean() < sparse.mean() / 2


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 256))
def test_both_sides_keep_what_is_asked_for_and_no_more_than_needed(height: int, width: int, least_side_px: int) -> None:
    decoded = decode_picture(jpeg(picture(GREEN, (height, width))), least_side_px=least_side_px)
    scale = max(one for one in (1, 2, 4, 8) if one == 1 or min(height, width) >= one * least_side_px)
    h, w = decoded.image.shape[:2]
    assert (h, w) == (-(-height // scale), -(-width // scale))
    assert scale == 1 or min(h, w) >= least_side_px
    assert decoded.taken_hw == (None if scale == 1 or (h, w) == (height, width) else (height, width))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_other_formats_come_in_full(kind: str) -> None:
    decoded = decode_picture(jpeg(part(), kind=kind), least_side_px=16)
    assert (decoded.image.shape, decoded.taken_hw) == ((512, 512, 3), None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_camera_is_turned_back(orientation: int) -> None:
    payload = jpeg(np.ascontiguousarray(part()[:512, :256]), orientation=orientation)
    reduced, whole = decode_picture(payload, least_side_px=64), decode_image(payload)
    assert reduced.taken_hw == whole.shape[:2]
    smaller = whole.reshape(whole.shape[0] // 4, 4, whole.shape[1] // 4, 4, 3).mean(axis=(1, 3))
    assert reduced.image.shape == smaller.shape
    assert np.abs(reduced.image - smaller).mean() < 2


@pytest.mark.parametrize("kept_ratio", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_picture_is_refused(kept_ratio: float) -> None:
    payload = jpeg(part())
    with pytest.raises(FrameError, match=r"truncated|damaged"):
        decode_picture(payload[: int(len(payload) * kept_ratio)], least_side_px=32)


def test_what_a_sender_declares_is_the_whole_pictures_size() -> None:
    payload = jpeg(part())
    assert decode_picture(payload, stored_hw=(512, 512), least_side_px=64).image.shape == (64, 64, 3)
    with pytest.raises(FrameError, match="declares 64×64"):
        decode_picture(payload, stored_hw=(64, 64), least_side_px=64)
    with pytest.raises(FrameError, match="allowed"):
        decode_picture(payload, max_pixels=512 * 512 - 1, least_side_px=64)


def test_a_verdict_points_into_the_whole_picture() -> None:
    inspector = inspector_of(GREEN)
    image = picture(GREEN, (64, 128))
    image[48:, 96:] = (200, 30, 30)
    asked = dataclasses.replace(frame(), image=image)
    larger = dataclasses.replace(asked, taken_hw=(256, 512))
    verdict, pointed = inspector.inspect(asked), inspector.inspect(larger)
    assert verdict.peak is not None
    assert pointed.peak is not None
    assert np.abs(np.array(pointed.peak) - 4 * np.array(verdict.peak)).max() <= 4
    assert pointed.score == verdict.score
    np.testing.assert_array_equal(inspector.overlay(larger, pointed), inspector.overlay(asked, verdict))


def test_a_folder_gives_reduced_frames_where_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(part()))
    (tmp_path / "1.png").write_bytes(jpeg(part(), kind="PNG"))
    for least_side_px, expected in ((None, (512, None)), (100, (128, (512, 512)))):
        source = make_source(parse_source(str(tmp_path)), station="line")
        reduce_decoding(source, least_side_px)
        first, second = read_to_end(source)
        assert isinstance(first, Frame)
        assert isinstance(second, Frame)
        assert (first.image.shape[0], first.taken_hw) == expected
        assert first.hw == second.hw == second.image.shape[:2] == (512, 512)


def test_a_bank_says_how_its_pictures_were_decoded_and_one_of_before_keeps_its_identity(tmp_path: Path) -> None:
    plain, reduced = random_bank(), random_bank(reduced_decode=True)
    assert plain.manifest.bank_id != reduced.manifest.bank_id
    for bank in (plain, reduced):
        bank.save(tmp_path / "b.safetensors")
        assert PatchBank.load(tmp_path / "b.safetensors").manifest == bank.manifest
        assert (b"reduced_decode" in (tmp_path / "b.safetensors").read_bytes()) == bank.manifest.reduced_decode


@pytest.mark.parametrize("changed", [{"roi": (0, 0, 8, 8)}, {"geometry": Geometry.PAPER}])
def test_never_where_every_pixel_is_counted(tmp_path: Path, changed: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="leave one of the two out"):
        Recipe(bpm_kernel=3, reduced_decode=True, **changed)  # type: ignore[arg-type]
    random_bank(reduced_decode=True, **changed).save(tmp_path / "b.safetensors")
    with pytest.raises(BankError, match="damaged manifest"):
        PatchBank.load(tmp_path / "b.safetensors")
