"""Columns that only the target has: their defaults and the values that somebody put there stay (REPLICATOR_SCHEMA)."""

from dataclasses import replace

import pytest

from replicator.model import UNCHANGED, Relation, ReplicaIdentity
from tests.fixtures.applying import Applier
from tests.fixtures.changes import delete, insert, update

LOCAL = """
  number int GENERATED ALWAYS AS IDENTITY,
  note text DEFAULT 'new',
  "Tag %s" word,
  twice int GENERATED ALWAYS AS (number * 2) STORED
"""
KEPT = 'SELECT id, v, number, note, "Tag %s", twice FROM t ORDER BY id'


async def published(applier: Applier, name: str, *columns: str) -> Relation:
    """The table as a source has it that lacks the local columns; its key is the first of ``columns``."""
    whole = await applier.relation(name, key=columns[:1])
    return replace(whole, columns=tuple(column for column in whole.columns if column.name in columns))


async def given_rows(applier: Applier, v: str, *rows: tuple[str, ...], more: str = "") -> Relation:
    """A table ``t (id, v)`` with local columns, to whose rows the user has written."""
    applier.execute("CREATE DOMAIN word AS text CHECK (value <> '')")
    applier.execute(f"CREATE TABLE t ({LOCAL}, id int PRIMARY KEY, v {v}{more})")
    table = await published(applier, "t", "id", "v")
    await applier.apply(*(insert(table, *row) for row in rows))
    applier.execute("UPDATE t SET note = 'mine ' || id, \"Tag %s\" = 'tag ' || id")
    return table


WIDE = "".join(f", w{n} int" for n in range(400))


@pytest.mark.parametrize("more", ["", WIDE], ids=["narrow", "wide"])
async def test_a_row_whose_key_changes_keeps_its_local_values(applier: Applier, more: str) -> None:
    """Given rows whose keys change, be it hand in hand, then what the target added to a row moves with it."""
    t = await given_rows(applier, "text", ("1", "one"), ("2", "two"), ("3", "three"), ("4", "four"), more=more)

    await applier.apply(
        update(t, "10", UNCHANGED, key=["1", None]),
        # two keys change hands
        update(t, "99", UNCHANGED, key=["2", None]),
        update(t, "2", "new three", key=["3", None]),
        update(t, "3", UNCHANGED, key=["99", None]),
        delete(t, key=["4", None]),
        insert(t, "5", "five"),
    )

    assert applier.rows(KEPT) == [
        (2, "new three", 3, "mine 3", "tag 3", 6),
        (3, "two", 2, "mine 2", "tag 2", 4),
        (5, "five", 5, "new", None, 10),
        (10, "one", 1, "mine 1", "tag 1", 2),
    ]


async def test_unique_values_that_change_hands_leave_local_values_in_place(applier: Applier) -> None:
    """Given rows that swap a unique value, which takes a deletion and an insertion, then local values stay."""
    t = await given_rows(applier, "text UNIQUE", ("1", "one"), ("2", "two"))

    await applier.apply(update(t, "1", "x"), update(t, "2", "one"), update(t, "1", "two"))

    assert applier.rows(KEPT) == [(1, "two", 1, "mine 1", "tag 1", 2), (2, "one", 2, "mine 2", "tag 2", 4)]


async def test_an_identity_that_only_an_insertion_can_set_leaves_local_values_in_place(applier: Applier) -> None:
    """Given a published GENERATED ALWAYS identity beside the key, then an update of its row keeps local values."""
    applier.execute("CREATE TABLE t (note text DEFAULT 'new', id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY)")
    t = await published(applier, "t", "id", "n")
    await applier.apply(insert(t, "1", "7"), insert(t, "2", "8"))
    applier.execute("UPDATE t SET note = 'mine ' || id")

    await applier.apply(update(t, "1", "7"), update(t, "2", "9"))

    assert applier.rows("SELECT id, n, note FROM t ORDER BY id") == [(1, 7, "mine 1"), (2, 9, "mine 2")]


async def test_a_row_that_moves_between_the_targets_partitions_keeps_its_local_values(applier: Applier) -> None:
    """Given other partitions on the target, when a key or another column moves a row, then local values move along."""
    applier.execute("""
        CREATE TABLE t (note text DEFAULT 'new', id int, v int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE high (v int, id int NOT NULL, note text DEFAULT 'other', PRIMARY KEY (id));
        ALTER TABLE t ATTACH PARTITION high FOR VALUES FROM (10) TO (20);
        CREATE TABLE u (note text DEFAULT 'new', id int, v int) PARTITION BY LIST (v);
        CREATE TABLE odd PARTITION OF u FOR VALUES IN (1, 3);
        CREATE TABLE even PARTITION OF u FOR VALUES IN (2, 4);
    """)
    t, u = [await published(applier, name, "id", "v") for name in ("t", "u")]
    await applier.apply(insert(t, "1", "1"), insert(t, "2", "2"), insert(u, "1", "1"), insert(u, "2", "2"))
    applier.execute("UPDATE t SET note = 'mine ' || id; UPDATE u SET note = 'mine ' || id")

    await applier.apply(update(t, "11", UNCHANGED, key=["1", None]), update(u, "1", "4"))

    assert applier.rows("SELECT tableoid::regclass::text, id, v, note FROM t ORDER BY id") == [
        ("low", 2, 2, "mine 2"),
        ("high", 11, 1, "mine 1"),
    ]
    assert applier.rows("SELECT tableoid::regclass::text, id, v, note FROM u ORDER BY id") == [
        ("even", 1, 4, "mine 1"),
        ("even", 2, 2, "mine 2"),
    ]


async def test_an_updated_row_without_a_key_is_a_new_row_with_defaults(applier: Applier) -> None:
    """Given a table whose rows nothing tells apart, then an update begins with defaults, and other rows keep theirs."""
    applier.execute("CREATE TABLE t (note text DEFAULT 'new', v int)")
    whole = await applier.relation("t", identity=ReplicaIdentity.FULL)
    t = replace(whole, columns=whole.columns[1:])
    await applier.apply(insert(t, "1"), insert(t, "2"))
    applier.execute("UPDATE t SET note = 'mine ' || v")

    await applier.apply(update(t, "3", old=["1"]))

    assert applier.rows("SELECT v, note FROM t ORDER BY v") == [(2, "mine 2"), (3, "new")]
