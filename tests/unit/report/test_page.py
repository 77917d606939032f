"""The report is one file that needs nothing else; no name changes it or keeps it from being written."""

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bank_tools.report.charts import Histogram, RocCurve, Scatter
from bank_tools.report.page import Charts, Facts, Gallery, Notices, Picture, Section, Table, page

VOID = {"meta", "img", "wbr"}
JPEG = b"\xff\xd8\xff"
HOSTILE = '</td><script>alert("1")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}{% raw %}\x1b[31m\x00caf\udce9\u202e'


class Document(HTMLParser):
    """Elements with their attributes, the text of each kind of element, and whether every tag is closed in order."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(content.decode("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [found[name] or "" for kind, found in self.elements if kind == tag and name in found]


def report(name: str = "tiles") -> bytes:
    """Every kind of block, with a name wherever a name can be."""
    return page(
        name,
        name,
        [
            Section("Warnings", [Notices([name])]),
            Section("Metrics", [Table(["category", name], [[name, 0.91234567], ["cable", None], ["nut", 3]])], name),
            Section(
                name,
                [
                    Charts(
                        [
                            Histogram(scores={name: [0.1]}, threshold=0.2),
                            Scatter(groups={name: [(0.0, 0.0)]}, title=name),
                            RocCurve(points=[], auroc=None),
                        ]
                    )
                ],
            ),
            Section("Misses", [Gallery([Picture(JPEG, "anomalous", name)])]),
            Section("Alarms", [Gallery([])]),
            Section("Settings", [Facts({name: name, "threshold": None, "layers": (2, 5)})]),
        ],
    )


def elements(document: Document) -> list[tuple[str, list[str]]]:
    """Tags and the names of their attributes; a caption may be broken after each slash of a path."""
    return [(tag, sorted(found)) for tag, found in document.elements if tag != "wbr"]


def test_every_block_is_on_the_page() -> None:
    document = Document(report())
    assert document.texts["h1"] == document.texts["title"] == ["tiles"]
    assert document.texts["h2"] == ["Warnings", "Metrics", "tiles", "Misses", "Alarms", "Settings"]
    assert document.texts["th"] == ["category", "tiles"]
    assert document.texts["td"] == ["tiles", "0.9123", "cable", "-", "nut", "3"]
    assert document.texts["li"] == ["tiles"]
    assert document.texts["dt"] == ["tiles", "threshold", "layers"]
    assert document.texts["dd"] == ["tiles", "-", "(2, 5)"]
    assert [text.strip() for text in document.texts["figcaption"]] == ["tiles"]
    assert document.texts["span"] == ["anomalous"]
    assert document.texts["p"] == ["tiles", "tiles", "No ROC curve: it needs normal and anomalous images.", "None."]


def test_charts_and_pictures_are_inside_the_file() -> None:
    sources = Document(report()).attributes("img", "src")
    kinds = [source.partition(";base64,")[0] for source in sources]
    assert kinds == ["data:image/svg+xml", "data:image/svg+xml", "data:image/jpeg"]
    contents = [base64.b64decode(source.partition(";base64,")[2], validate=True) for source in sources]
    assert contents[2] == JPEG
    assert all(b"</svg>" in svg for svg in contents[:2])


def test_the_page_needs_nothing_else() -> None:
    document = Document(report())
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in document.elements}
    assert not re.search(r"https?://|url\(|@import", re.sub(r'src="data:[^"]*"', "", report().decode()))
    (policy,) = document.attributes("meta", "content")[:1]
    assert policy.startswith("default-src 'none'")


def test_a_hostile_name_is_shown_and_not_obeyed() -> None:
    plain, hostile = Document(report()), Document(report(HOSTILE))

    assert elements(hostile) == elements(plain)
    shown = HOSTILE.replace("\x1b", r"\x1b").replace("\x00", r"\x00").replace("\udce9", r"\xe9")
    shown = shown.replace("\u202e", r"\u202e")
    for tag in ("title", "h1", "th", "li", "dt", "dd", "figcaption"):
        assert hostile.texts[tag][-1 if tag == "th" else 0].strip() == shown.strip()
    assert all(character.isprintable() or character == "\n" for character in report(HOSTILE).decode())


def test_the_same_content_gives_the_same_bytes() -> None:
    assert report() == report()


@pytest.mark.parametrize(
    ("command", "package"),
    [("evaluate", "jinja2"), ("evaluate", "matplotlib"), ("evaluate", "scipy"), ("ablate", "sklearn")],
)
def test_without_the_extra_a_measurement_is_refused_before_any_work(package: str, command: str, tmp_path: Path) -> None:
    arguments = [command, str(tmp_path), *(["--sweep", "bpm-kernel=1"] if command == "ablate" else [])]
    program = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {arguments!r}; "
        "from edge_uad.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert " ".join(done.stderr.split()) == (
        f"edge-uad: edge-uad {command} needs the [evaluate] extra; run: pip install 'edge-uad[evaluate]'"
    )
    assert list(tmp_path.iterdir()) == []
