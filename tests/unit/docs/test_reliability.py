"""docs/reliability.md promises nothing without a proof."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROOFS = re.findall(r"`([\w/]+)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("file", "test"), PROOFS)
def test_every_proof_named_is_there(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")


def test_every_promise_names_a_proof() -> None:
    rows = re.findall(r"^\| (?!promise|---)(.+) \|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)
    promises = [row for row in rows if "::" in row or "soak" in row]
    assert len(promises) > 30
    assert len(PROOFS) >= len(promises)
