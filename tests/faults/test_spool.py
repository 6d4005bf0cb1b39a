"""The copy takes long while the app writes on: the spool keeps the changes, so that the source need not (law 3)."""

import contextlib
import json
import random
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.fixtures.databases import Database, new_source
from tests.fixtures.gates import ROWS, Gates
from tests.fixtures.migration import Migration, MigrationMaker, add_ballast, differences
from tests.fixtures.proxy import ProxyMaker
from tests.fixtures.servers import SOURCE_MAJOR, ServerMaker
from tests.fixtures.waiting import wait_until
from tests.fixtures.worker import run_command, wait_caught_up

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
_END_STREAM = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
 WHERE database = current_database() AND active_pid IS NOT NULL AND NOT temporary
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


# --- while a large table is still being copied ------------------------------------------------------------------------

_TABLES = """
CREATE TABLE mark_a (n int PRIMARY KEY); INSERT INTO mark_a VALUES (0);
CREATE TABLE mark_b (id int PRIMARY KEY, n int); INSERT INTO mark_b VALUES (1, 0);
CREATE TABLE keyless (n int, body text);
CREATE TABLE toasted (id int PRIMARY KEY, body text, n int); ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
CREATE TABLE parted (id int, side int, n int, PRIMARY KEY (id, side)) PARTITION BY LIST (side);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
INSERT INTO toasted SELECT n, repeat(md5(n::text), 100), 0 FROM generate_series(1, 20) n;
INSERT INTO parted SELECT n, n % 2, 0 FROM generate_series(1, 20) n
"""
_WRITES = (
    "INSERT INTO keyless SELECT n % 3, 'x' FROM generate_series(1, 20) n",
    "UPDATE keyless SET body = body || 'y' WHERE n = 1 AND length(body) < 9",
    "DELETE FROM keyless WHERE n = 2",
    "UPDATE toasted SET n = n + 1",
    "UPDATE toasted SET body = repeat(md5(random()::text), 100) WHERE id % 5 = 0",
    "UPDATE parted SET side = 1 - side WHERE id % 3 = 0",
    "UPDATE parted SET n = n + 1",
    "UPDATE ballast SET body = md5(body) WHERE id < 50",
    "INSERT INTO ballast SELECT coalesce(max(id), 0) + 1, 'new' FROM ballast",
    "DELETE FROM ballast WHERE id IN (SELECT id FROM ballast ORDER BY id DESC LIMIT 2)",
    "CREATE TABLE IF NOT EXISTS later (id int PRIMARY KEY); INSERT INTO later SELECT count(*) FROM later",
)
_RARE = (
    "INSERT INTO keyless SELECT 3, repeat('z', 500) FROM generate_series(1, 4000)",
    "TRUNCATE keyless",
    "TRUNCATE keyless, ballast",
    "TRUNCATE parted; INSERT INTO parted SELECT n, n % 2, 0 FROM generate_series(1, 20) n",
)
"""A copy of a table that was truncated meanwhile begins anew."""
_EVERY = "UPDATE mark_a SET n = n + 1; UPDATE mark_b SET n = n + 1"
_MARKS = """
SELECT a.n, b.n, (SELECT count(*) FROM replicator.tables t
                   WHERE t.name IN ('mark_a', 'mark_b') AND t.state = 'ready'
                     AND NOT EXISTS (SELECT FROM replicator.spool s WHERE s.source_oid = t.source_oid)) = 2
  FROM mark_a a, mark_b b
"""


def marks(migration: Migration) -> int:
    """Law 2: tables that stream show the same commit. How many transactions they show, or 0."""
    for a, b, both_stream in migration.target.fetch(_MARKS):
        if both_stream:
            assert a == b
            return int(a)
    return 0


@contextlib.contextmanager
def writing(migration: Migration, seed: int) -> Iterator[threading.Event]:
    """An app that makes transactions of a few of these statements each, until the block ends."""
    stop, invent = threading.Event(), random.Random(seed)
    failures: list[Exception] = []

    def work() -> None:
        with psycopg.connect(migration.source.dsn, autocommit=True) as connection:
            while not stop.wait(0.03):
                chosen = invent.choices(_RARE if invent.random() < 0.03 else _WRITES, k=invent.randint(0, 3))
                try:
                    connection.execute("; ".join(["BEGIN", *chosen, _EVERY, "COMMIT"]).encode())
                except psycopg.Error as error:  # such as ALTER TABLE, which a copy that reads may make it wait for
                    failures.append(error)
                    connection.execute("ROLLBACK")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
        print(*failures, sep="\n")


@pytest.mark.fault("source", "ends the stream beside a copy, again and again", "goes on copying what it copied")
def test_a_stream_that_is_lost_beside_the_copy_costs_the_copy_nothing(
    source: Database, target: Database, gates: Gates, make_migration: MigrationMaker
) -> None:
    """Given a table under way, when the walsender of the slot ends, then the table is not copied from its beginning."""
    migration = make_migration(source, target, spool="always")
    add_ballast(source)
    gates.hold(ROWS)
    migration.worker.start()
    gates.wait_reached(ROWS)
    wait_until(lambda: spooled(migration) > 0, what="the spool is used")
    before = migration.tables()

    for _ in range(4):
        wait_until(lambda: source.fetch(_END_STREAM, superuser=True) != [], what="a stream to end")
    more = spooled(migration)
    wait_until(lambda: spooled(migration) > more, what="the spool goes on")
    assert "session lost" not in migration.worker.log

    gates.release()
    migration.wait_streaming()
    assert {name: lsn for name, (_, lsn) in migration.tables().items()} == {n: lsn for n, (_, lsn) in before.items()}
    migration.finish()


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 12))])
@pytest.mark.fault("worker", "kill -9 while ready tables stream and another is copied", "goes on where each table was")
def test_ready_tables_stream_while_another_is_copied_whenever_the_worker_is_killed(
    source: Database, target: Database, gates: Gates, make_migration: MigrationMaker, seed: int
) -> None:
    """Laws 1 and 2: given random transactions over tables that stream, and one that waits, with kills at any moment."""
    migration = make_migration(source, target, spool="always", buffer_bytes=1024 * 1024, confirm_delay=0)
    migration.app.stop()
    source.execute(_TABLES)
    add_ballast(source)
    invent = random.Random(seed)
    gates.hold("ballast")
    migration.worker.start()
    gates.wait_reached("ballast")
    with writing(migration, seed):
        for _ in range(invent.randint(1, 4)):
            shown = marks(migration) if "ready" in migration.worker.log else 0
            wait_until(lambda shown=shown: shows_more_than(migration, shown), what="ready tables stream")  # type: ignore[misc]
            assert migration.tables()["ballast"][0] != "ready"
            threading.Event().wait(invent.uniform(0, 0.5))
            migration.worker.kill()
            migration.worker.start()
        shown = marks(migration)
        wait_until(lambda: shows_more_than(migration, shown), what="ready tables stream")
        source.execute("ALTER TABLE toasted ADD late int DEFAULT 7; UPDATE toasted SET late = n")
        # a round that has just begun follows the deploy by itself
        known = ("the target refuses one", "added a column")
        wait_until(lambda: any(words in migration.worker.current_log for words in known), what="the new column met")
        gates.release()
        migration.wait_streaming()
    wait_caught_up(source, target, migration.worker)

    assert differences(source, target) == []
    assert target.fetch("SELECT spooled FROM replicator.progress") == [(None,)]
    assert spooled(migration) == 0


def shows_more_than(migration: Migration, before: int) -> bool:
    assert migration.worker.running
    try:
        return marks(migration) > before
    except psycopg.errors.UndefinedTable:
        return False
