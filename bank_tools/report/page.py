"""A one-page HTML report: tables, charts and pictures in one file that opens anywhere, offline, and prints."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bank_tools.metrics.image import ABSENT, Mean, mean_of, show

STYLE = """
:root{color-scheme:light;--ink:#1f2733;--soft:#5b6470;--line:#dfe4ea;--tint:#f5f7fa;--accent:#0072b2;
--normal:#00795a;--anomalous:#c23b00;--invalid:#8f6a00}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);
max-width:1080px;margin:2.5rem auto;padding:0 1.25rem;background:#fff}
header{border-bottom:3px solid var(--accent);padding-bottom:.7rem;margin-bottom:1.2rem}
h1{font-size:1.65rem;line-height:1.25;margin:0 0 .3rem;letter-spacing:-.01em}
h2{font-size:1.15rem;margin:2.4rem 0 .3rem;padding-bottom:.25rem;border-bottom:1px solid var(--line)}
p.lead,p.note{color:var(--soft);margin:.2rem 0 .8rem;overflow-wrap:anywhere}p.note{font-size:.9rem}
.scroll{overflow-x:auto;margin:.7rem 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.32rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);border-bottom:1.5px solid var(--ink);vertical-align:bottom;white-space:normal}
th:first-child,td:first-child{text-align:left;padding-left:.3rem}
tbody tr:nth-child(even){background:var(--tint)}
tfoot td{vertical-align:top;font-weight:650;border-top:1.5px solid var(--ink);border-bottom:0}
td small{display:block;font-weight:400;font-size:.76rem;color:var(--soft)}
td.absent{color:var(--soft)}
.charts{display:flex;flex-wrap:wrap;gap:1.2rem 1.6rem;margin:.8rem 0}
figure{margin:0}figure.chart{flex:1 1 400px;max-width:510px}
figure.chart h3{font-size:.92rem;margin:0 0 .2rem;padding-left:58px}
figure.chart>svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#3b4252}
svg .small{font-size:10.5px}svg .big{font-size:15px;font-weight:650}
svg .halo{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}
figure.chart figcaption{display:flex;flex-wrap:wrap;gap:.15rem 1rem;padding-left:58px;
font-size:.82rem;color:var(--soft)}
figure.chart figcaption span{display:inline-flex;align-items:center;gap:.35rem}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(158px,1fr));gap:1rem .8rem;margin:.8rem 0}
.gallery figure{background:var(--tint);border-radius:6px;overflow:hidden;border:1px solid var(--line)}
.gallery img{width:100%;aspect-ratio:1;object-fit:contain;display:block;background:#20252d}
.gallery figcaption{font-size:.78rem;line-height:1.4;padding:.4rem .55rem .5rem;
color:var(--soft);overflow-wrap:anywhere}
.normal,.anomalous,.invalid{font-weight:650}
.normal{color:var(--normal)}.anomalous{color:var(--anomalous)}.invalid{color:var(--invalid)}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.4rem;margin:.7rem 0;font-size:.88rem}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere;font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.82rem}
ul.notices{margin:.8rem 0;padding:.6rem .9rem .6rem 1.9rem;background:#fff8e6;border-left:4px solid #d9a400;
border-radius:0 6px 6px 0;font-size:.9rem;overflow-wrap:anywhere}
@page{margin:14mm}
@media print{body{margin:0;max-width:none;padding:0;font-size:10.5pt;-webkit-print-color-adjust:exact;
print-color-adjust:exact}h2,h3{break-after:avoid}figure,tr,dl.facts{break-inside:avoid}.scroll{overflow:visible}
figure.chart{flex-basis:45%;max-width:48%}.gallery{grid-template-columns:repeat(5,1fr)}}
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a gallery."""

    jpeg: bytes
    decision: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what one should know before reading on, and its HTML."""

    title: str
    html: str
    note: str = ""


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document."""
    body = "".join(
        f"<section><h2>{escape(section.title)}</h2>"
        + (f'<p class="note">{escape(section.note)}</p>' if section.note else "")
        + f"{section.html}</section>"
        for section in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f'<body><header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>{body}</body></html>\n'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, footer: Sequence[Sequence[object]] = ()) -> str:
    """Rows of plain values; the first column names the row.

    Args:
        columns: their headings.
        rows: cells; a float is shown with four digits, None as ``-``.
        footer: rows below a line, such as means.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    foot = f"<tfoot>{''.join(_row(row) for row in footer)}</tfoot>" if footer else ""
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_row(row) for row in rows)}</tbody>{foot}</table></div>"
    )


def category_table(columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> str:
    """A row for each category, and where there are several, below them the mean of what could be computed.

    Args:
        columns: the metrics' names.
        rows: a category's metrics by its name, as many as ``columns``.
    """
    means = ["mean", *(mean_of(values) for values in zip(*rows.values(), strict=True))]
    body = [[name, *values] for name, values in rows.items()]
    return table(["category", *columns], body, footer=[means] if len(rows) > 1 else ())


def facts(pairs: Mapping[str, object]) -> str:
    """Names and values below each other: settings, seeds, versions, digests."""
    return (
        '<dl class="facts">'
        + "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(ABSENT if value is None else str(value))}</dd>"
            for name, value in pairs.items()
        )
        + "</dl>"
    )


def notices(sentences: Sequence[str]) -> str:
    """What the reader should be warned of; nothing where there is nothing."""
    if not sentences:
        return ""
    return f'<ul class="notices">{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul>'


def charts(*figures: str) -> str:
    """Charts side by side, as far as the page is wide."""
    return f'<div class="charts">{"".join(figures)}</div>'


def gallery(pictures: Sequence[Picture]) -> str:
    """HeatmapRenderer with their decision and caption."""
    if not pictures:
        return '<p class="note">None.</p>'
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}">'
        f'<figcaption><span class="{escape(picture.decision)}">{escape(picture.decision)}</span> '
        f"{_breakable(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="gallery">{figures}</div>'


def _breakable(text: str) -> str:
    """A path may go on in the next line after each of its signs."""
    return re.sub(r"([/_])", r"\1<wbr>", escape(text))


def _row(cells: Sequence[object]) -> str:
    return "<tr>" + "".join(_cell(cell) for cell in cells) + "</tr>"


def _cell(cell: object) -> str:
    if isinstance(cell, Mean) and cell.counted < cell.of:
        return f"<td>{show(cell.value)}<small>{cell.counted} of {cell.of}</small></td>"
    return f'<td class="absent">{ABSENT}</td>' if cell is None else f"<td>{escape(_text(cell))}</td>"


def _text(value: object) -> str:
    if value is None or isinstance(value, float):
        return show(value)
    return str(value)
