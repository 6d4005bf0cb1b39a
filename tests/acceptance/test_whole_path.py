"""The whole path by the installed commands under live writers: check, run, status, cutover, cleanup."""

import asyncio
import json

import pytest

from replicator.demo.writers import write_once
from tests.fixtures.databases import Database
from tests.fixtures.dumps import dumped_schema
from tests.fixtures.migration import Migration, MigrationMaker
from tests.fixtures.traces import traces
from tests.fixtures.worker import run_command


@pytest.fixture(params=["source", "source_15"])
def migration(request: pytest.FixtureRequest, target: Database, make_migration: MigrationMaker) -> Migration:
    """From PostgreSQL 17 and from 15."""
    return make_migration(request.getfixturevalue(request.param), target)


def test_a_live_database_moves_and_both_servers_are_left_clean(migration: Migration) -> None:
    source, target, settings = migration.source, migration.target, migration.settings
    before = traces(source)
    assert run_command(settings, "check").returncode == 0

    migration.start()
    status = run_command(settings, "status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["phase"] == "streaming"
    migration.assert_equal()

    report = migration.finish()
    assert report["downtime_seconds"] > 0
    assert report["left_out"] == report["unfinished"] == []
    assert migration.app.refused
    assert migration.app.failures == []

    assert run_command(settings, "cleanup").returncode == 0
    assert traces(source) == before
    assert dumped_schema(target, settings) == dumped_schema(source, settings)
    asyncio.run(write_once(target.dsn))
    asyncio.run(write_once(source.dsn))


def test_a_migration_that_is_given_up_leaves_the_source_as_it_was(
    source: Database, target: Database, make_migration: MigrationMaker
) -> None:
    migration = make_migration(source, target)
    before = traces(source)
    migration.start()
    assert migration.worker.stop() == 0

    assert run_command(migration.settings, "cleanup").returncode == 0

    assert traces(source) == before
    assert [line for line in traces(target) if "replicator" in line] == []
    assert migration.app.failures == []
