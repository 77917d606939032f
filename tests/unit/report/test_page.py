"""The report is one file that needs nothing else, and what could not be computed is shown as such."""

import re
from html.parser import HTMLParser

from bank_tools.report.charts import histogram, scatter
from bank_tools.report.page import Picture, Section, category_table, charts, facts, gallery, notices, page, table

VOID = {"meta", "img", "wbr"}


class Balance(HTMLParser):
    """Which tags are open; a wrong end fails."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # the parent's signature
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def whole_report() -> str:
    return page(
        "Tiles & <cookies>",
        "a lead",
        [
            Section("Warnings", notices(["3 images have no mask"])),
            Section("Metrics", category_table(["AUROC"], {"tiles": [0.9], "cookies": [None]}), note="of <all> images"),
            Section("Scores", charts(histogram({"good": [0.1]}, threshold=0.2), scatter({"good": [(0.0, 0.0)]}))),
            Section("Misses", gallery([Picture(b"\xff\xd8\xff", "anomalous", 'test/a "crack".png')])),
            Section("Settings", facts({"seed": 0, "threshold": None})),
        ],
    )


def test_the_whole_page_is_balanced_and_needs_nothing_else() -> None:
    html = whole_report()
    parser = Balance()
    parser.feed(html)

    assert parser.open == []
    assert "script" not in parser.seen
    assert "link" not in parser.seen
    assert not re.search(r"https?://|url\(|@import", html)
    assert set(re.findall(r'src="([a-z]+:)', html)) == {"data:"}


def test_text_of_the_user_is_shown_and_not_obeyed() -> None:
    html = whole_report()

    assert "<cookies>" not in html
    assert "Tiles &amp; &lt;cookies&gt;" in html
    assert "of &lt;all&gt; images" in html


def test_what_could_not_be_computed_is_a_dash_and_stays_out_of_the_mean() -> None:
    html = category_table(["AUROC", "AUPRO"], {"tiles": [0.9, 0.5], "cookies": [0.8, None], "cable": [0.7, None]})

    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    assert rows[2] == ["cookies", "0.8000", "-"]
    assert rows[4] == ["mean", "0.8000", "0.5000<small>1 of 3</small>"]


def test_a_metric_that_no_category_has_has_no_mean() -> None:
    assert "<td>-<small>0 of 2</small></td>" in category_table(["AUPRO"], {"a": [None], "b": [None]})


def test_one_category_has_no_mean() -> None:
    assert "mean" not in category_table(["AUROC"], {"tiles": [0.9]})


def test_a_table_shows_plain_values_as_they_are() -> None:
    assert "<td>good</td><td>20</td><td>0.1235</td>" in table(["kind", "n", "score"], [["good", 20, 0.123456]])


def test_an_empty_gallery_says_so_and_no_warning_is_nothing() -> None:
    assert "None." in gallery([])
    assert notices([]) == ""
