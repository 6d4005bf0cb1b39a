"""Law 3, from the source's slot: it is never confirmed beyond what the target holds, nor sooner after a restart."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import psycopg

from replicator.config import Settings
from replicator.lsn import Lsn, parse_lsn
from replicator.worker import run
from tests.fixtures.databases import Database, settings_for

SOON = 30
SEVERAL_BEATS = 1.5
"""Seconds; settings_for has the worker beat every 0.2."""


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """A worker in this process."""
    task = asyncio.create_task(run(settings))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        # in a thread: what the condition waits for may be the worker's lock
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def confirmed(source: Database) -> Lsn:
    query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = current_database()"
    return parse_lsn(source.value(query))


def progress(target: Database) -> Lsn:
    return parse_lsn(target.value("SELECT lsn::text FROM replicator.progress"))


def arrived(target: Database, number: int) -> bool:
    try:
        return bool(target.value("SELECT count(*) FROM t WHERE id = %s", [number]))
    except psycopg.errors.UndefinedTable:
        return False


async def test_law_3_a_slot_that_is_held_back_stays_so_when_a_worker_starts_anew(
    source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
    settings = settings_for(source, target, confirm_delay=3600)
    async with working(settings):
        await until(lambda: arrived(target, 0))
        source.execute("INSERT INTO t VALUES (1)")
        await until(lambda: arrived(target, 1))
    held_back = confirmed(source)
    assert held_back < progress(target)

    async with working(settings):
        source.execute("INSERT INTO t VALUES (2)")
        await until(lambda: arrived(target, 2))
        await asyncio.sleep(SEVERAL_BEATS)

    assert confirmed(source) == held_back


async def test_a_slot_is_confirmed_although_streams_begin_anew_more_often_than_it_is_held_back(
    source: Database, target: Database
) -> None:
    """Given an app that makes and drops tables all the time, then the source's WAL does not pile up."""
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
    async with working(settings_for(source, target, confirm_delay=6, schema_interval=0.3)):
        await until(lambda: arrived(target, 0))
        before = confirmed(source)
        for number in range(1, 9):
            source.execute(f"INSERT INTO t VALUES ({number}); CREATE TABLE brief_{number} (id int PRIMARY KEY)")
            await until(lambda number=number: arrived(target, number))  # type: ignore[misc]
            await asyncio.sleep(SEVERAL_BEATS)  # so that the worker sees both
            source.execute(f"DROP TABLE brief_{number}")
            await asyncio.sleep(SEVERAL_BEATS)
            if confirmed(source) > before:
                break

        assert confirmed(source) > before


async def test_law_3_what_was_received_is_not_confirmed_before_it_is_committed(
    source: Database, target: Database
) -> None:
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
    async with working(settings_for(source, target, confirm_delay=0)):
        await until(lambda: arrived(target, 0))
        source.execute("INSERT INTO t VALUES (1)")
        await until(lambda: arrived(target, 1))
        with psycopg.connect(target.dsn) as other:
            other.execute("LOCK TABLE t IN SHARE MODE")
            for number in (2, 3):
                source.execute("INSERT INTO t VALUES (%s)", [number])
                await asyncio.sleep(SEVERAL_BEATS / 2)
            assert confirmed(source) <= progress(target)

        await until(lambda: arrived(target, 3))
        await until(lambda: confirmed(source) == progress(target))
