"""``--layers``: what people write, and which blocks it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_uad.cli.export import parse_layers
from edge_uad.errors import UsageError


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("2-9", (2, 3, 4, 5, 6, 7, 8, 9)),
        ("2,5,8", (2, 5, 8)),
        ("11", (11,)),
        ("0", (0,)),
        ("8, 2-3, 2", (2, 3, 8)),
        ("4-4", (4,)),
    ],
)
def test_ranges_lists_and_single_blocks(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "-", "2-", "-9", "9-2", "a", "2..9", "1,,2", "2-9-11", "1.5", "²", "1" * 50])
def test_anything_else_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="--layers is"):
        parse_layers(text)


@given(st.sets(st.integers(0, 99), min_size=1))
def test_any_set_of_blocks_can_be_listed(blocks: set[int]) -> None:
    assert parse_layers(",".join(map(str, blocks))) == tuple(sorted(blocks))
