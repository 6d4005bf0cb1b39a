"""Law 7 in the copy: tables of types that all versions send alike travel in binary, and nothing changes."""

from collections.abc import Mapping
from typing import Any

import pytest

from bootstrap.copy import Relay
from tests.fixtures.bootstrapping import assert_equal, run_bootstrap
from tests.fixtures.databases import Database, settings_for

COLUMNS = """
  b boolean, y bytea, i8 bigint, i2 smallint, i4 integer, t text, j json, f4 real, f8 double precision, c char(5),
  v varchar(9), d date, ti time, ts timestamp, tz timestamptz, n numeric, n2 numeric(9, 2), u uuid, jb jsonb,
  ta text[], ia integer[], na numeric[], tza timestamptz[]
"""
VALUES = """
  (true, '\\x00ff5c', -9223372036854775808, -32768, -2147483648, E'a\\tb\\\\n\\\\N\\n', '{"a": 1.0, "a": 2}', '-0',
   'NaN',
   'ab', 'é€', '4713-01-01 BC', '24:00', 'infinity', '-infinity', 'NaN', -0.10, '00000000-0000-0000-0000-000000000001',
   '{"b": 1.10}', '{NULL,"NULL",""}', '[2:3]={1,2}', '{NaN,Infinity,1.00}', '{"0044-03-15 BC",infinity}'),
  (false, '', 9223372036854775807, 32767, 2147483647, '', '[]', '1.17549435e-38', '2.2250738585072014e-308',
   '', '', '5874897-12-31', '00:00:00.000001', '294276-12-31 23:59:59.999999', '4714-11-24 00:00:00+00 BC', 'Infinity',
   9999999.99, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'null', '{}', '{{1,2},{3,4}}', '{}', '{}'),
  (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
   NULL, NULL, NULL, NULL)
"""


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The format in which each table was copied."""
    seen: dict[str, str] = {}
    copy = Relay.copy

    async def noting(self: Relay, table: Any, *rest: Any, **options: Any) -> Any:
        seen[table.table.name] = options["how"]
        return await copy(self, table, *rest, **options)

    monkeypatch.setattr(Relay, "copy", noting)
    return seen


async def test_edge_values_arrive_in_binary_and_other_types_as_text(
    source: Database, target: Database, formats: Mapping[str, str]
) -> None:
    """Given types that travel in binary, also in a large table, and others with an enum, an interval, a domain."""
    source.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN whole AS integer CHECK (value > 0);"
        f"CREATE TABLE plain (id serial PRIMARY KEY, {COLUMNS});"
        f"INSERT INTO plain (b, y, i8, i2, i4, t, j, f4, f8, c, v, d, ti, ts, tz, n, n2, u, jb, ta, ia, na, tza)"
        f" VALUES {VALUES};"
        "CREATE TABLE large AS SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 9000) n;"
        "CREATE TABLE moods AS SELECT n, 'ok'::mood FROM generate_series(1, 9) n;"
        "CREATE TABLE spans AS SELECT n, interval '1 day' FROM generate_series(1, 9) n;"
        "CREATE TABLE wholes AS SELECT n, n::whole AS w FROM generate_series(1, 9) n"
    )
    for table in ("large", "moods", "spans", "wholes"):
        source.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (n)")
    settings = settings_for(source, target)

    await run_bootstrap(settings)

    assert formats == {"plain": "binary", "large": "binary", "moods": "text", "spans": "text", "wholes": "text"}
    await assert_equal(settings)


async def test_a_column_of_another_type_on_the_target_is_copied_as_text(
    source: Database, target: Database, formats: Mapping[str, str]
) -> None:
    """Given the user's own schema, whose columns would take the source's bytes for something else."""
    tables = "CREATE TABLE t (id int PRIMARY KEY, v {0}); CREATE TABLE w (id int PRIMARY KEY, v integer)"
    for database, kind in ((source, "integer"), (target, "real")):
        database.execute(tables.format(kind))
    for table in ("t", "w"):
        source.execute(f"INSERT INTO {table} SELECT n, n FROM generate_series(1, 9) n")
    settings = settings_for(source, target, REPLICATOR_SCHEMA="existing")

    await run_bootstrap(settings)

    assert formats == {"t": "text", "w": "binary"}
    assert target.fetch("SELECT count(*), sum(v::integer) FROM t") == [(9, 45)]
