"""The settings that shape a migration: keyless tables, and publications and a schema of the user's own."""

import asyncio
from collections.abc import Iterator

import pytest

from replicator.demo.app import create_app
from replicator.demo.writers import write_once
from replicator.model import TableName
from replicator.verify import compare
from tests.fixtures.databases import Database
from tests.fixtures.migration import MigrationMaker
from tests.fixtures.worker import run_command, wait_caught_up

# --- REPLICATOR_KEYLESS; `full` is what all other tests have, `refuse` is in test_refusals ----------------------------


def test_an_insert_only_table_is_not_cut_over_silently_and_the_app_goes_on_updating_it(
    source: Database, target: Database, make_migration: MigrationMaker
) -> None:
    migration = make_migration(source, target, keyless="insert-only")
    migration.start()
    source.execute("INSERT INTO visits VALUES ('/new', '203.0.113.9', 7)")
    source.execute("UPDATE visits SET seconds = 8 WHERE path = '/new'")
    migration.assert_equal(without=["visits"])
    assert target.fetch("SELECT seconds FROM visits WHERE path = '/new'") == [(7,)]

    refused = run_command(migration.settings, "cutover")
    assert refused.returncode == 1
    assert "public.visits" in refused.stderr
    before = migration.app.committed

    report = migration.cut_over("--omit-failing")
    assert any("public.visits" in line for line in report["left_out"])
    assert migration.app.committed > before
    migration.assert_finished(without=["visits"])
    assert migration.app.failures == []


def test_an_excluded_table_stays_behind_and_the_app_goes_on_updating_it(
    source: Database, target: Database, make_migration: MigrationMaker
) -> None:
    migration = make_migration(source, target, keyless="exclude")
    migration.start()
    migration.assert_equal(without=["visits"])

    report = migration.cut_over()

    assert "table public.visits" in report["left_out"]
    assert target.value("SELECT count(*) FROM visits") == 0
    migration.assert_finished(without=["visits"])
    assert migration.app.failures == []


# --- REPLICATOR_PUBLICATIONS ------------------------------------------------------------------------------------------

CHOSEN = """
CREATE PUBLICATION chosen FOR TABLE sessions WHERE (id % 2 = 0), accounts (id, handle, preferred), documents, writers;
CREATE PUBLICATION rooted FOR TABLE events WITH (publish_via_partition_root = true);
CREATE PUBLICATION grown FOR TABLE visits WITH (publish = 'insert')
"""
FILTERED = "SELECT md5(s::text) FROM sessions s WHERE id % 2 = 0 ORDER BY id"
LISTED = "SELECT id, handle, preferred, handle_key FROM accounts ORDER BY id"
WHOLE = [TableName("public", name) for name in ("documents", "events", "writers")]


def assert_chosen(source: Database, target: Database) -> None:
    """What the publications send is on the target, and nothing else."""
    for query in (FILTERED, LISTED):
        assert target.fetch(query) == source.fetch(query) != []
    assert [item for item in asyncio.run(compare(source.dsn, target.dsn, WHOLE)) if not item.equal] == []
    for absent in ("sessions WHERE id % 2 = 1", "accounts WHERE avatar IS NOT NULL", "histories", "proposals"):
        assert target.value(f"SELECT count(*) FROM {absent}") == 0


def test_row_filters_column_lists_and_roots_of_the_users_publications_are_honoured(
    source: Database, target: Database, make_migration: MigrationMaker
) -> None:
    migration = make_migration(source, target, publications="chosen,rooted,grown", keyless="refuse")
    source.execute(CHOSEN)
    migration.start()
    with migration.app.paused():
        wait_caught_up(source, target, migration.worker)
        assert_chosen(source, target)
    assert migration.app.failures == []

    migration.cut_over("--omit-failing")

    migration.app.stop()
    assert_chosen(source, target)
    assert migration.worker.stop() == 0
    assert run_command(migration.settings, "cleanup").returncode == 0
    assert source.fetch("SELECT pubname FROM pg_publication ORDER BY 1") == [("chosen",), ("grown",), ("rooted",)]


# --- REPLICATOR_SCHEMA=existing ---------------------------------------------------------------------------------------

OWN = """
DROP TABLE events;
CREATE TABLE events (
  kind text NOT NULL,
  noted_by text DEFAULT 'the new app',
  payload jsonb NOT NULL DEFAULT '{}',
  happened_at timestamptz NOT NULL DEFAULT now(),
  id bigserial,
  PRIMARY KEY (id, happened_at)
) PARTITION BY RANGE (happened_at);
CREATE TABLE events_a PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2019-12-28 00:00:00+00');
CREATE TABLE events_b PARTITION OF events FOR VALUES FROM ('2019-12-28 00:00:00+00') TO ('2020-01-02 00:00:00+00');
CREATE TABLE events_c PARTITION OF events DEFAULT;
ALTER TABLE sessions ADD COLUMN origin text NOT NULL DEFAULT 'moved'
"""
"""Another column order, a column more, and other partitions than the source has."""

FIRING = """
SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint WHERE contype = 'f'
UNION ALL SELECT tgname, pg_get_triggerdef(oid), tgenabled = 'O' FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1
"""
ALLOW = "GRANT SET ON PARAMETER session_replication_role TO app"
FORBID = "REVOKE SET ON PARAMETER session_replication_role FROM app"


@pytest.fixture(params=["owner", "replica"])
def own_schema(request: pytest.FixtureRequest, target: Database) -> Iterator[Database]:
    """The target, with a schema of the user's own; its role may, or may not, set session_replication_role."""
    asyncio.run(create_app(target.dsn, 1))
    target.execute("TRUNCATE sessions, histories, proposals, accounts, documents, events, visits, writers")
    target.execute(OWN)
    if request.param == "replica":
        target.execute(ALLOW, superuser=True)
    yield target
    target.execute(FORBID, superuser=True)


def test_a_schema_of_the_users_own_takes_the_rows_and_is_left_as_it_was(
    source: Database, own_schema: Database, make_migration: MigrationMaker
) -> None:
    migration = make_migration(source, own_schema, REPLICATOR_SCHEMA="existing")
    before = own_schema.fetch(FIRING)
    assert len(before) > 2
    migration.start()
    migration.assert_equal()

    report = migration.finish()

    assert report["left_out"] == report["unfinished"] == []
    assert own_schema.fetch(FIRING) == before
    assert own_schema.fetch("SELECT DISTINCT origin FROM sessions") == [("moved",)]
    asyncio.run(write_once(own_schema.dsn))
