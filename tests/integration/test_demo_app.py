"""The sample app of the demo: its writers keep an honest journal, whatever the source answers."""

import asyncio
import contextlib
import random

from replicator.demo.app import connect_app, count_rows, counted_transactions, create_app
from replicator.demo.operations import OPERATIONS, RolledBack
from replicator.demo.writers import Writers, write_once
from tests.fixtures.databases import Database

_ROWS = 400


async def test_the_app_begins_with_the_rows_that_were_asked_for(source: Database) -> None:
    await create_app(source.dsn, 10_000)

    assert abs(await count_rows(source.dsn) - 10_000) < 500


async def test_the_journal_agrees_with_the_database(source: Database) -> None:
    await create_app(source.dsn, _ROWS)
    writers = Writers(source.dsn, rate=400)

    async with writers.at_work() as journal:
        await asyncio.sleep(2)

    assert journal.failures == []
    assert journal.committed > 100
    assert await counted_transactions(source.dsn) == journal.committed


async def test_every_operation_works_on_a_small_database(source: Database) -> None:
    await create_app(source.dsn, 1)
    chance = random.Random(7)
    async with await connect_app(source.dsn) as connection:
        for operation in [*OPERATIONS] * 5:
            with contextlib.suppress(RolledBack):
                async with connection.transaction():
                    await operation(connection, chance)


async def test_writers_stop_where_writes_are_refused(source: Database) -> None:
    await create_app(source.dsn, _ROWS)
    writers = Writers(source.dsn, rate=400)
    async with writers.at_work() as journal:
        await asyncio.sleep(0.5)

        # beside the event loop: a writer that holds a lock must be able to end its transaction
        await asyncio.to_thread(
            source.execute,
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'gone to the target' USING ERRCODE = '25006'; END $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON writers FOR EACH STATEMENT EXECUTE FUNCTION refuse()
            """,
        )

        assert await writers.ended(10)

    assert (journal.refused, journal.refusal, journal.failures) == (8, "gone to the target", [])
    assert await counted_transactions(source.dsn) == journal.committed


async def test_an_error_that_is_not_the_fences_is_a_failure(source: Database) -> None:
    await create_app(source.dsn, _ROWS)
    writers = Writers(source.dsn, rate=400)
    async with writers.at_work() as journal:
        source.execute("ALTER TABLE writers RENAME TO scribes")

        assert await writers.ended(10)

    assert len(journal.failures) == 8
    assert "UndefinedTable" in journal.failures[0]


async def test_one_write_proves_that_the_app_works(source: Database) -> None:
    await create_app(source.dsn, _ROWS)
    before = source.value("SELECT count(*) FROM proposals")

    await write_once(source.dsn)

    assert source.value("SELECT count(*) FROM proposals") == before + 1
