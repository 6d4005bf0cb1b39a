"""What may become of the source: its slot, its publications, an earlier state, transactions that do not end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from tests.faults.conftest import StageFactory
from tests.faults.restoring import restore, save
from tests.faults.stage import Stage, assert_stops_with, begin_again, wait_progress, wait_told
from tests.fixtures.databases import Database, new_source
from tests.fixtures.live import LiveApp
from tests.fixtures.migration import Migration, differences
from tests.fixtures.servers import SOURCE_MAJOR, ServerMaker
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import wait_caught_up

pytestmark = pytest.mark.long

REMEDY = "Run `replicator cleanup`, empty the target, and start the migration again"

_PUBLICATION = "SELECT pubname FROM pg_publication"
_UPDATE = "UPDATE accounts SET balance = balance + 1 WHERE id = (SELECT id FROM accounts ORDER BY id LIMIT 1)"


@pytest.fixture
def migration(own_stage: Stage) -> Migration:
    """One of the test's own, which streams."""
    own_stage.migration.start()
    return own_stage.migration


# --- the slot ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("source", "the slot is dropped", "ends with the error")
def test_a_slot_that_is_dropped(migration: Migration) -> None:
    wait_until(lambda: drop_slot(migration.source), what="the slot is dropped")

    assert_stops_with(migration, "source", "replication slot", REMEDY)

    begin_again(migration)
    migration.assert_equal()


def drop_slot(source: Database) -> bool:
    """Between two streams; whether it is gone."""
    with suppress(psycopg.errors.ObjectInUse):
        source.execute(_DROP_SLOT, superuser=True)
    return not source.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()")


_DROP_SLOT = """
SELECT pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots WHERE database = current_database() AND active;
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()
"""


@pytest.mark.fault("source", "the slot is invalidated: max_slot_wal_keep_size", "ends with the error")
def test_a_slot_that_is_invalidated(make_server: ServerMaker, target: Database, new_stage: StageFactory) -> None:
    sizes = {"max_slot_wal_keep_size": "16MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}
    migration = new_stage(new_source(make_server(SOURCE_MAJOR, **sizes)), target).migration
    migration.start()
    migration.worker.kill()
    for _ in range(5):
        migration.source.execute("SELECT pg_switch_wal()", superuser=True)
        migration.source.execute("CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler VALUES ('more')")
        migration.source.execute("CHECKPOINT", superuser=True)
    migration.worker.start()

    assert_stops_with(migration, "source", "replication slot", "was invalidated", REMEDY)

    begin_again(migration)
    migration.assert_equal()


# --- the publication --------------------------------------------------------------------------------------------------


@pytest.mark.fault("source", "a table is taken out of the publication and put in again", "copies it again")
@pytest.mark.parametrize("pause", [0, 8])
def test_a_table_that_was_not_published_for_a_while(migration: Migration, pause: float) -> None:
    name = migration.source.value(_PUBLICATION)
    migration.source.execute(f"ALTER PUBLICATION {name} DROP TABLE accounts", superuser=True)
    migration.source.execute("UPDATE accounts SET balance = balance + 1")
    time.sleep(pause)
    migration.source.execute("UPDATE accounts SET balance = balance + 1")
    with suppress(psycopg.errors.DuplicateObject):  # the worker may have put it in
        migration.source.execute(f"ALTER PUBLICATION {name} ADD TABLE accounts", superuser=True)

    time.sleep(migration.settings.schema_interval + 1)

    migration.assert_equal()


@pytest.mark.fault("source", "the publication is dropped", "ends with the error; made again, copies again")
def test_a_publication_that_is_dropped(migration: Migration) -> None:
    name = migration.source.value(_PUBLICATION)
    migration.source.execute(f"DROP PUBLICATION {name}", superuser=True)

    # one of several looks sees it first
    assert_stops_with(migration, "source", "publication", "are copied anew")

    migration.source.execute(f"CREATE PUBLICATION {name}")
    migration.start()

    migration.assert_equal()


# --- another server ---------------------------------------------------------------------------------------------------


@contextmanager
def restored(migration: Migration, *, timeline: bool) -> Iterator[None]:
    """The source as it was before the last seconds, in which the target has taken changes; its app goes on there."""
    save(migration.source.server)
    wait_until(lambda: migration.source.value("SELECT count(*) > 0 FROM pg_publication"), what="the source")
    wait_progress(migration)
    time.sleep(2)
    migration.app.stop()
    wait_caught_up(migration.source, migration.target, migration.worker)
    restore(migration.source.server, timeline=timeline)
    yield
    migration.app = LiveApp(migration.source.dsn)
    migration.app.start()
    begin_again(migration)
    with migration.app.paused():
        wait_caught_up(migration.source, migration.target, migration.worker)
        assert differences(migration.source, migration.target) == []


@pytest.mark.fault("source", "restored to an earlier point: its WAL is behind our progress", "ends with the error")
def test_a_source_that_was_restored(migration: Migration) -> None:
    with restored(migration, timeline=False):
        assert_stops_with(migration, "source", "but the source's WAL ends at", "Run `replicator cleanup`")


@pytest.mark.fault("source", "failed over: it is on another timeline", "ends with the error")
def test_a_source_that_failed_over(migration: Migration) -> None:
    with restored(migration, timeline=True):
        assert_stops_with(migration, "source", "is on timeline 2", "Run `replicator cleanup`")


# --- transactions that do not end -------------------------------------------------------------------------------------


@pytest.mark.fault(
    "source",
    "a transaction and a prepared one are open where the slot is made",
    "asks to end them, waits, has their rows",
)
@pytest.mark.parametrize("prepared", [False, True])
def test_an_open_transaction_at_the_slots_creation(
    source: Database, target: Database, new_stage: StageFactory, prepared: bool
) -> None:
    """Given one that outlasts the first attempts to make the slot, when it ends, then its rows are there, once."""
    migration = new_stage(source, target, slot_timeout=2).migration
    with psycopg.connect(source.dsn, autocommit=True) as other:
        other.execute("BEGIN")
        other.execute(_UPDATE)
        if prepared:
            other.execute("PREPARE TRANSACTION 'abandoned'")
        migration.worker.start()
        wait_told(migration, "transactions that were running before did not end in time")
        other.execute("COMMIT PREPARED 'abandoned'" if prepared else "COMMIT")
    migration.wait_streaming()

    migration.assert_equal()


@pytest.mark.fault("source", "a prepared transaction is abandoned while it streams", "goes on, has its rows at its end")
def test_a_prepared_transaction_that_is_abandoned_while_it_streams(migration: Migration) -> None:
    with psycopg.connect(migration.source.dsn, autocommit=True) as other:
        other.execute("BEGIN")
        other.execute(_UPDATE)
        other.execute("PREPARE TRANSACTION 'abandoned'")
        wait_progress(migration)
        migration.worker.kill()
        migration.start()
        time.sleep(2)
        other.execute("COMMIT PREPARED 'abandoned'")

    migration.assert_equal()
