"""A table's prepared statements: one a row, or one for all rows whose lines can be cut at their tabs."""

import pytest

from replicator.apply import row_statements
from replicator.apply.row_statements import RowStatements
from replicator.apply.rows import is_plain
from replicator.apply.statements import Statements, TargetColumn, TargetTable
from replicator.model import NULL, UNCHANGED, Row, TableName
from tests.fixtures.changes import row

MANY = row_statements._SINGLE + 1


def of(*columns: str, casts_as_input: bool = True) -> RowStatements:
    described = tuple(TargetColumn(name, "text", "text", False, casts_as_input) for name in columns)
    table = TargetTable(TableName("s", "t"), described, (0,), partitioned=False, has_other_unique=False)
    return RowStatements(Statements(table, "stage"))


@pytest.mark.parametrize("value", ["\t", "\n", "\\", "\\N", "\\U", "a\\Nb", "\r"])
def test_a_row_with_an_escaped_value_is_not_plain(value: str) -> None:
    assert not is_plain(row("1", value))


@pytest.mark.parametrize("line", [b"1\ta", NULL, row(None, None), row("1", UNCHANGED, None), row("", "")])
def test_nulls_and_values_that_were_not_sent_leave_a_row_plain(line: Row) -> None:
    assert is_plain(line)


def test_an_empty_line_is_not_plain() -> None:
    """Split, it would be no value at all, and not an empty one."""
    assert not is_plain(row(""))


def test_a_few_rows_have_a_statement_each() -> None:
    statements = of("id", "v").inserts([row(str(n), None) for n in range(MANY - 1)])

    assert [(s.values, s.rows) for s in statements] == [([b"%d" % n, None], 1) for n in range(MANY - 1)]


def test_more_share_one_which_is_to_change_as_many() -> None:
    (statement,) = of("id", "v").inserts([row(str(n), None) for n in range(MANY)])

    assert (statement.values, statement.rows) == ([b"\n".join(b"%d\t\\N" % n for n in range(MANY))], MANY)


def test_rows_with_escapes_go_beside_them() -> None:
    plain = [row(str(n), "x") for n in range(MANY)]

    escaped, shared = of("id", "v").inserts([*plain, row("9", "a\tb")])

    assert (escaped.values, escaped.rows) == ([b"9", b"a\tb"], 1)
    assert (shared.values, shared.rows) == ([b"\n".join(plain)], MANY)


def test_types_with_a_cast_of_their_own_from_text_share_none() -> None:
    assert len(of("id", "v", casts_as_input=False).inserts([row(str(n), "x") for n in range(MANY)])) == MANY


def test_rows_of_many_columns_share_none() -> None:
    """A value is found by counting from the first."""
    wide = of(*(f"c{n}" for n in range(9)))

    assert len(wide.inserts([row(*["x"] * 9)] * MANY)) == MANY


def test_updates_share_one_with_those_that_lack_the_same_values() -> None:
    whole = [row(str(n), "x", "y") for n in range(MANY)]
    lacking = [row(str(n), UNCHANGED, "y") for n in range(10, 10 + MANY)]
    updates = of("id", "v", "w").updates([(line.split(b"\t")[0], line) for line in [*whole, *lacking]])

    assert updates is not None
    assert [(s.values, s.rows) for s in updates] == [([b"\n".join(whole)], MANY), ([b"\n".join(lacking)], MANY)]
    assert [b'"v" = ' in s.query for s in updates] == [True, False]


def test_updates_of_nothing_but_the_key_are_none() -> None:
    assert of("id", "v").updates([(b"1", row("1", UNCHANGED))]) is None


def test_deletes_share_one_by_their_keys() -> None:
    (statement,) = of("id", "v").deletes([b"%d" % n for n in range(MANY)])

    assert (statement.values, statement.rows) == ([b"\n".join(b"%d" % n for n in range(MANY))], MANY)
