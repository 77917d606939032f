"""What each input size caught in the league, kept beside the code: what a frame's time buys."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LEAGUE_FILE = files("bank_tools.bench") / "league.json"
"""Written by ``python -m benchmarks.league_of_inputs`` from results of ``edge-uad evaluate`` (docs/results.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueOfInputs:
    """Means over datasets, of the default backbone and recipe at several input sizes."""

    backbone: str
    sets: tuple[str, ...]
    """On all of which every size was measured."""
    by_input_px: Mapping[int, Mapping[str, float]]
    """Image AUROC (``auroc``) and recall at 5 % false alarms (``recall_05``) of each size."""


@cache
def league_of_inputs() -> LeagueOfInputs:
    """The figures packaged with this version."""
    content = json.loads(LEAGUE_FILE.read_text(encoding="utf-8"))
    return LeagueOfInputs(
        backbone=content["backbone"],
        sets=tuple(content["sets"]),
        by_input_px={int(size): row for size, row in content["inputs"].items()},
    )


def summary_of(results: Sequence[Mapping[str, Any]], *, default_input_px: int) -> dict[str, Any]:
    """What is packaged, from several leagues' ``results.json``.

    Of each league the default and the candidates that change the input alone are taken.

    Args:
        results: the files' contents.
        default_input_px: of the default.

    Raises:
        ValueError: no dataset was measured at every size.
    """
    found: dict[int, dict[str, dict[str, float]]] = {}
    for league in results:
        sizes = {
            one["name"]: int(one["changes"].get("input", default_input_px))
            for one in league["candidates"]
            if set(one["changes"]) <= {"input"}
        }
        for row in league["results"]:
            size, figures = sizes.get(row["candidate"]), row["figures"]
            if size is not None and figures is not None:
                recall = figures["at_05"]["recall"]
                found.setdefault(size, {})[row["set"]] = {"auroc": figures["auroc"], "recall_05": recall}
    sets = sorted(set.intersection(*(set(by_set) for by_set in found.values()))) if found else []
    if not sets:
        raise ValueError("no dataset was measured at every size")
    inputs = {
        str(size): {
            name: round(sum(found[size][one][name] for one in sets) / len(sets), 4) for name in ("auroc", "recall_05")
        }
        for size in sorted(found)
    }
    return {"backbone": "dinov2_vits14", "sets": sets, "inputs": inputs}
