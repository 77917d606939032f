"""The commands, as they are typed, that build a bank with a candidate's settings."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from edge_uad.cli.options import MachineOptions, RecipeOptions
from edge_uad.errors import UsageError

if TYPE_CHECKING:
    from bank_tools.evaluation.league.candidates import Candidate
    from edge_uad.records import ModelCard


def check_buildable(candidate: "Candidate") -> None:
    """Refuse settings that evaluations compare and no bank file records.

    Raises:
        UsageError: one of the settings is such a one.
    """
    from bank_tools.evaluation.ablation import MODEL_KNOBS, SOFT

    buildable = {*_option_names(), *MODEL_KNOBS}
    for knob, value in candidate.point.changes:
        if knob not in buildable or (knob, value) == ("bpm-threshold", SOFT):
            raise UsageError(
                f"the candidate {candidate.name!r} has {knob}={value}, with which no bank can be built; leave it out "
                "(ablate and evaluate compare it)"
            )


def bank_commands(
    normals: str,
    candidate: "Candidate",
    *,
    card: "ModelCard",
    model: Path | None,
    recipe: RecipeOptions,
    machine: MachineOptions,
) -> tuple[str, ...]:
    """``edge-uad build-bank`` with the candidate's settings, after ``edge-uad export`` where it has a model of its own.

    Args:
        normals: as they were named.
        candidate: of settings that can be built.
        card: of its model; see :meth:`edge_uad.cli.ablate.VariantFactory.card`.
        model: the file that was named, which is built with where the candidate has no other.
        recipe: the default's options.
        machine: where it runs.
    """
    given = {**_given(recipe), **_given(machine)}
    changed = candidate.point.model_changes()
    given |= dict(_options_of((knob, value) for knob, value in candidate.point.changes if knob not in changed))
    exports = []
    if changed:
        model = Path(f"{card.backbone}-{_slug(changed)}.onnx")
        exports.append(_command("export", card.backbone, {"out": str(model), **_export_options(card)}))
    if model is not None:
        given = {"model": str(model), **given}
    return (*exports, _command("build-bank", normals, given))


def _options_of(settings: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The options of build-bank for a candidate's settings: of the same name, but for tiles, which are two."""
    for knob, value in settings:
        if knob == "tiles":
            tiles, _, overlap = value.partition("+")
            yield from (("tiles", tiles), ("tile-overlap", overlap))
        else:
            yield knob, value


def _command(name: str, argument: str, options: dict[str, str]) -> str:
    words = ["edge-uad", name, argument]
    for option, value in options.items():
        words += [f"--{option}", value]
    return shlex.join(words)


def _given(options: RecipeOptions | MachineOptions) -> dict[str, str]:
    """Option by name, where it is not the default."""
    return {
        field.name.replace("_", "-"): str(value)
        for field in fields(options)
        if (value := getattr(options, field.name)) != field.default
    }


def _option_names() -> set[str]:
    return {field.name.replace("_", "-") for field in fields(RecipeOptions)}


def _export_options(card: "ModelCard") -> dict[str, str]:
    """What an export must be told to make such a model, beside what the backbone's own settings are."""
    from export.weights import named_backbone

    own = named_backbone(card.backbone)
    wanted = {
        "input": (card.input_hw[0], own.input_px),
        "layers": (card.layers, own.layers),
        "join": (card.join, own.join),
        "attention-layer": (card.attention_layer, own.attention_layer),
        "neighbourhood": (card.neighbourhood, own.neighbourhood),
        "precision": (card.precision, "fp32"),
    }
    return {
        option: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for option, (value, default) in wanted.items()
        if value != default
    }


def _slug(changes: dict[str, str]) -> str:
    return "-".join(f"{knob}-{value}" for knob, value in changes.items()).replace("+", "-").replace(",", "-")
