"""What tells a worker that streams to look at the source's schema again: deploys, and nothing that it did itself."""

import asyncio

import pytest

from bootstrap import fingerprint
from bootstrap.fingerprint import Fingerprint
from bootstrap.run import bootstrap
from monitoring.metrics import Metrics
from replicator import control
from replicator.config import Settings
from replicator.errors import Side
from replicator.postgres import connected
from tests.fixtures.bootstrapping import take_lease
from tests.fixtures.databases import Database, settings_for
from tests.fixtures.gates import ROWS, gates_on

NEW_TABLE = "CREATE TABLE later (id int PRIMARY KEY)"


async def followed(settings: Settings) -> Fingerprint:
    """What a bootstrap has seen."""
    return await bootstrap(settings, await take_lease(settings), Metrics())


async def seen_now(settings: Settings) -> Fingerprint:
    """What the worker sees while it streams."""
    async with (
        connected(settings.source, Side.SOURCE, "test") as source,
        connected(settings.target, Side.TARGET, "test") as target,
    ):
        migration = await control.read_migration(target)
        assert migration is not None
        return await fingerprint.read(settings, source, migration)


@pytest.mark.parametrize("keyless", ["refuse", "insert-only"])
async def test_publications_that_we_make_or_extend_are_no_deploy(
    source: Database, target: Database, keyless: str
) -> None:
    """Given a first bootstrap, and one that follows a new table, then there is nothing to follow after each."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    settings = settings_for(source, target, keyless=keyless)

    assert await followed(settings) == await seen_now(settings)
    source.execute(NEW_TABLE)
    assert await followed(settings) == await seen_now(settings)


async def test_what_happens_while_tables_are_copied_is_followed_after_that(source: Database, target: Database) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    settings = settings_for(source, target)
    with gates_on(target) as gates:
        gates.hold(ROWS)
        working = asyncio.create_task(followed(settings))
        await asyncio.to_thread(gates.wait_reached, ROWS)
        source.execute(NEW_TABLE)
        gates.release()

        assert await working != await seen_now(settings)


@pytest.mark.parametrize(
    "change", ["ALTER PUBLICATION {} DROP TABLE t", "ALTER PUBLICATION {} SET (publish = 'insert')"]
)
async def test_what_others_do_to_our_publications_is_seen(source: Database, target: Database, change: str) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY)")
    settings = settings_for(source, target)
    before = await followed(settings)

    source.execute(change.format(source.value("SELECT pubname FROM pg_publication")))

    assert before != await seen_now(settings)
