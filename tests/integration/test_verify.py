"""The comparison that the demo and the acceptance tests trust: each test here fails when it is blind to something."""

from dataclasses import replace

import pytest

from replicator.errors import SchemaMismatchError
from replicator.model import TableName
from replicator.verify import TableDifference, compare, sequences_behind
from tests.fixtures.databases import Database, drop, new_source
from tests.fixtures.servers import AnyServer

_TABLE = TableName("public", "t")


def both(source: Database, target: Database, statements: str) -> None:
    for database in (source, target):
        database.execute(statements)


async def compared(source: Database, target: Database) -> TableDifference:
    (difference,) = await compare(source.dsn, target.dsn)
    assert difference.table == _TABLE
    return difference


async def test_equal_tables_are_equal(source: Database, target: Database) -> None:
    both(
        source,
        target,
        "CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT n, n FROM generate_series(1, 1000) n",
    )

    difference = await compared(source, target)

    assert difference == TableDifference(_TABLE, source_rows=1000, target_rows=1000)
    assert difference.equal


async def test_keys_that_another_encoding_sorts_otherwise_are_equal(source_server: AnyServer, target: Database) -> None:
    """Given a source whose bytes have another order than UTF-8's, when rows are equal, then none counts as lost."""
    source = new_source(source_server, "KOI8R")
    try:
        app = replace(source, dsn=f"{source.dsn}?client_encoding=utf8")
        both(app, target, "CREATE TABLE t (k text PRIMARY KEY); INSERT INTO t VALUES ('ю'), ('ц'), ('д'), ('ж'), ('x')")

        difference = await compared(source, target)
    finally:
        drop(source)

    assert difference == TableDifference(_TABLE, source_rows=5, target_rows=5)


async def test_lost_rows_are_found_wherever_they_were(source: Database, target: Database) -> None:
    for missing in (1, 500, 1000):
        both(source, target, f"CREATE TABLE t{missing} (id int PRIMARY KEY)")
        both(source, target, f"INSERT INTO t{missing} SELECT generate_series(1, 1000)")
        target.execute(f"DELETE FROM t{missing} WHERE id = {missing}")

    found = await compare(source.dsn, target.dsn)

    assert [(item.target_rows, item.lost, item.extra, item.different) for item in found] == [(999, 1, 0, 0)] * 3
    assert not any(item.equal for item in found)


async def test_extra_rows_are_found_wherever_they_are(source: Database, target: Database) -> None:
    for added in (0, 5, 10):
        both(source, target, f"CREATE TABLE t{added} (id int PRIMARY KEY); INSERT INTO t{added} VALUES (1), (9)")
        target.execute(f"INSERT INTO t{added} VALUES ({added})")

    found = await compare(source.dsn, target.dsn)

    assert [(item.target_rows, item.lost, item.extra, item.different) for item in found] == [(3, 0, 1, 0)] * 3


async def test_a_different_value_is_found(source: Database, target: Database) -> None:
    both(source, target, "CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    target.execute("UPDATE t SET x = 'c' WHERE id = 2")

    assert await compared(source, target) == TableDifference(_TABLE, 2, 2, different=1)


_NEARLY_EQUAL = (
    ("text", "NULL", "''"),
    ("text", "NULL", r"'\N'"),
    ("text", "E'a\\tb'", r"'a\tb'"),
    ("text", "'a'", "'a '"),
    ("float8", "0.1", "0.1::float8 + 1e-17::float8 + 2e-17"),
    ("numeric", "1.0", "1.00"),
    ("bytea", r"'\x00ff'", r"'\x00fe'"),
    ("json", """'{"a":1}'""", """'{"a": 1}'"""),
    ("timestamptz", "'2025-01-01 00:00:00+00'", "'2025-01-01 00:00:00.000001+00'"),
    ("int[]", "'{1,NULL}'", "'[0:1]={1,NULL}'"),
)


async def test_values_that_are_nearly_equal_are_different(source: Database, target: Database) -> None:
    for number, (kind, one, other) in enumerate(_NEARLY_EQUAL):
        both(source, target, f"CREATE TABLE t{number} (id int PRIMARY KEY, x {kind})")
        source.execute(f"INSERT INTO t{number} VALUES (1, {one})")
        target.execute(f"INSERT INTO t{number} VALUES (1, {other})")

    assert [item.different for item in await compare(source.dsn, target.dsn)] == [1] * len(_NEARLY_EQUAL)


async def test_the_settings_of_a_role_or_database_make_no_difference(source: Database, target: Database) -> None:
    both(
        source,
        target,
        "CREATE TABLE t (id int PRIMARY KEY, f float8, d timestamptz, r regclass);"
        "INSERT INTO t VALUES (1, 1 / 3.0, '2025-01-01 00:00:00+00', 't'::regclass)",
    )
    for name, value in (("extra_float_digits", "0"), ("DateStyle", "German"), ("TimeZone", "Asia/Tokyo")):
        source.execute(f"ALTER DATABASE {source.name} SET {name} = '{value}'")

    assert (await compared(source, target)).equal


async def test_keys_are_matched_whatever_their_type_and_order(source: Database, target: Database) -> None:
    both(
        source,
        target,
        "CREATE TABLE t (a text, b int, x text, PRIMARY KEY (b, a));"
        "INSERT INTO t SELECT a, b, 'x' FROM unnest(ARRAY[-1, 2, 10]) b,"
        r" unnest(ARRAY[E'\t', 'a', E'a\t', 'ab', E'a\\', 'é', 'Z', '', E'\n', 'a b']) a",
    )
    target.execute(r"DELETE FROM t WHERE a = E'a\t' AND b = 10; UPDATE t SET x = 'y' WHERE a = E'a\\'")

    assert await compared(source, target) == TableDifference(_TABLE, 30, 29, lost=1, different=3)


async def test_a_table_without_a_key_is_a_multiset(source: Database, target: Database) -> None:
    both(source, target, "CREATE TABLE t (x text, y int); INSERT INTO t VALUES ('a', 1), ('a', 1), ('b', NULL)")
    assert (await compared(source, target)).equal

    target.execute("INSERT INTO t VALUES ('a', 1); UPDATE t SET y = 0 WHERE x = 'b'")

    assert await compared(source, target) == TableDifference(_TABLE, 3, 4, lost=1, extra=2)


async def test_generated_columns_are_compared(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    target.execute("CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 3) STORED)")
    both(source, target, "INSERT INTO t VALUES (1)")

    assert (await compared(source, target)).different == 1


async def test_partitions_may_be_cut_differently(source: Database, target: Database) -> None:
    both(source, target, "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    source.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (5); CREATE TABLE t2 PARTITION OF t DEFAULT")
    target.execute("CREATE TABLE t1 PARTITION OF t DEFAULT")
    both(source, target, "INSERT INTO t SELECT generate_series(1, 9)")

    assert await compared(source, target) == TableDifference(_TABLE, 9, 9)


async def test_inheritance_children_are_tables_of_their_own(source: Database, target: Database) -> None:
    both(source, target, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u () INHERITS (t)")
    source.execute("INSERT INTO u VALUES (1)")

    assert await compare(source.dsn, target.dsn) == [
        TableDifference(_TABLE),
        TableDifference(TableName("public", "u"), 1, 0, lost=1),
    ]


async def test_another_column_order_makes_no_difference(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t VALUES (1, 'x', 'y')")
    target.execute("CREATE TABLE t (b text, more int, id int PRIMARY KEY, a text)")
    target.execute("INSERT INTO t (id, a, b) VALUES (1, 'x', 'y')")

    assert (await compared(source, target)).equal


async def test_a_table_that_the_target_lacks_has_lost_all_its_rows(source: Database, target: Database) -> None:
    source.execute('CREATE SCHEMA "Odd one"; CREATE TABLE "Odd one"."T%" AS SELECT generate_series(1, 3) AS "a b"')

    (difference,) = await compare(source.dsn, target.dsn)

    assert difference == TableDifference(TableName("Odd one", "T%"), 3, 0, lost=3)


async def test_a_column_that_the_target_lacks_is_an_error(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY, x text)")
    target.execute("CREATE TABLE t (id int PRIMARY KEY)")

    with pytest.raises(SchemaMismatchError, match=r"target: comparing public\.t"):
        await compare(source.dsn, target.dsn)


async def test_only_the_tables_that_are_named_are_compared(source: Database, target: Database) -> None:
    both(source, target, "CREATE TABLE t (id int); CREATE TABLE u (id int)")

    assert [item.table for item in await compare(source.dsn, target.dsn, [_TABLE])] == [_TABLE]


async def test_a_sequence_that_would_repeat_values_is_found(source: Database, target: Database) -> None:
    both(
        source,
        target,
        "CREATE SEQUENCE fine; CREATE SEQUENCE behind; CREATE SEQUENCE unused; CREATE SEQUENCE down INCREMENT -1;"
        "SELECT setval('fine', 5), setval('behind', 5), setval('down', -5)",
    )
    target.execute("SELECT setval('behind', 4), setval('fine', 9), setval('down', -4)")
    source.execute("CREATE SEQUENCE missing; SELECT nextval('missing')")

    behind = await sequences_behind(source.dsn, target.dsn)

    assert [name.name for name in behind] == ["behind", "down", "missing"]
