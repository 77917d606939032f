"""Names from file systems and datasets, made safe to print."""

import unicodedata

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the order in which the rest of a line is read."""


def printable(text: str) -> str:
    r"""The text with control characters, surrogates and bidirectional controls as escapes.

    ``\n`` becomes the two characters ``\`` and ``n``; a byte of a file name that is not UTF-8 (Python's surrogate
    escape) becomes ``\xe4``. The result can be encoded as UTF-8 and written into XML.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in {"Cc", "Cs", "Cn"} or character in _BIDI_CONTROLS:
        return character.encode("unicode_escape").decode("ascii")
    return character
