"""Who takes part in a league, how the candidates stand, and who is chosen for a set that has no say."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.datasets import Category, Dataset
from bank_tools.evaluation.ablation import KNOBS, Point
from bank_tools.evaluation.league.candidates import DEFAULT, Candidate, candidates_of, parse_candidate, sets_of
from bank_tools.evaluation.league.frame_time import FrameTime
from bank_tools.evaluation.league.measure import Draw, DrawSpread, Figures, ImageScores, LeagueRow
from bank_tools.evaluation.league.standing import LeftOut, beyond_spread, leave_one_out, standings
from bank_tools.metrics.image import RecallAtRate
from edge_uad.errors import UsageError

SETS = ("mtd", "pill", "wood")


def figures(auroc: float | None, recall_05: float | None, **changed: float | None) -> Figures:
    plain = Figures(
        n_good=10,
        n_normal=20,
        n_anomalous=30,
        n_invalid=0,
        n_patches=100,
        auroc=auroc,
        aupro_03=None,
        at_01=RecallAtRate(recall=0.1, false_alarm_rate=0.0, threshold=1.0),
        at_05=RecallAtRate(recall=recall_05, false_alarm_rate=0.05, threshold=1.0),
        threshold=1.0,
        asked_rate=0.01,
        recall=0.5,
        false_alarm_rate=0.0,
        false_alarm_low=0.0,
        false_alarm_high=0.168,
    )
    return replace(plain, **changed)  # type: ignore[arg-type]  # each of its field's type


def row(
    candidate: str,
    set_name: str,
    value: float | None,
    draws: tuple[float, ...] = (),
    *,
    ms: float | None = None,
    **changed: float | None,
) -> LeagueRow:
    """AUROC and recall alike, so that the criterion is the value itself."""
    time = FrameTime(median_ms=ms, n_frames=15, n_patches=100, processor="a CPU", busy_ratio=None) if ms else None
    return LeagueRow(
        candidate=candidate,
        set_name=set_name,
        figures=figures(value, value, **changed),
        scores=ImageScores(names=(), anomalous=(), test=(), good=()),
        draws=tuple(
            Draw(seed=seed, n_good=8, auroc=one, recall_01=one, recall_05=one) for seed, one in enumerate(draws)
        ),
        time=time,
    )


def dataset(root: str, *categories: str, labelled_classes: bool = False) -> Dataset:
    return Dataset(
        name=Path(root).name,
        root=Path(root),
        layout="mvtec",
        categories=tuple(Category(name=name, good=(), test=()) for name in categories),
        labelled_classes=labelled_classes,
    )


def test_a_candidate_is_a_name_and_settings() -> None:
    assert parse_candidate("fine: input=448  layers=5+11") == Candidate(
        "fine", Point((("input", "448"), ("layers", "5+11")))
    )


def test_without_a_name_the_settings_are_the_name() -> None:
    assert parse_candidate("input=448 top-ratio=0.05").name == "input=448 top-ratio=0.05"


@pytest.mark.parametrize("knob", KNOBS)
def test_whatever_ablate_can_sweep_a_candidate_can_be(knob: str) -> None:
    assert parse_candidate(f"one: {knob}=1").point.changes == ((knob, "1"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give a name and settings"),
        ("fine:", "give a name and settings"),
        (": input=448", "give a name and settings"),
        ("fine: kernel=1", "with one of bpm-kernel, bpm-threshold"),
        ("fine: input", "has 'input'; give SETTING=VALUE"),
        ("fine: input=", "has 'input='; give SETTING=VALUE"),
        ("fine: layers=5,11", "gives layers several values"),
        ("fine: input=448 input=336", "has a setting twice"),
    ],
)
def test_what_is_no_candidate_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_candidate(text)


def test_the_default_is_always_the_first_candidate() -> None:
    assert candidates_of([]) == [DEFAULT]
    assert [one.name for one in candidates_of(["b: seed=1", "a: seed=2"])] == ["default", "b", "a"]


@pytest.mark.parametrize("texts", [["a: seed=1", "a: seed=2"], ["default: seed=1"]])
def test_no_two_candidates_have_one_name(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="names two candidates"):
        candidates_of(texts)


def test_each_category_is_a_set_of_its_own() -> None:
    sets = sets_of([dataset("/a/mvtec", "bottle", "pill"), dataset("/a/pill", "pill")])
    assert [one.name for one in sets] == ["mvtec/bottle", "mvtec/pill", "pill"]
    assert [[category.name for category in one.dataset.categories] for one in sets] == [[one.name] for one in sets]


def test_two_sets_of_one_name_cannot_be_told_apart() -> None:
    with pytest.raises(UsageError, match="pill would be two sets"):
        sets_of([dataset("/a/pill", "pill"), dataset("/b/pill", "pill")])


def test_classes_against_each_other_are_no_products() -> None:
    with pytest.raises(UsageError, match="a league is of products"):
        sets_of([dataset("/a/cifar", "cat", "dog", labelled_classes=True)])


def test_the_criterion_is_the_mean_of_auroc_and_recall() -> None:
    assert figures(0.9, 0.5).criterion == pytest.approx(0.7)
    assert figures(None, 0.5).criterion is None
    assert figures(0.9, None).criterion is None


def test_a_rate_is_kept_where_it_lies_in_the_interval() -> None:
    assert figures(1, 1, false_alarm_low=0.01, false_alarm_high=0.2).keeps_rate is True
    assert figures(1, 1, false_alarm_low=0.02, false_alarm_high=0.2).keeps_rate is False
    assert figures(1, 1, false_alarm_low=0.0, false_alarm_high=0.009).keeps_rate is False
    assert figures(1, 1, false_alarm_low=None).keeps_rate is None


def test_the_candidate_that_is_best_on_the_others_is_judged_on_the_set_left_out() -> None:
    rows = [
        *(row("default", name, value) for name, value in zip(SETS, (0.8, 0.8, 0.8), strict=True)),
        *(row("fine", name, value) for name, value in zip(SETS, (0.0, 1.0, 0.9), strict=True)),
    ]
    found = {one.set_name: (one.chosen, one.mean_on_others, one.row.figures.criterion) for one in leave_one_out(rows)}
    assert found["mtd"] == ("fine", pytest.approx(0.95), 0.0)  # chosen without mtd, where it finds nothing
    assert found["pill"] == ("default", pytest.approx(0.8), 0.8)
    assert found["wood"] == ("default", pytest.approx(0.8), 0.8)


def test_the_default_stays_where_another_is_no_better() -> None:
    rows = [row(candidate, name, 0.8) for candidate in ("default", "fine") for name in SETS]
    assert [one.chosen for one in leave_one_out(rows)] == ["default"] * 3


def test_what_cannot_judge_the_good_parts_of_a_set_counts_as_nothing_there() -> None:
    rows = [
        *(row("default", name, 0.6) for name in SETS),
        *(row("fine", name, value) for name, value in zip(SETS, (None, 0.9, 0.9), strict=True)),
    ]
    assert [one.chosen for one in leave_one_out(rows)] == ["fine", "default", "default"]


@pytest.mark.parametrize("values", [(0.8,), (0.8, None)])
def test_one_set_leaves_no_others_to_choose_by(values: tuple[float | None, ...]) -> None:
    assert leave_one_out([row("default", name, value) for name, value in zip(SETS, values, strict=False)]) == []


shares = st.floats(0, 1)
leagues = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(shares, min_size=n, max_size=n), min_size=1, max_size=4)
)


def _rows(league: list[list[float]]) -> list[LeagueRow]:
    return [
        row(f"candidate {index}", f"set {place}", value)
        for index, values in enumerate(league)
        for place, value in enumerate(values)
    ]


def _left_out(league: list[list[float]], place: int) -> LeftOut:
    return leave_one_out(_rows(league))[place]


@given(league=leagues, other=st.lists(shares, min_size=4, max_size=4))
def test_a_set_has_no_say_in_the_choice_that_it_judges(league: list[list[float]], other: list[float]) -> None:
    changed = [[value, *values[1:]] for values, value in zip(league, other, strict=False)]
    assert _left_out(league, 0).chosen == _left_out(changed, 0).chosen


@given(league=leagues)
def test_no_candidate_is_better_on_the_others_than_the_one_chosen(league: list[list[float]]) -> None:
    for place in range(len(league[0])):
        means = [sum(values[:place] + values[place + 1 :]) / (len(values) - 1) for values in league]
        assert _left_out(league, place).mean_on_others == pytest.approx(max(means))


def test_a_gain_counts_beyond_the_larger_spread_alone() -> None:
    steady, wavering = (0.80, 0.81, 0.82), (0.7, 0.9, 1.0)
    default = row("default", "mtd", 0.81, steady)
    assert beyond_spread(row("a", "mtd", 0.9, (0.84, 0.85, 0.86)), default) == 1
    assert beyond_spread(row("a", "mtd", 0.9, (0.76, 0.77, 0.78)), default) == -1
    assert beyond_spread(row("a", "mtd", 0.9, wavering), default) == 0  # 0.06 higher, and ± 0.15
    assert beyond_spread(row("a", "mtd", 0.9, (0.815, 0.815, 0.815)), default) == 0


def test_what_never_differs_is_no_gain_without_a_spread() -> None:
    assert beyond_spread(row("a", "mtd", 1, (1.0, 1.0)), row("default", "mtd", 1, (1.0, 1.0))) == 0


@pytest.mark.parametrize("draws", [(), (0.9,)])
def test_one_draw_has_no_spread(draws: tuple[float, ...]) -> None:
    assert DrawSpread.of(draws) is None
    assert beyond_spread(row("a", "mtd", 0.9, draws), row("default", "mtd", 0.5, (0.5, 0.5))) is None


@given(one=st.lists(shares, min_size=2, max_size=4), other=st.lists(shares, min_size=2, max_size=4))
def test_a_win_is_the_others_loss(one: list[float], other: list[float]) -> None:
    a, b = row("a", "mtd", 1, tuple(one)), row("b", "mtd", 1, tuple(other))
    assert beyond_spread(a, b) == -(beyond_spread(b, a) or 0)


def test_the_standing_has_mean_worst_spread_and_the_sets_won_and_lost() -> None:
    rows = [
        row("default", "mtd", 0.8, (0.79, 0.81), ms=100),
        row("default", "pill", 0.6, (0.59, 0.61), ms=110, false_alarm_low=0.02),
        row("default", "wood", None),
        row("fine", "mtd", 0.9, (0.89, 0.91), ms=300),
        row("fine", "pill", 0.5, (0.49, 0.51), ms=200),
        row("fine", "wood", None),
    ]
    default, fine = standings(rows)
    assert (default.wins, default.losses) == (None, None)
    assert (fine.wins, fine.losses) == (("mtd",), ("pill",))
    assert fine.means["criterion"].value == pytest.approx(0.7)
    assert (fine.means["criterion"].counted, fine.means["criterion"].of) == (2, 3)
    worst, slowest = fine.worst["criterion"], default.worst["frame_ms"]
    assert worst is not None
    assert (worst.value, worst.set_name) == (0.5, "pill")
    assert slowest is not None
    assert (slowest.value, slowest.set_name) == (110, "pill")
    assert fine.deviation.value == pytest.approx(0.01 * math.sqrt(2))
    assert (default.n_rate_kept, default.n_rate_judged) == (2, 3)
    assert fine.worst["aupro_03"] is None


@pytest.mark.parametrize(("busy_ratio", "disturbed"), [(None, False), (0.05, False), (0.4, True)])
def test_a_time_is_disturbed_where_other_programs_took_the_machine(busy_ratio: float | None, disturbed: bool) -> None:
    time = FrameTime(median_ms=1, n_frames=1, n_patches=1, processor="a CPU", busy_ratio=busy_ratio)
    assert time.disturbed is disturbed
