"""What the documents say is what the code does."""

import re
from pathlib import Path

import pytest

from edge_uad.records import StationStatus, Verdict
from export.weights import weights_table
from tests.commands import leaves

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BACKBONES = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]+ \| ([^|]+) px \| ([^|]+) \|$", re.MULTILINE)


def test_the_readmes_subscriber_is_the_tested_one() -> None:
    shown = re.search(r"<!-- subscriber -->\n```python\n(.*?)\n```", README, re.DOTALL)
    assert shown is not None
    program = (ROOT / "examples" / "subscriber.py").read_text(encoding="utf-8").rstrip()
    assert shown[1] == program
    assert len(program.splitlines()) <= 20


@pytest.mark.parametrize("command", leaves())
def test_every_command_is_in_the_readme_and_shows_an_example(command: str) -> None:
    assert re.search(rf"\| `{command.split(maxsplit=1)[0]}\b", README)
    assert f"edge-uad {command}" in (leaves()[command].help or "")


def test_every_field_that_is_published_is_in_the_wire_document() -> None:
    """In the first column of the table of its own message."""
    wire = (ROOT / "docs" / "wire.md").read_text(encoding="utf-8")
    for topic, fields in (("verdict", Verdict.__dataclass_fields__), ("status", StationStatus.__dataclass_fields__)):
        section = wire[wire.index(f"`{topic}/<station>`") :]
        table = re.search(r"\n\| field .*?\n\n", section, re.DOTALL)
        assert table is not None
        cells = re.findall(r"^\| ([^|]+) \|", table[0], re.MULTILINE)
        documented = {name for cell in cells for name in cell.split(", ")} - {"field", "---"}
        assert documented == set(fields) - {"heatmap"}


@pytest.mark.parametrize(
    "document", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name
)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_readme_lists_the_named_backbones_with_patch_and_licence() -> None:
    listed = {
        name: (patches.split(" or "), licence)
        for names, patches, licence in BACKBONES.findall(README)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert set(listed) == set(weights_table())
    for name, row in weights_table().items():
        patches, licence = listed[name]
        assert str(row.patch_px) in patches
        assert row.licence == licence
