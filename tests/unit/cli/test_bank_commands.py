"""The commands that tune prints are those that make the chosen candidate's model and bank."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bank_tools.evaluation.league.candidates import DEFAULT, parse_candidate
from edge_uad.cli.bank_commands import bank_commands, check_buildable
from edge_uad.cli.options import MachineOptions, RecipeOptions
from edge_uad.errors import UsageError
from edge_uad.records import Join, ModelCard
from export.weights import named_backbone
from tests.fakes import FakeBackbone

NAME = "dinov2_vits14"
OWN = named_backbone(NAME)


def card(
    *, side_px: int = OWN.input_px, layers: tuple[int, ...] = OWN.layers, join: Join = OWN.join, precision: str = "fp32"
) -> ModelCard:
    return replace(
        FakeBackbone().card,
        backbone=NAME,
        input_hw=(side_px, side_px),
        layers=layers,
        join=join,
        attention_layer=OWN.attention_layer,
        neighbourhood=OWN.neighbourhood,
        precision=precision,
    )


def commands(
    text: str | None,
    *,
    of: ModelCard | None = None,
    model: Path | None = None,
    recipe: RecipeOptions | None = None,
    machine: MachineOptions | None = None,
) -> list[list[str]]:
    candidate = DEFAULT if text is None else parse_candidate(text)
    found = bank_commands(
        "good parts/",
        candidate,
        card=of or card(),
        model=model,
        recipe=recipe or RecipeOptions(),
        machine=machine or MachineOptions(),
    )
    return [shlex.split(command) for command in found]


def test_the_default_needs_no_option() -> None:
    assert commands(None) == [["edge-uad", "build-bank", "good parts/"]]


def test_what_was_asked_for_is_asked_again() -> None:
    recipe = RecipeOptions(coreset=0.2, roi="1,2,30,40", false_alarm_rate=0.05)
    [words] = commands(None, model=Path("my model.onnx"), recipe=recipe, machine=MachineOptions(threads=2))
    assert words[2:] == [
        "good parts/", "--model", "my model.onnx", "--coreset", "0.2", "--roi", "1,2,30,40",
        "--false-alarm-rate", "0.05", "--threads", "2",
    ]  # fmt: skip


def test_a_candidates_settings_come_before_those_asked_for() -> None:
    [words] = commands("a: top-ratio=0.02 levels=1", recipe=RecipeOptions(top_ratio=0.3, seed=4))
    assert words[3:] == ["--top-ratio", "0.02", "--seed", "4", "--levels", "1"]


def test_another_model_is_exported_first_and_built_with() -> None:
    export, build = commands("a: input=224 bpm-threshold=0", of=card(side_px=224), model=Path("old.onnx"))
    assert export == ["edge-uad", "export", NAME, "--out", f"{NAME}-input-224.onnx", "--input", "224"]
    assert build == [
        "edge-uad", "build-bank", "good parts/", "--model", f"{NAME}-input-224.onnx", "--bpm-threshold", "0",
    ]  # fmt: skip


def test_tiles_are_two_options() -> None:
    [words] = commands("a: tiles=3x1+8")
    assert words[3:] == ["--tiles", "3x1", "--tile-overlap", "8"]


def test_an_export_names_all_that_is_not_the_backbones_own() -> None:
    export, _ = commands("a: layers=5+11 join=concat", of=card(layers=(5, 11), join="concat", precision="fp16"))
    assert export[3:] == [
        "--out", "dinov2_vits14-layers-5-11-join-concat.onnx", "--layers", "5,11", "--join", "concat",
        "--precision", "fp16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "setting", ["turn-good=yes", "reweighted=yes", "scales=1+3", "apart=0.1", "good=5", "bpm-threshold=soft"]
)
def test_what_no_bank_records_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="with which no bank can be built"):
        check_buildable(parse_candidate(f"a: {setting}"))


@pytest.mark.parametrize("setting", ["bpm-threshold=0.1", "coreset=1", "levels=1", "input=224", "layers=5+11"])
def test_what_a_bank_or_a_model_records_can_be_built(setting: str) -> None:
    check_buildable(parse_candidate(f"a: {setting}"))
