"""LSNs: read and written as PostgreSQL does, compared as positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.lsn import INVALID, Lsn, format_lsn, parse_lsn


@pytest.mark.parametrize(
    ("text", "value"), [("0/0", INVALID), ("16/B374D848", 0x16_B374D848), ("FFFFFFFF/FFFFFFFF", 2**64 - 1), ("0/a", 10)]
)
def test_an_lsn_is_two_hexadecimal_halves(text: str, value: int) -> None:
    assert parse_lsn(text) == value
    assert format_lsn(value) == text.upper()


@given(st.integers(0, 2**64 - 1))
def test_what_is_written_reads_the_same(value: int) -> None:
    assert parse_lsn(format_lsn(value)) == value


def test_lsns_compare_as_positions_where_their_texts_would_not() -> None:
    assert parse_lsn("9/0") < parse_lsn("10/0")
    assert parse_lsn("0/FFFFFFFF") + 1 == parse_lsn("1/0")
    assert Lsn(5) > INVALID


@pytest.mark.parametrize(
    "text", ["", "0", "0/", "/0", "0/0/0", "g/0", "123456789/0", "0/123456789", " 0/0", "0/0\n", "-1/0"]
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        parse_lsn(text)
