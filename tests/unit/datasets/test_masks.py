"""Masks: the same labels in every encoding give the same defects, and whatever is odd is counted and named."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from bank_tools.datasets.masks import MANY_LEVELS, MaskError, MaskOddities, MaskOddity, read_mask
from bank_tools.datasets.records import ImageFile, Sample

Labels = NDArray[np.uint8]
LEVELS = st.sampled_from([0, 0, 0, 1, 2, 127, 255])


def small_labels() -> st.SearchStrategy[Labels]:
    """Label images of a few pixels: mostly 0, classes 1 and 2, half and white among them."""
    return hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9), elements=LEVELS)


def pillow(
    kind: str, convert: Callable[[Labels], Any], mode: str | None = None, **options: Any
) -> Callable[..., bytes]:
    def encode(labels: Labels) -> bytes:
        buffer = BytesIO()
        image = Image.fromarray(convert(labels))
        (image if mode is None else image.convert(mode)).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


def opencv(suffix: str, convert: Callable[[Labels], Any]) -> Callable[[Labels], bytes]:
    def encode(labels: Labels) -> bytes:
        done, content = cv2.imencode(suffix, convert(labels))
        assert done
        return content.tobytes()

    return encode


def indexed(labels: Labels) -> bytes:
    """Palette indices whose colours say something else: 0 is black, 1 nearly so, 2 is red, the others yellow."""
    image = Image.new("P", labels.shape[::-1])
    image.putdata(labels.ravel().tolist())
    image.putpalette([0, 0, 0, 0, 0, 1, 200, 0, 0, *[250, 250, 0] * 253])
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def white_is_zero(labels: Labels, *, bits: int) -> bytes:
    """A TIFF whose samples are inverted, as its photometric interpretation says."""
    top = (1 << bits) - 1
    buffer = BytesIO()
    Image.fromarray(top - labels.astype(np.uint16 if bits == 16 else np.uint8)).save(buffer, "TIFF")
    content = bytearray(buffer.getvalue())
    entry = content.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[entry + 8 : entry + 10] = (0).to_bytes(2, "little")
    return bytes(content)


def of_type(dtype: type, factor: int = 1) -> Callable[[Labels], Any]:
    return lambda labels: labels.astype(dtype) * dtype(factor)


def in_channels(n: int, dtype: type = np.uint8) -> Callable[[Labels], Any]:
    """The label in one channel, the second, alone."""

    def spread(labels: Labels) -> Any:
        channels = np.zeros((*labels.shape, n), dtype)
        channels[:, :, 1] = labels
        return channels

    return spread


def with_alpha(colour: Callable[[Labels], Any], alpha: Callable[[Labels], Any]) -> Callable[[Labels], Any]:
    return lambda labels: np.dstack([np.dstack([colour(labels)] * 3), alpha(labels)]).astype(np.uint8)


def same(labels: Labels) -> Labels:
    return labels


def boolean(labels: Labels) -> NDArray[np.bool_]:
    return labels > 0


ENCODINGS: dict[str, Callable[[Labels], bytes]] = {
    "png 8 bits": pillow("PNG", same),
    "png 1 bit": pillow("PNG", boolean),
    "png 16 bits": pillow("PNG", of_type(np.uint16)),
    "png 16 bits, high": pillow("PNG", of_type(np.uint16, 257)),
    "png rgb": pillow("PNG", in_channels(3)),
    "png rgb of 16 bits": opencv(".png", in_channels(3, np.uint16)),
    "png rgba, opaque": pillow("PNG", with_alpha(same, lambda labels: np.full_like(labels, 255))),
    "png rgba, transparent where black": pillow("PNG", with_alpha(same, lambda labels: 255 * (labels > 0))),
    "png rgba of 16 bits": opencv(
        ".png", lambda labels: np.dstack([labels * 0, labels, labels, labels * 0 + 9]).astype(np.uint16)
    ),
    "png grey and alpha": pillow("PNG", same, "LA"),
    "png palette": indexed,
    "tiff 8 bits": pillow("TIFF", same),
    "tiff 8 bits, lzw": pillow("TIFF", same, compression="tiff_lzw"),
    "tiff 1 bit": pillow("TIFF", boolean),
    "tiff 16 bits": pillow("TIFF", of_type(np.uint16)),
    "tiff 16 bits, big-endian": pillow("TIFF", of_type(np.uint16), "I;16B"),
    "tiff 32 bits": pillow("TIFF", of_type(np.int32)),
    "tiff float": pillow("TIFF", of_type(np.float32)),
    "tiff rgb": pillow("TIFF", in_channels(3)),
    "tiff rgb of 16 bits": opencv(".tiff", in_channels(3, np.uint16)),
    "tiff white-is-zero": lambda labels: white_is_zero(labels, bits=8),
    "tiff white-is-zero of 16 bits": lambda labels: white_is_zero(labels, bits=16),
    "bmp 8 bits": pillow("BMP", same),
    "bmp 1 bit": pillow("BMP", boolean),
    "bmp rgb": pillow("BMP", in_channels(3)),
    "webp lossless": pillow("WEBP", in_channels(3), lossless=True, exact=True),
    "pgm": pillow("PPM", same),
    "pgm 16 bits": pillow("PPM", of_type(np.int32), "I"),
    "pbm": pillow("PPM", boolean),
}


def written(content: bytes, folder: Path) -> Path:
    path = folder / "mask.bin"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@settings(max_examples=15)
@given(labels=small_labels())
def test_the_same_labels_give_the_same_defects_in_every_encoding(
    encode: Callable[[Labels], bytes], labels: Labels, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mask = read_mask(written(encode(labels), tmp_path_factory.getbasetemp()))
    np.testing.assert_array_equal(mask.defect, labels > 0)
    assert not mask.oddities


@pytest.mark.parametrize("colour", [0, 255])
@settings(max_examples=15)
@given(labels=small_labels().filter(lambda labels: 0 < (labels > 0).mean() < 1))
def test_an_outline_in_the_alpha_channel_alone_is_read_from_there(
    colour: int, labels: Labels, tmp_path_factory: pytest.TempPathFactory
) -> None:
    encode = pillow("PNG", with_alpha(lambda one: np.full_like(one, colour), same))
    mask = read_mask(written(encode(labels), tmp_path_factory.getbasetemp()))
    np.testing.assert_array_equal(mask.defect, labels > 0)
    assert mask.oddities == (MaskOddity.ALPHA,)


BLOCKS = np.kron(np.asarray([[0, 255, 0, 0], [0, 0, 0, 255]], np.uint8), np.ones((20, 20), np.uint8))


@pytest.mark.parametrize(
    "encode",
    [
        pillow("JPEG", same, quality=60),
        pillow("WEBP", lambda labels: np.dstack([labels] * 3), quality=40),
        pillow("TIFF", same, compression="jpeg", quality=60),
    ],
    ids=["jpeg", "webp", "jpeg in tiff"],
)
def test_a_lossy_mask_is_thresholded_at_half_and_says_so(encode: Callable[[Labels], bytes], tmp_path: Path) -> None:
    mask = read_mask(written(encode(BLOCKS), tmp_path))
    np.testing.assert_array_equal(mask.defect, BLOCKS > 0)
    assert mask.oddities == (MaskOddity.LOSSY,)
    assert mask.n_between > 0
    assert cv2.connectedComponents(mask.defect.astype(np.uint8))[0] - 1 == 2


def test_colours_and_alpha_that_disagree_are_an_oddity(tmp_path: Path) -> None:
    colours = np.asarray([[255, 255, 0, 0]], np.uint8)
    alpha = np.asarray([[255, 0, 255, 0]], np.uint8)
    encode = pillow("PNG", lambda _: np.dstack([colours] * 3 + [alpha]))
    mask = read_mask(written(encode(colours), tmp_path))
    assert mask.defect.tolist() == [[True, False, False, False]]
    assert mask.oddities == (MaskOddity.TRANSPARENT,)


def test_a_palette_that_does_not_begin_with_black_is_read_by_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])
    image.save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.defect.tolist() == [[True, False, True]]
    assert mask.oddities == (MaskOddity.PALETTE,)


def test_many_grey_levels_count_and_are_an_oddity(tmp_path: Path) -> None:
    levels = np.arange(MANY_LEVELS + 1, dtype=np.uint8)[None]
    Image.fromarray(levels).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask.defect, levels > 0)
    assert mask.oddities == (MaskOddity.GREY,)


@pytest.mark.parametrize("cut", [0, 3, 30, -20])
@pytest.mark.parametrize("name", ["png 8 bits", "png rgb of 16 bits", "tiff rgb of 16 bits", "bmp 8 bits", "palette"])
def test_a_damaged_mask_is_unreadable_and_never_empty(name: str, cut: int, tmp_path: Path) -> None:
    content = indexed(BLOCKS) if name == "palette" else ENCODINGS[name](BLOCKS)
    with pytest.raises(MaskError) as refused:
        read_mask(written(content[:cut], tmp_path))
    assert refused.value.oddity is MaskOddity.UNREADABLE


def test_a_mask_that_is_missing_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="no such file"):
        read_mask(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("anomalous", "level", "oddity"), [(True, 0, MaskOddity.ALL_BLACK), (False, 1, MaskOddity.ON_GOOD)]
)
def test_a_mask_against_the_images_label_is_refused(
    anomalous: bool, level: int, oddity: MaskOddity, tmp_path: Path
) -> None:
    Image.new("L", (4, 3), level).save(tmp_path / "mask.png")
    sample = Sample(
        name="a.png",
        kind="dent",
        anomalous=anomalous,
        origin=ImageFile(tmp_path / "a.png"),
        mask_path=tmp_path / "mask.png",
    )
    with pytest.raises(MaskError) as refused:
        sample.mask((3, 4))
    assert refused.value.oddity is oddity


def test_oddities_are_counted_and_named_by_kind(tmp_path: Path) -> None:
    warnings = MaskOddities()
    lossy = written(pillow("JPEG", same, quality=60)(BLOCKS), tmp_path)
    for index in range(6):
        warnings.add(f"{index}.png", read_mask(lossy))
    warnings.refuse("7.png", MaskError(MaskOddity.WRONG_SIZE, "7_mask.png", "6×6, the image is 8×8"))
    n_between = 6 * read_mask(lossy).n_between
    assert warnings.sentences("bottle") == [
        f"bottle: 6 masks in a lossy format, thresholded at half ({n_between} pixels neither black nor white): "
        "0.png, 1.png, 2.png, 3.png, …",
        "bottle: 1 mask of another size than the image, left out of the pixel metrics: 7.png (6×6, the image is 8×8)",
    ]
