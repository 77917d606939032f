"""Help texts are read as rich's markup: what stands in brackets is shown, or is a style on purpose."""

import pytest
from rich.text import Text

from tests.commands import leaves

STYLES = {"bold"}


@pytest.mark.parametrize("command", leaves())
def test_no_word_of_a_help_text_is_taken_for_a_style(command: str) -> None:
    leaf = leaves()[command]
    for text in (leaf.help, *(getattr(parameter, "help", None) for parameter in leaf.params)):
        assert {str(span.style) for span in Text.from_markup(text or "").spans} <= STYLES
