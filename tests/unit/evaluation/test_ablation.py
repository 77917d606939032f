"""Which settings an ablation measures."""

from dataclasses import replace

import pytest

from bank_tools.bank.recipe import Recipe
from bank_tools.evaluation.ablation import Point, Sweep, parse_sweep, points_of
from bank_tools.evaluation.variant import Variant
from edge_uad.errors import UsageError
from edge_uad.records import Geometry, Rotations, Tiling

DEFAULT = Variant(recipe=Recipe(bpm_kernel=3))


def test_one_knob_at_a_time_around_the_default() -> None:
    points = points_of([parse_sweep("bpm-kernel=1,5"), parse_sweep("top-ratio=0.01")], grid=False)
    assert [point.label for point in points] == ["default", "bpm-kernel=1", "bpm-kernel=5", "top-ratio=0.01"]


def test_the_grid_has_every_combination() -> None:
    points = points_of([parse_sweep("bpm-kernel=1,5"), parse_sweep("top-ratio=0.01,0.1")], grid=True)
    assert [point.label for point in points] == [
        "default",
        "bpm-kernel=1 top-ratio=0.01",
        "bpm-kernel=1 top-ratio=0.1",
        "bpm-kernel=5 top-ratio=0.01",
        "bpm-kernel=5 top-ratio=0.1",
    ]


def test_a_point_changes_what_it_names_and_nothing_else() -> None:
    changed = Point((("coreset", "0.5"), ("geometry", "paper"), ("turn-good", "yes"))).applied(DEFAULT)
    recipe = Recipe(bpm_kernel=3, coreset_ratio=0.5, geometry=Geometry.PAPER, rotations=Rotations.QUARTER)
    assert changed == Variant(recipe=recipe)
    assert Point((("rotations", "auto"),)).applied(DEFAULT).recipe.rotations is Rotations.AUTO


def test_a_soft_threshold_is_soft_masking() -> None:
    assert Point((("bpm-threshold", "soft"),)).applied(DEFAULT) == Variant(recipe=DEFAULT.recipe, bpm_soft=True)


def test_settings_of_the_model_are_kept_apart_from_those_of_the_recipe() -> None:
    point = Point((("layers", "2+5"), ("bpm-kernel", "1"), ("input", "448")))
    assert point.model_changes() == {"layers": "2+5", "input": "448"}
    assert point.applied(DEFAULT).recipe.bpm_kernel == 1


def test_levels_come_first_because_others_are_refused_for_them() -> None:
    two = Variant(recipe=Recipe(bpm_kernel=3, levels=2))
    changed = Point((("reweighted", "yes"), ("levels", "1"))).applied(two)
    assert changed == Variant(recipe=DEFAULT.recipe, reweighted=True)


def test_how_many_good_images_are_learned() -> None:
    assert Point((("good", "7"),)).n_good(None) == 7
    assert Point().n_good(12) == 12


def test_values_said_twice_count_once() -> None:
    assert parse_sweep("bpm-kernel=1, 1,3") == Sweep("bpm-kernel", ("1", "3"))


@pytest.mark.parametrize("text", ["kernel=1", "bpm-kernel=", "bpm-kernel", "=3", "", "bpm-kernel=,"])
def test_what_is_no_sweep_shows_the_knobs(text: str) -> None:
    with pytest.raises(UsageError, match="with a knob of bpm-kernel, bpm-threshold"):
        parse_sweep(text)


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("bpm-kernel", "x", "has the value 'x', which it cannot take"),
        ("bpm-kernel", "4", "the BPM kernel is 4"),
        ("bpm-threshold", "sof", "has the value 'sof'"),
        ("top-ratio", "0", "the top ratio is 0"),
        ("geometry", "round", "has the value 'round'"),
        ("turn-good", "1", "use yes or no"),
    ],
)
def test_a_value_that_cannot_be_is_refused(knob: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        Point(((knob, value),)).applied(DEFAULT)
    assert "--sweep" not in str(refused.value)  # it may be of a --candidate


def test_a_number_of_good_images_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="use whole numbers from 1"):
        Point((("good", "0"),)).n_good(None)


def test_a_knob_is_swept_once() -> None:
    with pytest.raises(UsageError, match="name each knob once"):
        points_of([Sweep("seed", ("1",)), Sweep("seed", ("2",))], grid=False)


def test_tiles_are_rows_columns_and_their_overlap() -> None:
    tiled = Point((("tiles", "3x1+8"),)).applied(DEFAULT).recipe.tiling
    assert tiled == Tiling(tiles_hw=(3, 1), overlap_hw=(8, 8))
    whole = replace(DEFAULT, recipe=replace(DEFAULT.recipe, tiling=tiled))
    assert Point((("tiles", "1x1"),)).applied(whole) == DEFAULT


@pytest.mark.parametrize("text", ["3x1", "3", "x+1", "3x1+", "axb+2"])
def test_tiles_without_their_overlap_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="tiles has the value"):
        Point((("tiles", text),)).applied(DEFAULT)
