"""Which tables the copy moves in binary: only what every version reads as it was meant."""

import pytest

from bootstrap.binary import copy_format

BIGINT, INTEGER, REAL, TEXT, INTERVAL, TEXTS, FIRST_OF_USERS = 20, 23, 700, 25, 1186, 1009, 16384


def test_equal_types_of_the_server_travel_in_binary() -> None:
    columns = {"id": BIGINT, "names": TEXTS}

    assert copy_format(list(columns), columns, columns) == "binary"


@pytest.mark.parametrize("kind", [FIRST_OF_USERS, INTERVAL])
def test_one_type_that_a_version_may_read_otherwise_makes_it_text(kind: int) -> None:
    columns = {"id": BIGINT, "value": kind}

    assert copy_format(list(columns), columns, columns) == "text"


@pytest.mark.parametrize("theirs", [{"v": REAL}, {}, {"v": TEXT}])
def test_other_columns_on_the_target_make_it_text(theirs: dict[str, int]) -> None:
    assert copy_format(["v"], {"v": INTEGER}, theirs) == "text"


def test_columns_that_are_not_copied_do_not_count() -> None:
    """Given a generated column here and one of the user's own there."""
    ours, theirs = {"v": INTEGER, "generated": FIRST_OF_USERS}, {"v": INTEGER, "own": INTERVAL}

    assert copy_format(["v"], ours, theirs) == "binary"


def test_a_table_without_columns_travels_as_text() -> None:
    assert copy_format([], {}, {}) == "text"
