"""Metrics against cases that were worked out by hand; what cannot be computed is None and never a number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.metrics.image import (
    clustering_metrics,
    image_metrics,
    line_metrics,
    mean_of,
    recall_at_rate,
    roc_curve,
    show,
)

pytest.importorskip("sklearn", reason="the [evaluate] extra is not installed")

N, A, INVALID = "normal", "anomalous", "invalid"


def test_image_metrics_of_six_images() -> None:
    # From the highest score down: anomalous, normal, anomalous, anomalous, normal, normal.
    truth = [True, False, True, True, False, False]
    scores = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]

    metrics = image_metrics(truth, scores)

    # Of the 9 pairs the first anomalous image wins 3, the others win 2 each.
    assert metrics.auroc == pytest.approx(7 / 9)
    # Precision where recall rises, at ranks 1, 3 and 4: 1, 2/3, 3/4; each step of recall is a third.
    assert metrics.ap == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # The best cut is after rank 4: precision 3/4, recall 1.
    assert metrics.f1_max == pytest.approx(6 / 7)
    assert metrics.f1_max_threshold == 3.0


def test_ties_count_half() -> None:
    assert image_metrics([True, False], [1.0, 1.0]).auroc == 0.5


@pytest.mark.parametrize("truth", [[], [True, True], [False]])
def test_with_one_kind_of_image_alone_there_is_nothing_to_compute(truth: list[bool]) -> None:
    metrics = image_metrics(truth, [0.5] * len(truth))

    assert (metrics.auroc, metrics.ap, metrics.f1_max, metrics.f1_max_threshold) == (None, None, None, None)
    assert roc_curve(truth, [0.5] * len(truth)) == []


def test_the_roc_curve_goes_from_corner_to_corner() -> None:
    assert roc_curve([True, False], [2.0, 1.0]) == [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]


def test_the_line_rejects_what_is_not_normal() -> None:
    truth = [True, True, True, True, False, False, False, False, False]
    decisions = [A, A, INVALID, N, A, INVALID, N, N, N]

    metrics = line_metrics(truth, decisions)

    assert metrics.recall == 3 / 4
    assert metrics.precision == 3 / 5
    assert metrics.false_alarm_rate == 2 / 5
    assert (metrics.n_anomalous, metrics.n_normal, metrics.n_invalid) == (4, 5, 2)


def test_the_interval_of_a_false_alarm_rate_is_clopper_and_pearsons() -> None:
    metrics = line_metrics([False] * 10, [N] * 10)

    # With no alarm in n parts the upper end solves (1 - p)^n = 0.025.
    assert metrics.false_alarm_rate == 0
    assert metrics.false_alarm_low == 0
    assert metrics.false_alarm_high == pytest.approx(1 - 0.025**0.1)


def test_what_the_line_did_not_see_has_no_rate() -> None:
    only_good = line_metrics([False, False], [N, A])
    assert (only_good.recall, only_good.precision) == (None, None)
    only_bad = line_metrics([True], [N])
    assert (only_bad.recall, only_bad.precision) == (0.0, None)
    assert (only_bad.false_alarm_rate, only_bad.false_alarm_low, only_bad.false_alarm_high) == (None, None, None)


def test_parts_and_decisions_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 parts and 1 decisions"):
        line_metrics([True, False], [N])


def test_clusters_are_matched_to_kinds_whatever_they_are_called() -> None:
    perfect = clustering_metrics(["good", "good", "crack", "fray"], [2, 2, 0, 1])

    assert perfect.nmi == pytest.approx(1)
    assert perfect.ari == pytest.approx(1)
    assert perfect.f1 == 1


def test_clustering_of_six_images() -> None:
    kinds = ["a", "a", "a", "b", "b", "b"]
    clusters = [0, 0, 1, 1, 1, 1]

    metrics = clustering_metrics(kinds, clusters)

    # Matched a-0 and b-1: 2 + 3 of 6 are right.
    assert metrics.f1 == pytest.approx(5 / 6)
    # Pairs: 4 together in both, 6 by kind, 7 by cluster, of 15; expected 6·7/15 = 2.8.
    assert metrics.ari == pytest.approx((4 - 2.8) / ((6 + 7) / 2 - 2.8))
    # Entropies: ln 2, and that of (1/3, 2/3); information: the sum of p ln(p / (p_kind p_cluster)).
    h_cluster = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
    shared = 2 / 6 * np.log(2) + 1 / 6 * np.log(1 / 2) + 3 / 6 * np.log(3 / 2)
    assert metrics.nmi == pytest.approx(shared / ((np.log(2) + h_cluster) / 2))


def test_more_clusters_than_kinds_leave_some_unmatched() -> None:
    assert clustering_metrics(["a", "a", "b", "b"], [0, 1, 2, 2]).f1 == pytest.approx(3 / 4)


def test_one_kind_alone_cannot_be_clustered() -> None:
    metrics = clustering_metrics(["good", "good"], [0, 1])

    assert (metrics.nmi, metrics.ari, metrics.f1) == (None, None, None)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=2, max_size=30), st.permutations(range(4))
)
def test_matched_f1_does_not_depend_on_the_names_of_clusters(images: list[tuple[str, int]], renamed: list[int]) -> None:
    kinds, clusters = [kind for kind, _ in images], [cluster for _, cluster in images]

    assert clustering_metrics(kinds, clusters).f1 == clustering_metrics(kinds, [renamed[c] for c in clusters]).f1


def test_a_mean_is_of_what_could_be_computed_and_says_so() -> None:
    assert str(mean_of([0.5, None, 1.0])) == "0.7500 (2 of 3)"
    assert str(mean_of([0.5, 1.0])) == "0.7500"
    assert mean_of([None, None]).value is None
    assert str(mean_of([None, None])) == "- (0 of 2)"
    assert str(mean_of([])) == "-"


def test_nothing_is_shown_as_a_dash() -> None:
    assert show(None) == "-"
    assert show(0.0) == "0.0000"
    assert show(0.98765, 2) == "0.99"


INF = float("inf")
# few values, so that ties are the rule
a_score = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, INF]) | st.floats(0, 4)
scored_parts = st.lists(st.tuples(st.booleans(), a_score), max_size=40)
rates = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.5, 1.0]) | st.floats(0, 1)


def test_the_recall_at_a_realised_rate_of_ten_good_and_four_bad_parts() -> None:
    good, bad = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10], [5.0, 9.5, 10, 11]
    truth = [False] * 10 + [True] * 4
    at_zero, at_tenth = (recall_at_rate(truth, good + bad, rate) for rate in (0.05, 0.1))
    # a twentieth of ten parts is none: nothing above the highest good one, and who ties with it is normal
    assert (at_zero.recall, at_zero.false_alarm_rate, at_zero.threshold) == (1 / 4, 0, 10)
    assert (at_tenth.recall, at_tenth.false_alarm_rate, at_tenth.threshold) == (3 / 4, 1 / 10, 9)


def test_good_parts_that_tie_are_alarms_together_or_not_at_all() -> None:
    tied = recall_at_rate([False] * 4 + [True], [1.0, 2.0, 2.0, 2.0, 2.0], 0.5)
    assert (tied.recall, tied.false_alarm_rate, tied.threshold) == (0, 0, 2)


def test_a_share_that_is_a_whole_number_of_parts_is_not_rounded_down() -> None:
    for n_good in (20, 40, 60, 100, 700):
        found = recall_at_rate([False] * n_good, [float(score) for score in range(n_good)], 0.05)
        assert found.false_alarm_rate == pytest.approx(0.05)


@given(parts=scored_parts, rate=rates)
def test_the_recall_at_a_realised_rate_is_that_of_the_best_threshold_there_is(
    parts: list[tuple[bool, float]], rate: float
) -> None:
    """Against every threshold that could be: each score that was seen, and one below all."""
    good = [score for anomalous, score in parts if not anomalous]
    bad = [score for anomalous, score in parts if anomalous]
    allowed = [
        threshold
        for threshold in (-INF, *good, *bad)
        if threshold < INF and sum(score > threshold for score in good) <= rate * len(good) + 1e-9
    ]
    found = recall_at_rate([one for one, _ in parts], [score for _, score in parts], rate)
    if not good or not allowed:
        assert (found.recall, found.false_alarm_rate, found.threshold) == (None, None, None)
        return
    assert found.recall == (max(sum(score > t for score in bad) for t in allowed) / len(bad) if bad else None)
    assert found.false_alarm_rate is not None
    assert found.false_alarm_rate <= rate + 1e-9


@given(parts=scored_parts, low=rates, high=rates)
def test_more_false_alarms_never_cost_recall(parts: list[tuple[bool, float]], low: float, high: float) -> None:
    truth, scores = [one for one, _ in parts], [score for _, score in parts]
    few, many = (recall_at_rate(truth, scores, rate).recall for rate in sorted((low, high)))
    assert few is None or (many is not None and few <= many)


@given(parts=scored_parts, rate=rates)
def test_only_the_order_of_scores_counts(parts: list[tuple[bool, float]], rate: float) -> None:
    truth = [one for one, _ in parts]
    ranks = {score: float(rank) for rank, score in enumerate(sorted({score for _, score in parts if score < INF}))}
    once, again = (
        recall_at_rate(truth, [score if score == INF else value(score) for _, score in parts], rate)
        for value in (lambda score: score, lambda score: ranks[score])
    )
    assert (once.recall, once.false_alarm_rate) == (again.recall, again.false_alarm_rate)
