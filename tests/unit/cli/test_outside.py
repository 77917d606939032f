"""Laws for whatever comes from outside: taken as it should be, or refused in one sentence, and nothing worse."""

from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_uad.errors import BankError, FrameError, SettingsError
from edge_uad.inference.bank import PatchBank
from edge_uad.inference.preprocess import Preprocessor
from edge_uad.records import Geometry
from edge_uad.runtime.settings import Settings, make_settings, parse_settings
from tests.banks import random_bank

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
RIGHT: dict[str, Any] = Settings.model_validate(
    {"stations": [{"name": "line", "source": "0", "bank": "b"}]}
).model_dump(mode="json")


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key of the settings, sections and all."""
    if isinstance(content, dict):
        inner = [place for key, value in content.items() for place in places(value, (*path, key))]
    elif isinstance(content, list):
        inner = [place for index, value in enumerate(content) for place in places(value, (*path, index))]
    else:
        inner = []
    return [path, *inner] if path else inner


@settings(deadline=None)
@given(place=st.sampled_from(places(RIGHT)), value=odd_values)
def test_a_wrong_value_anywhere_is_one_sentence_or_it_is_right(place: tuple[Any, ...], value: object) -> None:
    content = yaml.safe_load(yaml.safe_dump(RIGHT))
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    try:
        taken = make_settings(content, name="line.yaml")
    except SettingsError as error:
        assert str(error).startswith("line.yaml: ")  # noqa: PT017  (either outcome is right)
        assert "\n" not in str(error)  # noqa: PT017  (as above)
    else:
        assert parse_settings(yaml.safe_dump(taken.model_dump(mode="json"))) == taken


@settings(deadline=None)
@given(
    head=st.sampled_from([b"", b"\x10\0\0\0\0\0\0\0", b"\xff" * 8, b"\2\0\0\0\0\0\0\0{}"]), tail=st.binary(max_size=300)
)
def test_any_bytes_are_a_bank_or_a_bank_error(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(head + tail)
    with pytest.raises(BankError) as error:
        PatchBank.load(path)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=40)
@given(key=st.sampled_from(sorted(random_bank().manifest.__slots__)), value=odd_values)
def test_no_manifest_is_believed_that_its_bank_was_not_sealed_with(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    bank = random_bank(n_patches=4)
    stated = getattr(bank.manifest, key)
    if stated in (value, tuple(value) if isinstance(value, list) else value):
        return  # the very same, in a file
    path = tmp_path_factory.getbasetemp() / "manifest.safetensors"
    object.__setattr__(bank.manifest, key, value)  # a frozen record, changed behind its back
    bank.save(path)
    with pytest.raises(BankError):
        PatchBank.load(path)


@settings(deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    geometry=st.sampled_from(list(Geometry)),
    roi=st.none() | st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 120)] * 2),
    seed=st.integers(0, 999),
)
def test_any_image_comes_to_the_models_input_within_range_or_is_refused(
    height: int, width: int, geometry: Geometry, roi: tuple[int, int, int, int] | None, seed: int
) -> None:
    preprocessor = Preprocessor(geometry=geometry, roi=roi, input_hw=(32, 32), mean=MEAN, std=STD)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    outside = roi is not None and (roi[0] + roi[2] > width or roi[1] + roi[3] > height)
    if outside:
        with pytest.raises(FrameError, match="reaches outside"):
            preprocessor.pixels(image)
        return
    pixels = preprocessor.pixels(image)
    assert pixels.shape == (3, 32, 32)
    lowest = (np.zeros(3) - MEAN) / np.asarray(STD)
    highest = (np.ones(3) - MEAN) / np.asarray(STD)
    assert (pixels.min(axis=(1, 2)) >= lowest - 1e-3).all()
    assert (pixels.max(axis=(1, 2)) <= highest + 1e-3).all()
    x, y = preprocessor.placement((height, width)).to_image(16.0, 16.0)
    assert np.isfinite([x, y]).all()


def test_the_places_are_every_key_of_the_config() -> None:
    assert ("stations", 0, "bank") in places(RIGHT)
    assert ("curve", "server_key") in places(RIGHT)
    assert len(places(RIGHT)) > 30
