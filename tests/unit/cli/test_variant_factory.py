"""Each candidate's recipe follows its own model, and what its model cannot do is refused before any work."""

from dataclasses import replace
from pathlib import Path

import pytest

from bank_tools.bank.recipe import recipe_for
from bank_tools.evaluation.ablation import Point
from bank_tools.evaluation.variant import Variant
from edge_uad.cli.ablate import VariantFactory
from edge_uad.cli.options import MachineOptions
from edge_uad.errors import UsageError
from edge_uad.records import ModelCard
from tests.fakes import FakeBackbone


class TwoLevels(FakeBackbone):
    """Of a named backbone's weights, whose blocks 3 and 11 stand side by side."""

    @property
    def card(self) -> ModelCard:
        return replace(super().card, backbone="dinov2_vits14", layers=(3, 11), join="levels")


def factory(*, levels: int | None = None) -> VariantFactory:
    model = TwoLevels()
    return VariantFactory(
        model=model,
        default=Variant(recipe=recipe_for(model.card, levels=levels)),
        kernel_follows_grid=True,
        levels_follow_model=levels is None,
        machine=MachineOptions(),
        workers=1,
        cache_gib=0,
        out=Path("nowhere"),
        pixels=False,
        calibrated=True,
    )


@pytest.mark.parametrize(
    ("changes", "levels"),
    [({}, 2), ({"layers": "2+5+8"}, 3), ({"join": "mean"}, 1), ({"layers": "11"}, 1), ({"levels": "1"}, 1)],
)
def test_levels_follow_the_candidates_model(changes: dict[str, str], levels: int) -> None:
    assert factory().variant(Point(tuple(changes.items()))).recipe.levels == levels


def test_levels_that_were_told_stay() -> None:
    assert factory(levels=1).variant(Point((("layers", "2+5+8"),))).recipe.levels == 1
    with pytest.raises(UsageError, match="have 3 levels, 2 were asked for; use 3, or 1"):
        factory(levels=2).variant(Point((("layers", "2+5+8"),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": "3"}, "have 2 levels, 3 were asked for; use 2, or 1"),
        ({"levels": "0"}, "have 2 levels, 0 were asked for"),
        ({"layers": "2+5+8", "levels": "2"}, "have 3 levels, 2 were asked for"),
        ({"join": "mean", "levels": "2"}, "have one level, 2 were asked for"),
        ({"reweighted": "yes"}, "are for patches of one level; add levels=1"),
        ({"input": "x"}, "the setting input has the value 'x'"),
        ({"join": "sum"}, "the setting join has the value 'sum'"),
        ({"layers": "a"}, "the setting layers has the value 'a'"),
    ],
)
def test_what_the_candidates_model_cannot_do_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        factory().check(Point(tuple(changes.items())))
    assert "--" not in str(refused.value)  # it may come from --sweep or from --candidate


def test_scales_and_weights_go_with_one_level() -> None:
    for joined in ({"levels": "1"}, {"join": "mean"}):
        point = Point((("reweighted", "yes"), *joined.items()))
        factory().check(point)
        assert factory().variant(point).recipe.levels == 1
