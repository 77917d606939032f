"""A one-page HTML report: tables, charts and pictures in one file that opens anywhere, offline."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}p.lead{color:#555;margin-top:0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}
.charts{display:flex;flex-wrap:wrap;gap:1rem}svg text{font-size:12px;fill:#333}svg .small{font-size:10px}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:.8rem}
figure{margin:0}figure img{width:100%;display:block;border-radius:3px}
figcaption{font-size:12px;color:#444;overflow-wrap:anywhere}
.normal{color:#2b7a4b}.anomalous{color:#c0392b;font-weight:600}.invalid{color:#b9770e;font-weight:600}
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a gallery."""

    jpeg: bytes
    decision: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its HTML."""

    title: str
    html: str


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    body = "".join(f"<h2>{escape(section.title)}</h2>{section.html}" for section in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p>{body}</body></html>\n'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows of plain values; the first column names the row."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def charts(*svgs: str) -> str:
    """Charts side by side, as far as the page is wide."""
    return f'<div class="charts">{"".join(svgs)}</div>'


def gallery(pictures: Sequence[Picture]) -> str:
    """Pictures with their decision and caption."""
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}">'
        f'<figcaption><span class="{escape(picture.decision)}">{escape(picture.decision)}</span> '
        f"{escape(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="gallery">{figures}</div>'
