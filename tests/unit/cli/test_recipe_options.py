"""build-bank, evaluate, ablate and tune have one set of recipe options, whose defaults are the recipe's."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from bank_tools.bank.recipe import Recipe, recipe_for
from edge_uad.cli import app
from edge_uad.cli.ablate import ablate
from edge_uad.cli.build_bank import build_bank
from edge_uad.cli.evaluate import evaluate
from edge_uad.cli.options import MachineOptions, RecipeOptions, recipe_of, with_option_groups
from edge_uad.cli.tune import tune
from edge_uad.errors import UsageError
from edge_uad.inference.masking import default_kernel
from edge_uad.records import Geometry, Rotations, Tiling
from tests.fakes import FakeBackbone

CARD = FakeBackbone().card
NOT_DEFAULT = {
    "coreset": 0.3,
    "max_patches": 700,
    "bpm_kernel": 3,
    "bpm_threshold": 0.2,
    "top_ratio": 0.5,
    "levels": 2,
    "neighbours": 4,
    "geometry": Geometry.PAPER,
    "roi": "1,2,30,40",
    "tiles": "3x2",
    "tile_overlap": 2,
    "rotations": Rotations.AUTO,
    "false_alarm_rate": 0.2,
    "seed": 9,
}


def test_the_options_defaults_are_the_recipes() -> None:
    assert recipe_of(CARD, RecipeOptions(), MachineOptions()) == recipe_for(CARD)


TILED = ("tiles", "tile_overlap")
"""One field of the recipe, of both together."""


@pytest.mark.parametrize("name", [field.name for field in fields(RecipeOptions) if field.name not in TILED])
def test_every_option_changes_one_field_of_the_recipe(name: str) -> None:
    changed = recipe_of(CARD, replace(RecipeOptions(), **{name: NOT_DEFAULT[name]}), MachineOptions())
    field = {"coreset": "coreset_ratio"}.get(name, name)
    value = (1, 2, 30, 40) if name == "roi" else NOT_DEFAULT[name]
    expected: dict[str, object] = {field: value}
    assert changed == replace(recipe_for(CARD), **expected) != recipe_for(CARD)


@pytest.mark.parametrize(("overlap", "expected"), [(None, (1, 1)), (0, (0, 0)), (2, (2, 2))])
def test_tiles_overlap_by_a_quarter_unless_told(overlap: int | None, expected: tuple[int, int]) -> None:
    recipe = recipe_of(CARD, RecipeOptions(tiles="3x2", tile_overlap=overlap), MachineOptions())
    assert recipe.tiling == Tiling(tiles_hw=(3, 2), overlap_hw=expected)
    # the mask is smoothed as the whole grid demands
    assert recipe.bpm_kernel == default_kernel(recipe.tiling.grid_hw(CARD.grid_hw))


@pytest.mark.parametrize("text", ["3", "3x", "x3", "0x1", "3x1x1", "-1x2", "1.5x1", "~/x", "²x1"])
def test_tiles_that_are_none_are_refused_before_any_work(text: str) -> None:
    with pytest.raises(UsageError, match="--tiles is"):
        RecipeOptions(tiles=text)


def test_an_overlap_without_tiles_is_refused_and_not_passed_over() -> None:
    with pytest.raises(UsageError, match="--tile-overlap is of several tiles"):
        RecipeOptions(tile_overlap=2)


def test_where_it_runs_reaches_the_recipe() -> None:
    recipe = recipe_of(CARD, RecipeOptions(), MachineOptions(threads=3, search_device="gpu"), reduced_decode=True)
    assert recipe == Recipe(
        bpm_kernel=1, top_ratio=CARD.top_ratio, search_threads=3, search_device="gpu", reduced_decode=True
    )


@pytest.mark.parametrize("command", [build_bank, evaluate, ablate, tune], ids=lambda command: command.__name__)
def test_each_command_offers_every_option(command: Callable[..., None]) -> None:
    name = command.__name__.replace("_", "-")
    described = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).output
    for field in (*fields(RecipeOptions), *fields(MachineOptions)):
        assert f"--{field.name.replace('_', '-')} " in described


def test_a_region_of_interest_that_is_none_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="--roi is '1,2,3'"):
        RecipeOptions(roi="1,2,3")


def test_a_command_is_called_with_the_groups_filled_from_its_options() -> None:
    given: list[object] = []

    @with_option_groups
    def command(
        path: str, *, recipe: RecipeOptions, machine: MachineOptions, plain: Annotated[int, typer.Option()] = 5
    ) -> None:
        given.extend([path, recipe, machine, plain])

    single = typer.Typer()
    single.command()(command)
    done = CliRunner().invoke(single, ["p", "--coreset", "0.7", "--threads", "2", "--geometry", "cifar"])
    assert done.exit_code == 0, done.output
    assert given == ["p", RecipeOptions(coreset=0.7, geometry=Geometry.CIFAR), MachineOptions(threads=2), 5]
