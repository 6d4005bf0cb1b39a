"""The bootstrap of whole databases, from nothing to ready: nothing is lost, changed, or fires on the way."""

import pytest

from replicator.demo.app import create_app
from replicator.errors import ConfigurationError, SourceError, TargetError
from replicator.model import TableName, TableState
from tests.fixtures.bootstrapping import assert_equal, read_deferred, read_records, run_bootstrap
from tests.fixtures.databases import Database, settings_for

INDEXES = """
SELECT schemaname, indexname, indexdef FROM pg_indexes
 WHERE schemaname NOT IN ('pg_catalog', 'replicator') ORDER BY 1, 2
"""
AUTH = """
CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY);
GRANT ALL ON SCHEMA auth TO postgres; GRANT ALL ON auth.users TO postgres
"""
COLUMNS = """
SELECT table_schema, table_name, column_name, data_type, column_default, is_nullable, is_identity, identity_generation,
       generation_expression
  FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema', 'replicator')
 ORDER BY 1, 2, 3
"""


async def test_given_the_sample_app_everything_arrives(any_source: Database, target: Database) -> None:
    """Given every kind of table, when bootstrapped without superuser, then rows, columns and indexes are the same."""
    settings = settings_for(any_source, target, keyless="full")
    await create_app(any_source.dsn, rows=2000)

    metrics = await run_bootstrap(settings)

    await assert_equal(settings)
    assert target.fetch(INDEXES) == any_source.fetch(INDEXES)
    assert target.fetch(COLUMNS) == any_source.fetch(COLUMNS)
    assert {record.state for record in (await read_records(settings)).values()} == {TableState.READY}
    assert target.value("SELECT bool_and(indisvalid) FROM pg_index")
    assert target.value("SELECT reltuples > 0 FROM pg_class WHERE oid = 'histories'::regclass")
    assert target.value("SELECT reltuples > 0 FROM pg_class WHERE oid = 'events'::regclass")
    tables = metrics.registry.get_sample_value("replicator_copy_tables", {"state": "ready"})
    assert tables == target.value("SELECT count(*) FROM replicator.tables")
    assert metrics.registry.get_sample_value("replicator_copy_bytes_total") == target.value(
        "SELECT sum(bytes) FROM replicator.tables"
    )


async def test_what_would_fire_waits_for_the_cutover(source: Database, target: Database) -> None:
    """Given foreign keys and a trigger, when bootstrapped, then they are recorded and not made."""
    settings = settings_for(source, target, keyless="full")
    await create_app(source.dsn, rows=100)

    await run_bootstrap(settings)

    assert [item.kind for item in await read_deferred(settings)] == ["TRIGGER", "FK CONSTRAINT", "FK CONSTRAINT"]
    assert target.value("SELECT count(*) FROM pg_trigger WHERE tgrelid <> ALL (SELECT oid FROM pg_class c "
                        "WHERE relnamespace = 'replicator'::regnamespace)") == 0  # fmt: skip
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 0


async def test_progress_begins_at_the_slot(source: Database, target: Database) -> None:
    """Law 1: given a bootstrap, then progress is the slot's consistent point, and each table's round is recorded."""
    settings = settings_for(source, target)
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")

    await run_bootstrap(settings)

    slot = target.value("SELECT slot FROM replicator.migration")
    confirmed = source.value("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [slot])
    assert target.value("SELECT lsn::text FROM replicator.progress") == confirmed
    assert target.value("SELECT snapshot_lsn::text FROM replicator.tables") == confirmed
    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1


async def test_running_it_again_does_nothing(source: Database, target: Database) -> None:
    """Law 8: given a finished bootstrap, when it runs again, then no row is copied and no slot made."""
    settings = settings_for(source, target)
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    await run_bootstrap(settings)
    before = await read_records(settings)
    source.execute("INSERT INTO t VALUES (2)")

    metrics = await run_bootstrap(settings)

    assert await read_records(settings) == before
    assert metrics.registry.get_sample_value("replicator_copy_bytes_total") == 0
    assert target.fetch("SELECT id FROM t") == [(1,)]


async def test_schemas_extensions_and_odd_names(source: Database, target: Database) -> None:
    """Given several schemas, an extension's type, views that need keys and odd names, then all of it is made."""
    source.execute("CREATE SCHEMA extensions; CREATE EXTENSION citext SCHEMA extensions", superuser=True)
    source.execute("GRANT USAGE ON SCHEMA extensions TO postgres", superuser=True)
    source.execute("""
        CREATE SCHEMA app;
        CREATE SCHEMA "Odd; Type: TABLE";
        COMMENT ON SCHEMA app IS 'the app';
        CREATE TABLE app.people (id int PRIMARY KEY, name extensions.citext UNIQUE, pair int4range,
                                 EXCLUDE USING gist (pair WITH &&));
        CREATE TABLE app.kin (nick text) INHERITS (app.people);
        ALTER TABLE app.kin ADD PRIMARY KEY (id);
        CREATE VIEW app.grouped AS SELECT id, name FROM app.people GROUP BY id;
        CREATE MATERIALIZED VIEW app.counted AS SELECT count(*) AS n FROM app.grouped;
        CREATE TABLE "Odd; Type: TABLE"."a""b c" ("x;y" int PRIMARY KEY, "{z}" text DEFAULT '%s {}');
        COMMENT ON TABLE "Odd; Type: TABLE"."a""b c" IS '
--
-- Name: evil; Type: TABLE; Schema: app; Owner: -
--
';
        CREATE STATISTICS app.together ON id, name FROM app.people;
        INSERT INTO app.people VALUES (1, 'A', '[1,2)');
        INSERT INTO app.kin VALUES (2, 'B', '[2,3)', 'b');
        INSERT INTO "Odd; Type: TABLE"."a""b c" VALUES (1)
    """)
    settings = settings_for(source, target)

    await run_bootstrap(settings)

    await assert_equal(settings)
    assert target.value("SELECT count(*) FROM ONLY app.people") == 1
    assert target.fetch("SELECT id, name::text FROM app.grouped ORDER BY id") == [(1, "A"), (2, "B")]
    assert target.fetch(INDEXES) == source.fetch(INDEXES)
    assert [item.kind for item in await read_deferred(settings)] == ["MATERIALIZED VIEW DATA"]
    assert target.value("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'citext'") == (
        "extensions"
    )


async def test_what_supabase_manages_stays_behind(source: Database, target: Database) -> None:
    """Given managed schemas with tables, and a key into one of them, then only the app's schema is made."""
    source.execute(AUTH, superuser=True)
    source.execute("CREATE TABLE profiles (id int PRIMARY KEY REFERENCES auth.users)")
    settings = settings_for(source, target)

    await run_bootstrap(settings)

    assert list(await read_records(settings)) == [TableName("public", "profiles")]
    assert target.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'auth'") == 0
    assert [item.kind for item in await read_deferred(settings)] == ["FK CONSTRAINT"]


# --- clear refusals ---------------------------------------------------------------------------------------------------


async def test_a_view_that_cannot_be_made_is_named(source: Database, target: Database) -> None:
    """Law 9: given a view on a managed table, then the error names the view, and mending it lets the run go on."""
    source.execute(AUTH, superuser=True)
    source.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT id FROM auth.users")
    settings = settings_for(source, target)

    with pytest.raises(TargetError, match=r"making view public\.v: .*\"auth") as caught:
        await run_bootstrap(settings)
    assert "REPLICATOR_EXCLUDE_SCHEMAS" in caught.value.hint

    source.execute("DROP VIEW v")
    await run_bootstrap(settings)
    await assert_equal(settings)


async def test_a_target_that_is_not_empty_is_refused(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    target.execute("CREATE TABLE t (id int PRIMARY KEY)")

    with pytest.raises(TargetError, match=r"making table public\.t: relation \"t\" already exists") as caught:
        await run_bootstrap(settings_for(source, target))
    assert "empty the target" in caught.value.hint


async def test_a_missing_extension_is_named(source: Database, target: Database) -> None:
    if not source.fetch("SELECT FROM pg_available_extensions WHERE name = 'pgcrypto'"):
        pytest.skip("this source has no extension that the target lacks")
    if target.fetch("SELECT FROM pg_available_extensions WHERE name = 'pgcrypto'"):
        pytest.skip("this target has the source's extensions")
    source.execute("CREATE EXTENSION pgcrypto")
    source.execute("CREATE TABLE t (id int PRIMARY KEY, salt text DEFAULT gen_salt('bf'))")

    with pytest.raises(TargetError, match=r"extension pgcrypto.*does not offer it"):
        await run_bootstrap(settings_for(source, target))

    source.execute("ALTER TABLE t ALTER salt DROP DEFAULT")
    await run_bootstrap(settings_for(source, target))  # not in use any more


async def test_settings_may_be_corrected_until_something_is_copied(source: Database, target: Database) -> None:
    """Given a refused first attempt, when a setting is changed, then it counts; after the copy it is refused."""
    source.execute("CREATE TABLE t (v text); INSERT INTO t VALUES ('a')")
    with pytest.raises(SourceError, match=r"public\.t \(it has no primary key\)"):
        await run_bootstrap(settings_for(source, target))

    await run_bootstrap(settings_for(source, target, keyless="full"))
    await assert_equal(settings_for(source, target))

    with pytest.raises(ConfigurationError, match="REPLICATOR_KEYLESS was 'full'"):
        await run_bootstrap(settings_for(source, target, keyless="insert-only"))


async def test_rows_of_a_leafwise_child_are_not_copied_twice(source: Database, target: Database) -> None:
    """Given deep partitions and a table that only some schemas publish, then each row is copied once."""
    source.execute("""
        CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (id);
        CREATE TABLE p1a PARTITION OF p1 (v DEFAULT 'x') FOR VALUES FROM (0) TO (5);
        CREATE TABLE p1b PARTITION OF p1 FOR VALUES FROM (5) TO (10);
        CREATE TABLE p2 (v text, id int NOT NULL);
        ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
        CREATE INDEX ON p (v);
        INSERT INTO p SELECT n, n::text FROM generate_series(0, 19) n
    """)
    settings = settings_for(source, target)

    await run_bootstrap(settings)

    await assert_equal(settings)
    assert sorted(name.name for name in await read_records(settings)) == ["p1a", "p1b", "p2"]
    assert target.value("SELECT bool_and(indisvalid) FROM pg_index")
    assert target.fetch(INDEXES) == source.fetch(INDEXES)


async def test_many_small_tables_share_their_connections(source: Database, target: Database) -> None:
    """Given hundreds of tables, then they come in a few transactions, each with its key and rows."""
    source.execute("".join(f"CREATE TABLE t{n} (id serial PRIMARY KEY, v text); INSERT INTO t{n} (v) VALUES ('{n}');"
                           for n in range(200)))  # fmt: skip
    settings = settings_for(source, target)

    await run_bootstrap(settings)

    assert target.value("SELECT count(*) FROM replicator.tables WHERE state = 'ready' AND rows = 1") == 200
    assert (
        target.value("SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid::regclass::text LIKE 't%'") == 200
    )
    assert target.fetch("SELECT v FROM t199") == [("199",)]
    assert target.value("SELECT count(DISTINCT xmin::text) FROM replicator.tables") < 50


async def test_a_column_that_the_target_lacks_is_added(source: Database, target: Database) -> None:
    """Given a table that came to the publication later and stands on the target without a column, it comes whole."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    settings = settings_for(source, target)
    await run_bootstrap(settings)
    source.execute("CREATE TABLE n (id int PRIMARY KEY, v text); INSERT INTO n VALUES (1, 'one')")
    source.execute(f"ALTER PUBLICATION {target.value('SELECT slot FROM replicator.migration')} ADD TABLE n")
    target.execute("CREATE TABLE n (id int PRIMARY KEY)")

    await run_bootstrap(settings)

    assert target.fetch("SELECT id, v FROM n") == [(1, "one")]
