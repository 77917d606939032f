"""What a name holds is shown on the terminal, and never obeyed."""

import contextlib
import io
import json
import logging
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.cli.console import LogFormatter, print_json, print_line, printable, warn

any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
def test_whatever_the_text_it_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.binary(max_size=50))
def test_any_file_name_can_be_printed(name: bytes) -> None:
    assert printable(os.fsdecode(name)).isprintable()
    printable(os.fsdecode(name)).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 5 µm – ok", "größe 5 µm – ok"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nINFO forged", "a\\nINFO forged"),
        ("\udcff.png", "\\xff.png"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_results_and_messages_are_escaped_and_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("[red]a\x1b]0;title\x07")
    warn("[red]b\r")
    out, err = capsys.readouterr()
    assert out == "[red]a\\x1b]0;title\\x07\n"
    assert err == "warning: [red]b\\r\n"


@given(any_text)
def test_json_is_one_line_of_ascii_and_gives_every_name_back(text: str) -> None:
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        print_json({"part_id": text})
    assert written.getvalue().isascii()
    assert written.getvalue().count("\n") == 1
    assert json.loads(written.getvalue()) == {"part_id": text}


def test_a_record_is_one_line_whatever_it_names_and_an_exception_its_type_and_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EDGE_UAD_DEBUG", raising=False)
    line = LogFormatter().format(_record("a\nb", ValueError("c\x1b")))
    assert line.isprintable()
    assert line.partition("WARNING a\\nb")[2].startswith(": ValueError: c\\x1b at ")
    monkeypatch.setenv("EDGE_UAD_DEBUG", "1")
    assert "\nTraceback " in LogFormatter().format(_record("a", ValueError("c")))


def _record(message: str, error: Exception) -> logging.LogRecord:
    try:
        raise error
    except ValueError:
        return logging.LogRecord("edge_uad", logging.WARNING, "", 0, message, (), sys.exc_info())
