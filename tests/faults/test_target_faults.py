"""What may become of the target: no room, no rights to write, an earlier state, settings of others, a table dropped."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import sql

from tests.faults.conftest import StageFactory
from tests.faults.disks import Disk, small_disk
from tests.faults.restoring import become_standby, data_of, promote, restore, save
from tests.faults.stage import Stage, assert_stops_with, begin_again, blocked_target, wait_progress, wait_told
from tests.fixtures.databases import Database
from tests.fixtures.gates import ROWS, gates_on
from tests.fixtures.migration import Migration, add_ballast
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.long

_LOST = "session lost, trying again"
_CONFIRMED = "SELECT confirmed_flush_lsn > %s::pg_lsn FROM pg_replication_slots WHERE database = current_database()"
_PROGRESS = "SELECT lsn::text FROM replicator.progress"


@pytest.fixture
def migration(own_stage: Stage) -> Migration:
    """One of the test's own, which streams."""
    own_stage.migration.start()
    return own_stage.migration


# --- no room ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(private_target: Database) -> Iterator[Disk]:
    """Where everything of ``private_target`` is."""
    with small_disk(private_target.server, megabytes=64) as disk:
        with private_target.server.administer() as connection:
            location = sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(disk.folder)))
            connection.execute(location)
            name = sql.Identifier(private_target.name)
            connection.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(name))
        yield disk


@pytest.mark.fault("target", "its disk is full during the copy and while it streams", "tries again, goes on with room")
def test_a_disk_that_is_full(source: Database, private_target: Database, disk: Disk, new_stage: StageFactory) -> None:
    add_ballast(source)
    with gates_on(private_target) as gates:
        migration = new_stage(source, private_target).migration
        gates.hold(ROWS)
        migration.worker.start()
        wait_told(migration, "made the schema", timeout=60)
        gates.wait_reached(ROWS)
        disk.fill()
        gates.release()
        wait_told(migration, _LOST, times=2)
        assert "No space left on device" in migration.worker.current_log
        disk.make_room()
        migration.wait_streaming()

    before = migration.worker.current_log.count(_LOST)
    disk.fill()

    def is_told() -> bool:
        migration.source.execute("UPDATE documents SET views = views")
        return told(migration, before + 2)

    wait_until(is_told, what="no room", interval=0.2)
    disk.make_room()

    migration.assert_equal()


def told(migration: Migration, times: int) -> bool:
    return migration.worker.current_log.count(_LOST) >= times


@pytest.mark.fault("target", "no connection left on the server", "tries again, goes on when there is one")
def test_a_server_without_a_free_connection(migration: Migration) -> None:
    with ExitStack() as others:
        while not told(migration, 2):
            assert migration.worker.running, "the worker ended"
            try:
                others.enter_context(psycopg.connect(migration.target.dsn))
            except psycopg.OperationalError:
                migration.target.execute(_END_OURS, superuser=True)
                time.sleep(0.1)
    assert "remaining connection slots" in migration.worker.current_log

    migration.assert_equal()


_END_OURS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'replicator %'"


# --- settings of others -----------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "both", "someone sets time-outs of 50 ms for role and database", "has its own, in the copy and the stream"
)
def test_short_time_outs_are_not_ours(source: Database, target: Database, new_stage: StageFactory) -> None:
    with gates_on(target) as gates:
        migration = new_stage(source, target).migration
        with hasty(source), hasty(target):
            gates.hold(ROWS)
            migration.worker.start()
            wait_told(migration, "made the schema", timeout=60)
            gates.wait_reached(ROWS)
            time.sleep(1)
            gates.release()
            migration.wait_streaming()
            with blocked_target(migration):
                time.sleep(1)
    assert _LOST not in migration.worker.current_log

    migration.assert_equal()


@contextmanager
def hasty(database: Database) -> Iterator[None]:
    """Within the block, new sessions of the migration's role have no patience."""
    names = sql.SQL(" IN DATABASE ").join(map(sql.Identifier, (database.value("SELECT current_user"), database.name)))
    role = f"ALTER ROLE {names.as_string()}"
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        database.execute(f"{role} SET {name} = '50ms'", superuser=True)
    try:
        yield
    finally:
        database.execute(f"{role} RESET ALL", superuser=True)


# --- an earlier state -------------------------------------------------------------------------------------------------


@pytest.mark.fault("target", "in recovery, and promoted later", "tries again until it takes writes")
def test_a_target_in_recovery(own_stage: Stage) -> None:
    migration = own_stage.migration
    data_of(migration.target.server)
    migration.start()
    become_standby(migration.target.server)
    wait_told(migration, "read-only transaction")

    promote(migration.target.server)

    migration.assert_equal()


@pytest.mark.fault("target", "a failover loses commits that the slot still has", "applies them again, once")
def test_a_target_that_lost_its_last_commits(source: Database, target: Database, new_stage: StageFactory) -> None:
    migration = new_stage(source, target, confirm_delay=60).migration
    migration.start()
    save(target.server)
    migration.assert_equal()
    time.sleep(2)  # all of it would be confirmed by now

    restore(target.server, timeline=True)

    migration.assert_equal()


@pytest.mark.fault("target", "restored to a point before what the slot has confirmed", "ends with the error")
def test_a_target_that_lost_what_was_confirmed(migration: Migration) -> None:
    save(migration.target.server)
    wait_progress(migration)
    saved = migration.target.value(_PROGRESS)
    wait_until(lambda: migration.source.value(_CONFIRMED, [saved]), what="a confirmation")

    restore(migration.target.server)

    assert_stops_with(migration, "target", "the target lost commits", "empty the target, and start the migration again")
    begin_again(migration)
    migration.assert_equal()


# --- a table that is gone ---------------------------------------------------------------------------------------------


@pytest.mark.fault("target", "a table is dropped, and made again from a backup", "waits, names the table, and goes on")
def test_a_table_that_was_dropped(migration: Migration) -> None:
    migration.target.execute(
        "BEGIN; LOCK TABLE writers; CREATE TABLE backup (LIKE writers INCLUDING ALL);"
        "INSERT INTO backup SELECT * FROM writers; DROP TABLE writers CASCADE; COMMIT"
    )
    wait_told(migration, "waiting until the target takes the change")
    error = migration.target.value("SELECT error FROM replicator.migration")
    assert "public.writers" in error["message"]

    migration.target.execute("ALTER TABLE backup RENAME TO writers")

    migration.assert_equal()
