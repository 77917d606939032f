"""A one-page HTML report: tables, charts and pictures in one file that opens anywhere, offline, and prints.

The layout is in ``templates/``. Every text is escaped there, and control characters and undecodable bytes of file names
become visible escapes, so that no name can change the page or keep it from being written.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from bank_tools.metrics.image import ABSENT, show
from bank_tools.report.charts import Chart
from bank_tools.report.figures import svg_of
from bank_tools.report.text import printable
from edge_uad.errors import MissingExtraError

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise MissingExtraError("writing a report", "evaluate") from error


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain values; the first column names the row."""

    kind: ClassVar = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    """A float is shown with four digits, None as ``-``."""


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts next to each other, as many as the page is wide."""

    kind: ClassVar = "charts"
    charts: Sequence[Chart]
    """One with nothing to draw is replaced by its reason."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a gallery."""

    jpeg: bytes
    decision: str
    caption: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures with their decision and caption."""

    kind: ClassVar = "gallery"
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values: settings, seeds, versions, digests."""

    kind: ClassVar = "facts"
    pairs: Mapping[str, object]
    """None is shown as ``-``."""


@dataclass(frozen=True, slots=True)
class Notices:
    """Warnings, one sentence each."""

    kind: ClassVar = "notices"
    sentences: Sequence[str]


Block = Table | Charts | Gallery | Facts | Notices


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]
    note: str = ""
    """A sentence between the two."""


def page(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """The whole document as UTF-8.

    Args:
        title: of the document.
        lead: a line below it.
        sections: in reading order.
    """
    return _environment().get_template("page.html").render(title=title, lead=lead, sections=sections).encode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bank_tools.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_final,
    )
    environment.globals["absent"] = ABSENT
    environment.filters |= {"shown": _shown, "svg_uri": _svg_uri, "jpeg_uri": _jpeg_uri, "breakable": _breakable}
    return environment


def _final(value: object) -> object:
    """What an expression of the template gives, before it is escaped."""
    return value if isinstance(value, Markup) else printable(str(value))


def _shown(value: object) -> str:
    return show(value) if value is None or isinstance(value, float) else str(value)


def _breakable(path: str) -> Markup:
    """A line may end after each slash."""
    return Markup("/<wbr>").join(printable(path).split("/"))


def _svg_uri(chart: Chart) -> str:
    return _data_uri("image/svg+xml", svg_of(chart))


def _jpeg_uri(jpeg: bytes) -> str:
    return _data_uri("image/jpeg", jpeg)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
