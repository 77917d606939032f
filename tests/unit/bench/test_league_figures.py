"""The league's figures that are packaged for the frontier: of sets that every size was measured on."""

from typing import Any

import pytest

from bank_tools.bench.league import league_of_inputs, summary_of
from bank_tools.bench.operating_points import SIZES_PX


def league(*rows: tuple[str, str, float, float], **changes: dict[str, Any]) -> dict[str, Any]:
    """The content of a results.json: candidates with their changes, and rows of candidate, set, AUROC and recall."""
    return {
        "candidates": [{"name": name, "changes": change} for name, change in changes.items()],
        "results": [
            {"candidate": candidate, "set": name, "figures": {"auroc": auroc, "at_05": {"recall": recall}}}
            for candidate, name, auroc, recall in rows
        ],
    }


def test_means_are_over_the_sets_that_every_size_was_measured_on() -> None:
    one = league(
        ("default", "a", 0.9, 0.5),
        ("default", "b", 0.7, 0.3),
        ("small", "a", 0.8, 0.4),
        default={},
        small={"input": "224"},
    )
    other = league(("mid", "a", 0.85, 0.45), ("mid", "c", 0.1, 0.1), mid={"input": "336"})
    assert summary_of([one, other], default_input_px=448) == {
        "backbone": "dinov2_vits14",
        "sets": ["a"],
        "inputs": {
            "224": {"auroc": 0.8, "recall_05": 0.4},
            "336": {"auroc": 0.85, "recall_05": 0.45},
            "448": {"auroc": 0.9, "recall_05": 0.5},
        },
    }


def test_candidates_that_change_more_than_the_input_do_not_count() -> None:
    found = summary_of(
        [
            league(
                ("default", "a", 0.9, 0.5),
                ("other", "a", 0.1, 0.1),
                default={},
                other={"input": "224", "top-ratio": "0.5"},
            )
        ],
        default_input_px=448,
    )
    assert list(found["inputs"]) == ["448"]


def test_leagues_without_a_common_set_are_refused() -> None:
    with pytest.raises(ValueError, match="no dataset was measured at every size"):
        summary_of(
            [league(("x", "a", 0.9, 0.5), x={}), league(("y", "b", 0.9, 0.5), y={"input": "224"})], default_input_px=448
        )


def test_every_size_that_a_cycle_may_choose_has_figures() -> None:
    found = league_of_inputs()
    assert set(SIZES_PX) <= set(found.by_input_px)
    assert len(found.sets) >= 2
    assert all(0 <= value <= 1 for row in found.by_input_px.values() for value in row.values())
