"""The card inside a model file: what is written is what is read, and a card that lies is refused."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.errors import ModelError
from edge_uad.inference.backbones.card import JOINS, card_from_json, card_to_json
from edge_uad.records import ModelCard, Precision

MODEL_ID = "ab" * 32

sides = st.integers(1, 500)
numbers = st.floats(-10, 10)
positive = st.floats(1e-3, 10)


@st.composite
def cards(draw: st.DrawFn) -> ModelCard:
    grid_hw, patch_px = draw(st.tuples(sides, sides)), draw(sides)
    return ModelCard(
        model_id=MODEL_ID,
        backbone=draw(st.text(max_size=40)),
        input_hw=(grid_hw[0] * patch_px, grid_hw[1] * patch_px),
        grid_hw=grid_hw,
        patch_px=patch_px,
        dim=draw(st.integers(1, 4096)),
        mean=draw(st.tuples(numbers, numbers, numbers)),
        std=draw(st.tuples(positive, positive, positive)),
        layers=tuple(draw(st.lists(st.integers(0, 40), min_size=1, max_size=40))),
        attention_layer=draw(st.integers(0, 40)),
        precision=draw(st.sampled_from(get_args(Precision))),
        licence=draw(st.text(max_size=40)),
        weights_sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        join=draw(st.sampled_from(JOINS)),
        neighbourhood=draw(st.integers(0, 9)) * 2 + 1,
        top_ratio=draw(st.floats(1e-6, 1)),
    )


@given(cards())
def test_what_is_written_is_what_is_read(card: ModelCard) -> None:
    assert card_from_json(card_to_json(card), MODEL_ID) == card


@given(cards())
def test_the_model_id_is_of_the_file_and_not_in_it(card: ModelCard) -> None:
    assert "model_id" not in json.loads(card_to_json(card))
    assert card_from_json(card_to_json(card), "cd" * 32).model_id == "cd" * 32


def stored(**changes: Any) -> str:
    card = {
        "backbone": "b",
        "input_hw": [28, 42],
        "grid_hw": [2, 3],
        "patch_px": 14,
        "dim": 8,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "layers": [0, 1],
        "attention_layer": 1,
        "precision": "fp32",
        "licence": "Apache-2.0",
        "weights_sha256": "0" * 64,
    }
    return json.dumps({key: value for key, value in {**card, **changes}.items() if value is not Ellipsis})


def test_the_card_that_the_next_tests_spoil_is_a_good_one() -> None:
    assert card_from_json(stored(), MODEL_ID).grid_hw == (2, 3)


def test_a_card_from_before_the_later_fields_means_the_papers_settings() -> None:
    card = card_from_json(stored(), MODEL_ID)
    assert (card.join, card.neighbourhood, card.top_ratio) == ("mean", 1, 0.05)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (stored(join="sum"), "join is 'sum'"),
        (stored(neighbourhood=2), "no odd number"),
        (stored(neighbourhood=0), "no odd number"),
        (stored(top_ratio=0.0), "top ratio"),
        (stored(top_ratio=1.5), "top ratio"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "a JSON list"),
        (stored(dim=...), "lacks dim"),
        (stored(colour="red"), "unknown colour"),
        (stored(model_id=MODEL_ID), "unknown model_id"),
        (stored(dim="8"), "dim is '8'"),
        (stored(dim=8.5), "dim is 8.5"),
        (stored(dim=True), "dim is True"),
        (stored(dim=0), "a size below 1"),
        (stored(input_hw=[28]), "input_hw"),
        (stored(input_hw=[28, 43]), "is not the grid of"),
        (stored(mean=[0.5, 0.5]), "mean"),
        (stored(std=[0.2, 0.0, 0.2]), "std is not above 0"),
        (stored(mean=[float("nan"), 0, 0]), "not finite"),
        (stored(layers=[]), "names no layer"),
        (stored(layers=[-1]), "below 0"),
        (stored(attention_layer=-1), "below 0"),
        (stored(precision="int4"), "precision is 'int4'"),
    ],
)
def test_a_card_that_cannot_be_used_is_refused(text: str, told: str) -> None:
    with pytest.raises(ModelError) as caught:
        card_from_json(text, MODEL_ID)
    assert told in str(caught.value)
