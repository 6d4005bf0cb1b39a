"""The fence on a live source: what it refuses, whom it lets pass, and how it gives way."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest

from replicator.catalog import source_tables
from replicator.cutover.fence import fence_patiently
from replicator.errors import CutoverError, Side
from replicator.postgres import Connection, connected
from replicator.source import fence
from replicator.source.fence import Fence, tables_to_fence
from tests.fixtures.databases import Database, new_source
from tests.fixtures.servers import SOURCE_MAJOR, ServerMaker
from tests.fixtures.waiting import wait_until

_SCHEMA = """
CREATE TABLE plain (id int PRIMARY KEY, a int);
CREATE TABLE root (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (b int) INHERITS (parent);
CREATE TABLE outside (id int PRIMARY KEY);
INSERT INTO plain VALUES (1, 1); INSERT INTO leaf VALUES (1, 1); INSERT INTO child VALUES (1, 1);
"""
_MIGRATION = uuid4()
_MIGRATED = ("plain", "leaf", "child")
"""By the leaves: the roots and parents above them must be fenced too."""


@asynccontextmanager
async def _session(source: Database) -> AsyncIterator[Connection]:
    async with connected(source.dsn, Side.SOURCE, "test") as connection:
        yield connection


async def _oids(connection: Connection) -> list[int]:
    return [item.oid for item in await source_tables(connection, []) if item.table.name in _MIGRATED]


async def _raise(connection: Connection, seconds: float | None = 60, patience: float = 10) -> Fence:
    await fence.prepare(connection, _MIGRATION)
    return await fence_patiently(
        connection,
        await tables_to_fence(connection, await _oids(connection)),
        destination="new.example:5432/app",
        lifts_after=seconds,
        lock_timeout=0.2,
        patience=patience,
        report=lambda _: None,
    )


_WRITES = [
    *(f"INSERT INTO {table} DEFAULT VALUES" for table in ("plain", "root", "leaf", "parent", "child")),
    *(f"UPDATE {table} SET id = 2" for table in ("plain", "root", "leaf", "parent", "child")),
    *(f"DELETE FROM {table}" for table in ("plain", "root", "leaf", "parent", "child")),
    *(f"TRUNCATE {table}" for table in ("plain", "root", "leaf", "parent", "child")),
    "COPY plain FROM PROGRAM 'true'",
    "MERGE INTO plain p USING (VALUES (1)) v(id) ON p.id = v.id WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM plain RETURNING id) SELECT * FROM gone",
    "UPDATE plain SET a = 2 WHERE false",
]


async def test_every_write_to_roots_leaves_and_children_is_refused(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        await _raise(connection)
    for replica in (False, True):
        for write in _WRITES:
            with psycopg.connect(source.superuser_dsn, autocommit=True) as app:
                if replica:
                    app.execute("SET session_replication_role = replica")
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match=r"moving to new\.example:5432/app"):
                    app.execute(write.encode())


async def test_reads_and_other_tables_go_on(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        await _raise(connection)
    assert source.value("SELECT count(*) FROM plain") == 1
    assert source.value("SELECT count(*) FROM (SELECT FROM root FOR UPDATE) locked") == 1
    source.execute("INSERT INTO outside VALUES (1)")


async def test_it_holds_for_every_role_and_for_what_other_tables_cascade_to_it(source: Database) -> None:
    source.execute(_SCHEMA)
    source.execute(
        "ALTER TABLE plain ADD outside_id int REFERENCES outside ON DELETE CASCADE;"
        "INSERT INTO outside VALUES (1); UPDATE plain SET outside_id = 1"
    )
    source.execute("GRANT ALL ON plain TO pg_monitor; GRANT USAGE ON SCHEMA public TO pg_monitor", superuser=True)
    async with _session(source) as connection:
        await _raise(connection)
    for statement in ("SET ROLE pg_monitor; DELETE FROM plain", "DELETE FROM outside", "TRUNCATE outside CASCADE"):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            source.execute(statement, superuser=True)


async def test_a_fence_whose_owner_died_lifts_itself(source: Database) -> None:
    """Law 8."""
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        await _raise(connection, seconds=1)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.execute("UPDATE plain SET a = 2")
    await asyncio.sleep(1.2)
    source.execute("UPDATE plain SET a = 2")


async def test_undoing_is_instant_even_behind_a_reader(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        await _raise(connection)
        with psycopg.connect(source.dsn) as reader:
            reader.execute("SELECT FROM plain")
            assert await fence.lift(connection, _MIGRATION)
            source.execute("UPDATE plain SET a = 2")
        assert not await fence.lift(connection, _MIGRATION)


async def test_a_long_writer_makes_the_fence_give_up_and_the_app_never_deadlocks(source: Database) -> None:
    """Law 5: the fence takes its locks in one order, the app in the other; only the fence gives way."""
    source.execute(_SCHEMA)
    lines: list[str] = []
    async with _session(source) as connection:
        await fence.prepare(connection, _MIGRATION)
        tables = await tables_to_fence(connection, await _oids(connection))
        app = psycopg.connect(source.dsn, application_name="long writer")
        app.execute("UPDATE child SET b = 2")  # the last table in the fence's order
        attempt = asyncio.create_task(
            fence_patiently(
                connection,
                tables,
                destination="there",
                lifts_after=60,
                lock_timeout=30,
                patience=3,
                report=lines.append,
            )
        )
        await asyncio.sleep(0.3)
        # waits for the fence's lock on it, while the fence waits for ours
        await asyncio.to_thread(app.execute, "UPDATE plain SET a = 2")
        with pytest.raises(CutoverError, match="long writer"):
            await attempt
        app.commit()
        app.close()
    assert len(lines) >= 1
    assert source.fetch("SELECT a, b FROM plain, child") == [(2, 2)]
    assert await _unfenced(source)


async def _unfenced(source: Database) -> bool:
    source.execute("INSERT INTO plain VALUES (99)")
    return source.fetch("SELECT count(*) FROM pg_trigger WHERE tgname = 'replicator_fence'") == [(0,)]


async def test_the_fence_waits_for_a_writer_that_ends(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        with psycopg.connect(source.dsn) as app:
            app.execute("UPDATE plain SET a = 7")
            attempt = asyncio.create_task(_raise(connection))
            await asyncio.sleep(1)
            app.commit()
        await attempt
    assert source.value("SELECT a FROM plain") == 7


async def test_the_fence_waits_for_a_prepared_transaction(source: Database) -> None:
    source.execute(_SCHEMA)
    with psycopg.connect(source.dsn) as app:
        app.execute("UPDATE plain SET a = 7")
        app.execute("PREPARE TRANSACTION 'later'")
    async with _session(source) as connection:
        with pytest.raises(CutoverError, match="prepared transaction"):
            await _raise(connection, patience=1)
    source.execute("COMMIT PREPARED 'later'")


# --- the proof that no write has passed -------------------------------------------------------------------------------


async def test_an_untouched_fence_proves_that_nothing_passed(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        raised = await _raise(connection)
        await connection.execute("ANALYZE")
        assert await fence.breach(connection, raised, await _oids(connection)) is None
        assert await fence.seal(connection, raised, await _oids(connection), "there") is None
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="this database has moved to there"):
        source.execute("UPDATE plain SET a = 2")


@pytest.mark.parametrize(
    "tampering",
    [
        "ALTER TABLE plain DISABLE TRIGGER replicator_fence; ALTER TABLE plain ENABLE ALWAYS TRIGGER replicator_fence",
        "DROP TRIGGER replicator_fence ON leaf",
        "ALTER TABLE plain ALTER a TYPE bigint",
        "ALTER TABLE plain ADD c int",
        "ALTER TABLE root DETACH PARTITION leaf",
        "CREATE TABLE grandchild () INHERITS (child)",
        "DROP TABLE plain",
    ],
)
async def test_whatever_could_let_a_write_pass_is_noticed(source: Database, tampering: str) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        raised = await _raise(connection)
        migrated = await _oids(connection)
        source.execute(tampering)
        assert await fence.breach(connection, raised, migrated) is not None


async def test_a_fence_that_was_lifted_or_has_lapsed_proves_nothing(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        migrated = await _oids(connection)
        lapsed = await _raise(connection, seconds=0.3)
        await asyncio.sleep(0.5)
        assert await fence.breach(connection, lapsed, migrated) == "the fence has lifted itself at its deadline"
        lifted = await _raise(connection)
        await fence.lift(connection, _MIGRATION)
        assert await fence.breach(connection, lifted, migrated) == "the fence was lifted"
        assert await fence.seal(connection, lifted, migrated, "there") == "the fence was lifted"


async def test_another_migrations_fence_is_left_alone(source: Database) -> None:
    source.execute(_SCHEMA)
    async with _session(source) as connection:
        await _raise(connection)
        assert not await fence.lift(connection, uuid4())
        with pytest.raises(CutoverError, match="another migration"):
            await fence.prepare(connection, uuid4())


async def test_many_tables_are_fenced_in_one_round_trip(source: Database) -> None:
    source.execute(
        "DO $$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE plain_%s (id int)', i); END LOOP; END $$"
    )
    async with _session(source) as connection:
        oids = [item.oid for item in await source_tables(connection, [])]
        await fence.prepare(connection, _MIGRATION)
        start = time.monotonic()
        raised = await fence_patiently(
            connection,
            await tables_to_fence(connection, oids),
            destination="there",
            lifts_after=60,
            lock_timeout=0.5,
            patience=30,
            report=lambda _: None,
        )
        print(f"fenced {len(raised.tables)} tables in {time.monotonic() - start:.2f} s")
        assert await fence.breach(connection, raised, oids) is None
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.execute("INSERT INTO plain_500 VALUES (1)")


async def test_autovacuum_is_sent_away(make_server: ServerMaker) -> None:
    source = new_source(make_server(SOURCE_MAJOR, autovacuum_naptime="1s"))
    source.execute(_SCHEMA)
    source.execute(
        "INSERT INTO plain SELECT g, g FROM generate_series(2, 50000) g; DELETE FROM plain WHERE id % 2 = 0;"
        "ALTER TABLE plain SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)"
    )
    wait_until(
        lambda: source.fetch(
            "SELECT FROM pg_locks WHERE relation = 'plain'::regclass AND mode = 'ShareUpdateExclusiveLock'"
        ),
        what="autovacuum at work",
    )
    async with _session(source) as connection:
        await _raise(connection)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        source.execute("UPDATE plain SET a = 2")
