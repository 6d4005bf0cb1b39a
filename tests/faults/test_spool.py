"""The copy takes long while the app writes on: the spool keeps the changes, so that the source need not (law 3)."""

import json

import pytest

from tests.fixtures.databases import Database, new_source
from tests.fixtures.gates import ROWS, Gates
from tests.fixtures.migration import Migration, MigrationMaker
from tests.fixtures.proxy import ProxyMaker
from tests.fixtures.servers import SOURCE_MAJOR, ServerMaker
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command

MEGABYTES = 300
LIMIT = 64
STEP = 10

_BULK = """
CREATE TABLE bulk (id int PRIMARY KEY, body text NOT NULL);
ALTER TABLE bulk ALTER body SET STORAGE PLAIN
"""
_WRITE = """
INSERT INTO bulk SELECT n, repeat(md5(n::text), 220)
  FROM generate_series((SELECT coalesce(max(id), 0) + 1 FROM bulk), (SELECT coalesce(max(id), 0) + %s FROM bulk)) n
"""
_ROW_BYTES = 7200
_RETAINED = """
SELECT (pg_current_wal_lsn() - restart_lsn) / 1048576, wal_status FROM pg_replication_slots
 WHERE database = current_database()
"""


def spooled(migration: Migration) -> int:
    chunks: int = migration.target.value("SELECT count(*) FROM replicator.spool")
    return chunks


@pytest.mark.fault("source", "300 MB of WAL during the copy, max_slot_wal_keep_size 64 MB", "spools on the target")
def test_a_copy_during_which_more_wal_is_written_than_a_slot_may_keep(
    make_server: ServerMaker, target: Database, gates: Gates, make_migration: MigrationMaker
) -> None:
    """Given 64 MB that a slot may keep, when 300 MB are written during the copy, then nothing is lost."""
    server = make_server(SOURCE_MAJOR, max_slot_wal_keep_size=f"{LIMIT}MB", min_wal_size="32MB", max_wal_size="32MB")
    migration = make_migration(new_source(server), target)
    migration.source.execute(_BULK)
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)

    for _ in range(0, MEGABYTES, STEP):
        migration.source.execute(_WRITE, [STEP * 1_000_000 // _ROW_BYTES])
        migration.source.execute("CHECKPOINT", superuser=True)
        # an app has its own pace: it does not write faster than the slot's limit allows anybody to read
        wait_until(lambda: _is_safe(migration), what="the slot is confirmed")

    assert spooled(migration) > 0
    gates.release()
    migration.wait_streaming()
    migration.finish()
    assert spooled(migration) == 0


def _is_safe(migration: Migration) -> bool:
    ((retained, status),) = migration.source.fetch(_RETAINED)
    assert status != "lost"
    return bool(retained < LIMIT - 2 * STEP)


@pytest.mark.fault("worker", "kill -9 while it spools, and while it applies the spool", "goes on where it was")
def test_a_worker_that_is_killed_spools_and_drains_each_change_once(
    source: Database, target: Database, gates: Gates, make_migration: MigrationMaker
) -> None:
    """Law 1: given that it is killed while it spools, and while it applies what was spooled."""
    migration = make_migration(source, target, spool="always")
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)
    for _ in range(2):
        before = spooled(migration)
        wait_until(lambda before=before: spooled(migration) > before + 3, what="chunks")  # type: ignore[misc]
        migration.worker.kill()
        migration.worker.start()
    gates.wait_reached(ROWS)
    status = json.loads(run_command(migration.settings, "status", "--json").stdout)
    assert status["spool"]["bytes"] > 0
    gates.release()
    wait_until(lambda: "applying what was spooled" in migration.worker.current_log, what="the drain")
    migration.worker.kill()

    migration.start()
    migration.assert_equal()

    assert migration.target.fetch("SELECT spooled FROM replicator.progress") == [(None,)]
    assert spooled(migration) == 0
    migration.finish()


@pytest.mark.fault("network", "is cut while a large transaction is spooled", "spools it whole, once")
def test_a_network_that_drops_in_the_middle_of_a_large_transaction(
    source: Database, target: Database, gates: Gates, make_migration: MigrationMaker, make_proxy: ProxyMaker
) -> None:
    """Law 2: its pieces are spooled whole or not at all."""
    to_source, to_target = make_proxy(source.server.port), make_proxy(target.server.port)
    urls = {"SOURCE_DATABASE_URL": to_source.dsn(source.dsn), "TARGET_DATABASE_URL": to_target.dsn(target.dsn)}
    migration = make_migration(source, target, spool="always", buffer_bytes=1024 * 1024, **urls)
    source.execute(_BULK)
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)
    source.execute(_WRITE, [3000])
    to_source.cut()
    to_target.cut()
    wait_until(lambda: spooled(migration) > 10, what="a spooled transaction")

    gates.release()
    migration.wait_streaming()

    migration.finish()
