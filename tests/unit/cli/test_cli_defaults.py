"""A default stands in the recipe; every command that offers it shows the same one."""

import inspect
from collections.abc import Callable

import pytest

from bank_tools.bank.build import Recipe
from edge_uad.cli.ablate import ablate
from edge_uad.cli.build_bank import build_bank
from edge_uad.cli.evaluate import evaluate

RECIPE = Recipe(bpm_kernel=1)
FIELDS = {
    "coreset": "coreset_ratio",
    "bpm_threshold": "bpm_threshold",
    "neighbours": "neighbours",
    "geometry": "geometry",
    "false_alarm_rate": "false_alarm_rate",
    "seed": "seed",
    "search_device": "search_device",
}


@pytest.mark.parametrize("command", [build_bank, evaluate, ablate], ids=lambda command: command.__name__)
@pytest.mark.parametrize(("option", "field"), FIELDS.items())
def test_a_commands_default_is_the_recipes(command: Callable[..., None], option: str, field: str) -> None:
    assert inspect.signature(command).parameters[option].default == getattr(RECIPE, field)
