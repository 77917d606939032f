"""Charts are figures of plain SVG that say what was measured and leave out what was not."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank_tools.report.charts import Spread, histogram, lines, roc, scatter
from bank_tools.report.plot import PALETTE, Scale, marker, nice_ticks


def drawn(figure: str) -> ET.Element:
    """The chart itself, which must be well-formed."""
    root = ET.fromstring(figure)  # noqa: S314  # our own text
    assert root.tag == "figure"
    svg = root.find("svg")
    assert svg is not None
    return svg


def texts(figure: str) -> list[str]:
    return [element.text or "" for element in drawn(figure).iter("text")]


def legend(figure: str) -> list[str]:
    return re.findall(r"</svg>([^<]+)</span>", figure)


def heights(svg: ET.Element, tag: str = "circle", attribute: str = "cy") -> list[float]:
    return [float(element.attrib[attribute]) for element in svg.iter(tag)]


def test_a_histogram_shows_every_group_and_the_threshold() -> None:
    figure = histogram({"good": [0.1, 0.2], "anomalous <1>": [0.4, 0.5, 0.5]}, threshold=0.3)

    assert legend(figure) == ["good", "anomalous &lt;1&gt;"]
    assert len(list(drawn(figure).iter("path"))) == 2
    assert "threshold 0.3000" in texts(figure)


def test_a_histogram_of_an_empty_group_draws_the_others() -> None:
    assert len(list(drawn(histogram({"good": [0.1], "anomalous": []}, threshold=0.3)).iter("path"))) == 1
    assert "nothing was scored" in histogram({"good": []}, threshold=0.3)


def test_scores_of_zero_alone_still_make_a_histogram() -> None:
    assert len(list(drawn(histogram({"good": [0.0, 0.0]}, threshold=0.0)).iter("path"))) == 1


def test_a_roc_curve_tells_its_area_and_without_one_says_why() -> None:
    assert "AUROC 0.7500" in texts(roc([(0, 0), (0, 0.5), (1, 1)], auroc=0.75))
    assert "needs normal and anomalous" in roc([], auroc=None)


def test_a_curve_goes_up_where_the_values_do() -> None:
    svg = drawn(lines([1, 2, 5], {"cookies": [Spread(0.8, 0.7, 0.9), Spread(0.85, 0.8, 0.9), Spread(0.9, 0.9, 0.9)]},
                      x_label="good images", y_label="AUROC", log_x=True))  # fmt: skip

    places = heights(svg)
    assert places == sorted(places, reverse=True)
    across = heights(svg, attribute="cx")
    assert (across[1] - across[0]) / (across[2] - across[1]) == pytest.approx(0.3010 / 0.3979, rel=0.01)
    (title, *_) = [title.text for title in svg.iter("title")]
    assert title == "cookies, good images 1: 0.8000 (0.7000 to 0.9000)"


def test_what_could_not_be_computed_is_a_gap_and_not_a_zero() -> None:
    value = Spread(0.9, 0.9, 0.9)
    svg = drawn(lines([1, 2, 3, 4, 5], {"mtd": [value, value, None, value, value]}, x_label="x", y_label="y"))

    assert len(heights(svg)) == 4
    assert len(list(svg.iter("polyline"))) == 2
    assert (
        lines([1, 2], {"mtd": [None, None]}, x_label="x", y_label="y") == "<p>No curve: nothing could be computed.</p>"
    )


def test_a_sweep_with_a_word_among_its_values_is_spaced_evenly() -> None:
    value = Spread(0.9, 0.9, 0.9)
    figure = lines([0.1, 0.2, "soft"], {"mtd": [value] * 3}, x_label="threshold", y_label="AUROC")

    across = heights(drawn(figure), attribute="cx")
    assert across[1] - across[0] == pytest.approx(across[2] - across[1])
    assert {"0.1", "0.2", "soft"} <= set(texts(figure))


def test_published_numbers_stand_beside_ours_inside_the_frame() -> None:
    figure = lines(
        [1, 2], {"ours": [Spread(0.9, 0.9, 0.9)] * 2}, x_label="x", y_label="y", references={"paper": 0.9932}
    )

    assert "paper 0.9932" in texts(figure)
    assert min(heights(drawn(figure), "line", "y1")) > 0


def test_a_spread_is_of_what_could_be_computed() -> None:
    assert Spread.of([0.5, None, 1.0]) == Spread(0.75, 0.5, 1.0)
    assert Spread.of([None]) is None


def test_a_chart_may_have_a_title() -> None:
    assert "<h3>tiles &amp; cookies</h3>" in scatter({"good": [(0.0, 0.0)]}, title="tiles & cookies")


def test_every_group_of_a_scatter_has_a_sign_of_its_own() -> None:
    groups = {f"kind {index}": [(float(index), float(index * index))] for index in range(20)}

    figure = scatter(groups)

    assert len(legend(figure)) == 20
    signs = {marker(index, 0, 0) for index in range(4 * len(PALETTE))}
    assert len(signs) == 4 * len(PALETTE)


def test_a_scatter_of_one_point_or_none_does_not_fail() -> None:
    assert len(heights(drawn(scatter({"good": [(1.0, 1.0)]})))) == 1
    assert "no points" in scatter({"good": []})


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_distinct_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < 1e-9 * abs(low):
        return
    ticks = nice_ticks(low, high)

    assert 1 <= len(ticks) <= 8
    assert all(low - 1e-6 * width <= tick.value <= high + 1e-6 * width for tick in ticks)
    assert len({tick.label for tick in ticks}) == len(ticks)


def test_a_scale_goes_from_0_to_1() -> None:
    assert [Scale(2, 4).at(value) for value in (2, 3, 4)] == [0, 0.5, 1]
    assert Scale(1, 100, log=True).at(10) == pytest.approx(0.5)
    assert Scale(3, 3).at(3) == 0.5


def test_a_chart_that_stands_alone_brings_its_legend_and_its_style() -> None:
    svg = ET.fromstring(  # noqa: S314  # our own text
        lines([1, 2], {"flat <1>": [Spread(1, 1, 1), Spread(2, 2, 2)], "other": [None, Spread(3, 3, 3)]},
              x_label="patches", y_label="ms", title="search", standalone=True)
    )  # fmt: skip
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    written = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"flat <1>", "other", "search", "patches", "ms"} <= set(written)


def test_by_the_logarithm_equal_ratios_are_equal_heights() -> None:
    svg = drawn(lines([1, 2, 3], {"search": [Spread(v, v, v) for v in (1, 10, 100)]},
                      x_label="bank", y_label="ms", log_y=True))  # fmt: skip
    low, middle, high = heights(svg)
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert low > high


def test_from_zero_twice_the_value_is_twice_as_high() -> None:
    figure = lines([1, 2], {"rate": [Spread(5, 5, 5), Spread(10, 10, 10)]},
                   x_label="stations", y_label="frames/s", from_zero=True)  # fmt: skip
    low, high = heights(drawn(figure))
    ground = max(heights(drawn(figure), "line", "y1"))
    assert "0" in texts(figure)
    assert 1.8 < (ground - high) / (ground - low) < 2.2
