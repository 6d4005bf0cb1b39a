"""Tables of more columns than a staging table has room for: all changes arrive, a row at a time."""

import pytest

from replicator.errors import DivergenceError
from replicator.model import UNCHANGED, ReplicaIdentity
from tests.fixtures.applying import Applier
from tests.fixtures.changes import Value, delete, insert, row, update

LIMIT = 1600
"""Columns that PostgreSQL allows."""

LONG = "long value " * 1000


def columns(count: int, kind: str) -> str:
    return ", ".join(f"c{n} {kind}" for n in range(count))


def wide(*first: Value, rest: Value = "7") -> list[Value]:
    return [*first, *([rest] * (LIMIT - len(first)))]


async def test_a_table_of_1600_columns_takes_every_change(applier: Applier) -> None:
    applier.execute(f"CREATE TABLE t (id int PRIMARY KEY, big text, {columns(LIMIT - 2, 'smallint')})")
    t = await applier.relation("t")
    await applier.apply(*(insert(t, *wide(str(n), LONG if n < 5 else "short")) for n in range(1, 8)))

    await applier.apply(
        update(t, *wide("1", UNCHANGED, "10")),
        update(t, *wide("8", UNCHANGED, "20"), key=wide("2", rest=None)),
        # three rows whose keys go round
        update(t, *wide("99", UNCHANGED), key=wide("3", rest=None)),
        update(t, *wide("3", UNCHANGED, "40"), key=wide("4", rest=None)),
        update(t, *wide("4", UNCHANGED, "30"), key=wide("99", rest=None)),
        update(t, *wide("5", None, rest=None)),
        update(t, *wide("6", "changed")),
        delete(t, key=wide("7", rest=None)),
        insert(t, *wide("9", "new")),
    )

    assert applier.rows(f"SELECT id, big = '{LONG}', c0, c1597 FROM t ORDER BY id") == [
        (1, True, 10, 7),
        (3, True, 40, 7),
        (4, True, 30, 7),
        (5, None, None, None),
        (6, False, 7, 7),
        (8, True, 20, 7),
        (9, False, 7, 7),
    ]


async def test_an_update_of_1600_columns_that_sends_nothing_new_finds_its_row(applier: Applier) -> None:
    applier.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns(LIMIT - 1, 'text')})")
    t = await applier.relation("t")
    await applier.apply(insert(t, *wide("1", rest="")))

    await applier.apply(update(t, *wide("1", rest=UNCHANGED)))
    with pytest.raises(DivergenceError, match=r"update of 1 row\(s\) in public\.t found 0"):
        await applier.apply(update(t, *wide("2", rest=UNCHANGED)))


async def test_unique_values_of_a_wide_table_change_hands(applier: Applier) -> None:
    applier.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY UNIQUE, "
        f"{columns(LIMIT - 2, 'smallint')})"
    )
    t = await applier.relation("t")
    await applier.apply(insert(t, *wide("1", "10")), insert(t, *wide("2", "20")))

    await applier.apply(
        update(t, *wide("1", "30")), update(t, *wide("2", "10")), update(t, *wide("1", "20")),
    )  # fmt: skip

    assert applier.rows("SELECT id, n FROM t ORDER BY id") == [(1, 20), (2, 10)]


async def test_a_wide_table_without_a_key_loses_exactly_one_row_a_change(applier: Applier) -> None:
    applier.execute(f"CREATE TABLE t (doc json, {columns(LIMIT - 1, 'varchar(3)')})")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)
    same = wide("{}", None, rest="a")
    await applier.apply(*[insert(t, *same)] * 5)

    await applier.apply(delete(t, old=same), delete(t, old=same), update(t, *wide("[]", rest=""), old=same))

    assert applier.rows("SELECT doc::text, c0, c1598, count(*) FROM t GROUP BY 1, 2, 3 ORDER BY 1") == [
        ("[]", "", "", 1),
        ("{}", None, "a", 2),
    ]
    with pytest.raises(DivergenceError, match=r"delete of 3 row\(s\) in public\.t found 2"):
        await applier.apply(*[delete(t, old=same)] * 3)


async def test_a_row_that_fills_its_page_is_updated(applier: Applier) -> None:
    applier.execute(f"CREATE TABLE t (id bigint PRIMARY KEY, {columns(1015, 'bigint')})")
    t = await applier.relation("t")
    await applier.apply(insert(t, "1", *["7"] * 1015))

    await applier.apply(update(t, "2", *["8"] * 1015, key=["1", *[None] * 1015]))
    await applier.apply(update(t, "2", *["9"] * 1015))

    assert await applier.printed("TABLE t") == [row("2", *["9"] * 1015)]
