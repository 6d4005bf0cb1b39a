"""Servers and networks that make life hard for a worker that streams: it goes on by itself, and nothing is lost.

One migration is taken through all of it, under live writers; each test ends with both sides compared row by row.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.faults.stage import Stage, wait_progress, wait_told
from tests.fixtures.databases import Database
from tests.fixtures.migration import Migration
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command, wait_caught_up

_OURS = """
SELECT DISTINCT application_name FROM pg_stat_activity
 WHERE application_name LIKE 'replicator %' AND datname = current_database()
"""
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
_STREAMING = '"event": "streaming"'
_PROGRESS = "SELECT lsn::text FROM replicator.progress"


pytestmark = pytest.mark.long


@pytest.fixture
def migration(stage: Stage) -> Migration:
    return stage.migration


@contextmanager
def role_altered(database: Database, change: str, back: str) -> Iterator[None]:
    """Within the block the role that replicator uses is another one for new sessions, and all of them are new."""
    role = database.value("SELECT quote_ident(current_user)")
    database.execute(f"ALTER ROLE {role} {change}", superuser=True)
    try:
        database.execute(_END, ["replicator %"], superuser=True)
        yield
    finally:
        database.execute(f"ALTER ROLE {role} {back}", superuser=True)


# --- the target -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("target", "read-only for a while", "tries again")
def test_a_target_that_is_read_only(migration: Migration) -> None:
    change = "SET default_transaction_read_only = on"
    with role_altered(migration.target, change, "RESET default_transaction_read_only"):
        wait_told(migration, "session lost, trying again")

    migration.assert_equal()


@pytest.mark.fault("target", "no connection left for the role", "tries again")
def test_a_target_that_takes_no_connection(migration: Migration) -> None:
    with role_altered(migration.target, "CONNECTION LIMIT 0", "CONNECTION LIMIT -1"):
        wait_told(migration, "session lost, trying again", times=2)
        # for as long as attempts without a pause between them would show
        time.sleep(6)

    migration.assert_equal()


@pytest.mark.fault("target", "a deadlock with another client", "one of both is rolled back; tries again")
def test_a_deadlock_on_the_target(migration: Migration) -> None:
    """The other holds a table that the batch needs, and then asks for those that the batch has written to."""
    wait_until(lambda: loses_a_deadlock(migration), what="the worker is the one that is rolled back")
    assert "waiting until the target takes the change" not in migration.worker.current_log, "nobody has to do anything"

    migration.assert_equal()


def loses_a_deadlock(migration: Migration) -> bool:
    """Provoke one, which the worker notices first, if its batch has written anything yet."""
    with psycopg.connect(migration.target.superuser_dsn) as other:
        other.execute("SET LOCAL deadlock_timeout = '3s'")
        other.execute("LOCK TABLE writers IN ACCESS EXCLUSIVE MODE")
        wait_until(lambda: migration.target.value(_BATCH_WAITS, superuser=True), what="the batch waits")
        try:
            for (name,) in migration.target.fetch(_BATCH_HOLDS, superuser=True):
                other.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
        except psycopg.errors.DeadlockDetected:
            other.rollback()
    return "deadlock detected" in migration.worker.current_log


_BATCH = "l.pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'replicator worker apply')"
_BATCH_WAITS = f"SELECT count(*) FROM pg_locks l WHERE NOT granted AND {_BATCH}"
_BATCH_HOLDS = f"""
SELECT l.relation::regclass FROM pg_locks l JOIN pg_class c ON c.oid = l.relation AND c.relkind = 'r'
 WHERE l.granted AND l.mode = 'RowExclusiveLock' AND c.relpersistence = 'p' AND {_BATCH}
"""


@pytest.mark.fault("target", "a table is renamed away for a while", "waits, names the table, and goes on")
def test_a_table_that_is_gone_from_the_target(migration: Migration) -> None:
    migration.target.execute("ALTER TABLE writers RENAME TO away")
    wait_told(migration, "waiting until the target takes the change")
    error = migration.target.value("SELECT error FROM replicator.migration")
    assert "public.writers" in error["message"]

    migration.target.execute("ALTER TABLE away RENAME TO writers")

    migration.assert_equal()


# --- either side ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("both", "each of our sessions is ended, one by one", "reconnects")
@pytest.mark.parametrize("side", ["source", "target"])
def test_sessions_that_are_ended(migration: Migration, side: str) -> None:
    database = migration.source if side == "source" else migration.target
    ended = 0
    for (name,) in database.fetch(_OURS, superuser=True):
        before = migration.worker.current_log.count(_STREAMING)
        if database.fetch(_END, [name], superuser=True):  # what only looks at the schema may have ended by itself
            wait_told(migration, _STREAMING, times=before + 1)
            ended += 1
    assert ended > 1

    migration.assert_equal()


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.fault("network", "100 ms each way", "goes on")
def test_a_slow_network(stage: Stage) -> None:
    with slowed(stage, delay=0.05):
        wait_for_some(stage.migration)

    stage.migration.assert_equal()


@pytest.mark.fault("network", "100 kB/s", "goes on, and catches up later")
def test_a_narrow_network(stage: Stage) -> None:
    """Given a transaction that takes seconds on either leg, then nobody takes the worker for dead meanwhile."""
    migration = stage.migration
    with slowed(stage, rate=100_000):
        began = time.monotonic()
        migration.source.execute("INSERT INTO documents (title, body) VALUES ('large', repeat('narrow', 60000))")
        wait_caught_up(migration.source, migration.target, migration.worker)
        assert time.monotonic() - began > 3, "the network is narrow"
        wait_for_some(migration)
    assert migration.worker.current_log.count(_STREAMING) == 1, "it has not begun anew"

    migration.assert_equal()


@pytest.mark.fault(
    "network", "each answer of the target takes 0.1 s", "a rehearsal finds the tables that the worker has"
)
def test_a_rehearsal_over_a_slow_network(stage: Stage) -> None:
    """Some table is locked at any time: in every batch, from its first change to its commit."""
    with slowed(stage, delay=0.05):
        for _ in range(2):
            assert run_command(stage.migration.settings, "cutover", "--rehearse").returncode == 0

    stage.migration.assert_equal()


@pytest.mark.fault("network", "swallows everything for seconds", "goes on")
def test_a_network_that_swallows_packets(stage: Stage) -> None:
    for proxy in (stage.to_source, stage.to_target):
        proxy.deaf()
    before = stage.migration.target.value(_PROGRESS)
    time.sleep(stage.migration.settings.lease_timeout * 2)
    assert stage.migration.target.value(_PROGRESS) == before
    for proxy in (stage.to_source, stage.to_target):
        proxy.hear()

    stage.migration.assert_equal()


@contextmanager
def slowed(stage: Stage, *, delay: float = 0.0, rate: int = 0) -> Iterator[None]:
    for proxy in (stage.to_source, stage.to_target):
        proxy.slow(delay=delay, rate=rate)
    try:
        yield
    finally:
        for proxy in (stage.to_source, stage.to_target):
            proxy.slow()


def wait_for_some(migration: Migration) -> None:
    """Wait until a few batches have come through."""
    for _ in range(3):
        wait_progress(migration)
