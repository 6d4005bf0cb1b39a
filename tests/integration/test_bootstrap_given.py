"""Bootstraps into a schema of the user's own, and with publications of the user's own."""

from typing import Any

import pytest

from replicator.config import Settings
from replicator.errors import SchemaMismatchError, SourceError
from replicator.model import TableName
from tests.fixtures.bootstrapping import assert_equal, read_deferred, read_records, run_bootstrap
from tests.fixtures.databases import Database, settings_for

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE, note text);
"""
ROWS = """
INSERT INTO customers SELECT n, 'name ' || n FROM generate_series(1, 5) n;
INSERT INTO orders SELECT n, 1 + n % 5, 'note ' || n FROM generate_series(1, 20) n;
"""
WATCHERS = """
CREATE TABLE seen (what text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN INSERT INTO seen VALUES (TG_NAME); RETURN NEW; END $$;
CREATE TRIGGER ordinary AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION watch();
CREATE TRIGGER always AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION watch();
ALTER TABLE orders ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER off AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION watch();
ALTER TABLE orders DISABLE TRIGGER off;
CREATE RULE noting AS ON UPDATE TO orders DO ALSO INSERT INTO seen VALUES ('rule');
ALTER TABLE customers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
"""
STATE = """
SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'
UNION ALL SELECT rulename, ev_enabled::text FROM pg_rewrite WHERE rulename = 'noting'
UNION ALL SELECT relname, relforcerowsecurity::text FROM pg_class WHERE relname IN ('customers', 'orders')
 ORDER BY 1, 2
"""


def existing(source: Database, target: Database, **changes: Any) -> Settings:
    return settings_for(source, target, REPLICATOR_SCHEMA="existing", **changes)


# --- REPLICATOR_SCHEMA=existing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("replica", [False, True])
async def test_what_would_fire_is_silenced_and_can_be_restored(
    source: Database, target: Database, replica: bool
) -> None:
    """Given the user's schema with keys, triggers, rules and forced row security, when bootstrapped, then only triggers
    that are meant to fire do, given the right to choose, and the recorded statements restore all exactly."""
    source.execute(TABLES + ROWS)
    target.execute(TABLES + WATCHERS)
    before = target.fetch(STATE)
    if replica:
        target.execute("GRANT SET ON PARAMETER session_replication_role TO app", superuser=True)
    settings = existing(source, target)
    try:
        await run_bootstrap(settings)
    finally:
        if replica:
            target.execute("REVOKE SET ON PARAMETER session_replication_role FROM app", superuser=True)

    await assert_equal(settings)
    assert target.fetch("SELECT what, count(*) FROM seen GROUP BY 1") == ([("always", 20)] if replica else [])
    kinds = {item.kind for item in await read_deferred(settings)}
    assert kinds == ({"ROW SECURITY"} if replica else {"TRIGGER", "ROW SECURITY", "FK CONSTRAINT", "RULE"})
    for item in await read_deferred(settings):
        target.execute(item.statement)
    assert target.fetch(STATE) == before


async def test_another_shape_of_the_same_tables_is_fine(source: Database, target: Database) -> None:
    """Given other partitions, another column order and extra columns on the target, then every row finds its place."""
    source.execute("""
        CREATE TABLE events (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        CREATE TABLE plain (id int PRIMARY KEY, note text);
        INSERT INTO events SELECT n, date '2024-06-01' + n, 'note ' || n FROM generate_series(1, 500) n;
        INSERT INTO plain VALUES (1, 'a')
    """)
    target.execute("""
        CREATE TABLE events (note text, id int, at date, extra int DEFAULT 7, PRIMARY KEY (id, at))
          PARTITION BY HASH (id);
        CREATE TABLE h0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE h1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE plain (extra timestamptz DEFAULT now(), note text, id int PRIMARY KEY)
    """)
    settings = existing(source, target)

    await run_bootstrap(settings)

    await assert_equal(settings)
    assert sorted(await read_records(settings)) == [TableName("public", "events"), TableName("public", "plain")]
    assert target.value("SELECT count(*) FROM events WHERE extra = 7") == 500


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        ("", r"table public\.customers is not on the target"),
        ("CREATE TABLE customers (id int PRIMARY KEY)", r"table public\.customers lacks columns on the target.*: name"),
        (
            "CREATE TABLE customers (id int PRIMARY KEY, name text GENERATED ALWAYS AS ('x') STORED)",
            r"table public\.customers lacks columns on the target, or generates them: name",
        ),
        (
            "CREATE UNLOGGED TABLE customers (id int PRIMARY KEY, name text NOT NULL)",
            r"table public\.customers, or a partition of it, is unlogged on the target",
        ),
    ],
)
async def test_a_published_column_without_a_lasting_place_is_refused(
    source: Database, target: Database, made: str, complaint: str
) -> None:
    source.execute("CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL)")
    target.execute(made)

    with pytest.raises(SchemaMismatchError, match=complaint):
        await run_bootstrap(existing(source, target))


# --- REPLICATOR_PUBLICATIONS ------------------------------------------------------------------------------------------


async def test_row_filters_and_column_lists_are_honoured(any_source: Database, target: Database) -> None:
    """Given publications with filters and a column list, then only what they publish is copied."""
    any_source.execute("""
        CREATE TABLE a (id int PRIMARY KEY, v text, secret text DEFAULT 's');
        CREATE TABLE b (id int PRIMARY KEY, "odd %s {x}" int);
        CREATE TABLE c (id int PRIMARY KEY);
        INSERT INTO a SELECT n, 'v' || n FROM generate_series(1, 10) n;
        INSERT INTO b SELECT n, n FROM generate_series(1, 10) n;
        INSERT INTO c VALUES (1);
        CREATE PUBLICATION low FOR TABLE a (id, v) WHERE (id < 3 OR id = 5);
        CREATE PUBLICATION high FOR TABLE a (id, v) WHERE (id > 9), b WHERE (id % 2 = 0) WITH (publish = 'insert')
    """)
    settings = settings_for(any_source, target, publications="low,high")

    await run_bootstrap(settings)

    assert target.fetch("SELECT id, v, secret FROM a ORDER BY id") == [(n, f"v{n}", "s") for n in (1, 2, 5, 10)]
    assert target.fetch("SELECT id FROM b ORDER BY id") == [(2,), (4,), (6,), (8,), (10,)]
    assert target.value("SELECT count(*) FROM c") == 0
    records = await read_records(settings)
    # updates of the rows that only `high` publishes are not sent
    assert {table.name: record.insert_only for table, record in records.items()} == {"a": True, "b": True}
    assert target.fetch("SELECT owns_publications, publications FROM replicator.migration") == [
        (False, ["low", "high"])
    ]


@pytest.mark.parametrize("split_bytes", [1024**2, 1024**3])
async def test_partitions_travel_under_their_root(any_source: Database, target: Database, split_bytes: int) -> None:
    """Given a publication via the root, then the root is the unit: its leaves' rows, keys and one record."""
    any_source.execute("""
        CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5000);
        CREATE TABLE p2 (v text, id int PRIMARY KEY);
        ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (5000) TO (10000);
        CREATE INDEX ON p (v);
        CREATE TABLE hollow (id int PRIMARY KEY) PARTITION BY RANGE (id);
        INSERT INTO p SELECT n, repeat(md5(n::text), 20) FROM generate_series(0, 9999) n;
        CREATE PUBLICATION rooted FOR TABLE p, hollow WITH (publish_via_partition_root)
    """)
    settings = settings_for(any_source, target, publications="rooted", split_bytes=split_bytes)

    await run_bootstrap(settings)

    await assert_equal(settings)
    records = await read_records(settings)
    assert {table.name: record.rows for table, record in records.items()} == {"p": 10000, "hollow": 0}
    assert target.value("SELECT bool_and(indisvalid) FROM pg_index")
    assert target.value("SELECT count(*) FROM p2") == 5000


async def test_a_table_that_left_the_publication_is_forgotten(source: Database, target: Database) -> None:
    """Given a table that is not published any more, then it has no record, and its rows on the target stay."""
    source.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);"
                   "INSERT INTO b VALUES (1); CREATE PUBLICATION mine FOR TABLE a, b")  # fmt: skip
    settings = settings_for(source, target, publications="mine")
    await run_bootstrap(settings)
    source.execute("ALTER PUBLICATION mine DROP TABLE b")

    await run_bootstrap(settings)

    assert list(await read_records(settings)) == [TableName("public", "a")]
    assert target.value("SELECT count(*) FROM b") == 1


async def test_a_publication_that_is_not_there_is_named(source: Database, target: Database) -> None:
    with pytest.raises(SourceError, match="no publication missing"):
        await run_bootstrap(settings_for(source, target, publications="missing"))
